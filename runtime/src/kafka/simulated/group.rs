//! Groups: what their coordinator stores, and the rules that both protocols share.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tokio::time::Instant;

use super::broker::{ClientId, Cluster};
use super::classic::ClassicGroup;
use super::consumer_group::ConsumerGroup;
use super::log::TransactionNumber;
use super::protocol::{CommitBatch, Request, Response};
use super::settings::{Fault, GroupProtocol};
use super::tenures::{Gone, Tenure};
use crate::kafka::seam::{Committed, TopicPartition};

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredOffset {
    pub(super) offset: i64,
    pub(super) leader_epoch: Option<i32>,
    pub(super) metadata: String,
}

/// A commit that the coordinator applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AppliedCommit {
    /// Since the cluster was created.
    pub(crate) at: Duration,
    pub(crate) member: String,
    /// The generation or, under KIP-848, the member's epoch.
    pub(crate) generation: i32,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) metadata: String,
    pub(crate) is_transactional: bool,
}

/// By whom a commit is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Committer {
    pub(super) member: String,
    pub(super) generation: i32,
}

#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) members: Members,
    pub(super) offsets: BTreeMap<TopicPartition, (StoredOffset, u64)>,
    /// Offsets of transactions that have not ended, numbered in their order among commits.
    pub(super) pending: BTreeMap<TransactionNumber, PendingOffsets>,
    pub(super) applied: Vec<AppliedCommit>,
    /// When a commit was refused, and of which client.
    pub(super) refused: Vec<(Duration, ClientId)>,
    pub(super) tenures: Vec<Tenure>,
    /// Until when the group has no coordinator.
    pub(super) unavailable_until: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct PendingOffsets {
    pub(super) committer: Committer,
    pub(super) offsets: BTreeMap<TopicPartition, (StoredOffset, u64)>,
}

/// The members, by the protocol that the group uses.
#[derive(Debug, Default)]
pub(super) enum Members {
    #[default]
    Unknown,
    Classic(ClassicGroup),
    Consumer(ConsumerGroup),
}

impl Group {
    pub(super) fn is_empty(&self) -> bool {
        match &self.members {
            Members::Unknown => true,
            Members::Classic(classic) => classic.is_empty(),
            Members::Consumer(consumer) => consumer.is_empty(),
        }
    }

    /// Returns `true` if a transaction that has not ended covers the partition.
    fn is_unstable(&self, partition: &TopicPartition) -> bool {
        let mut pending = self.pending.values();
        pending.any(|it| it.offsets.contains_key(partition))
    }

    /// Checks who commits, as `ClassicGroup.validateOffsetCommit` and
    /// `ConsumerGroup.validateOffsetCommit` do.
    pub(super) fn validate(
        &self,
        by: &Committer,
        is_transactional: bool,
    ) -> Result<(), RDKafkaErrorCode> {
        match &self.members {
            Members::Unknown if by.generation < 0 => Ok(()),
            Members::Unknown => Err(RDKafkaErrorCode::UnknownMemberId),
            Members::Classic(classic) => classic.validate(by, is_transactional),
            Members::Consumer(consumer) => {
                let validated = consumer.validate(by);
                match validated {
                    // `OffsetMetadataManager.validateTransactionalOffsetCommit`.
                    Err(RDKafkaErrorCode::StaleMemberEpoch) if is_transactional => {
                        Err(RDKafkaErrorCode::IllegalGeneration)
                    }
                    validated => validated,
                }
            }
        }
    }
}

impl Cluster {
    /// Serves a request at the coordinator of the client's group.
    pub(super) fn serve(&mut self, client: ClientId, request: Request) {
        let Some(group) = self.sessions.get(&client).map(|it| it.group.clone()) else {
            return;
        };
        if let Some(code) = self.no_coordinator(&group) {
            return self.refuse(client, request, code);
        }
        let protocol = self.sessions[&client].settings.protocol;
        let members = &mut self.groups.entry(group.clone()).or_default().members;
        if matches!(members, Members::Unknown) {
            *members = match protocol {
                GroupProtocol::Consumer => Members::Consumer(ConsumerGroup::default()),
                GroupProtocol::Eager | GroupProtocol::Cooperative => {
                    Members::Classic(ClassicGroup::default())
                }
            };
            self.watch_group(group.clone());
        }
        let is_of_members = matches!(
            request,
            Request::Join { .. }
                | Request::Sync { .. }
                | Request::Leave { .. }
                | Request::Beat { .. }
        );
        match request {
            Request::Join { member, owned } => self.classic_join(client, &group, member, owned),
            Request::Sync {
                member,
                generation,
                plan,
            } => self.classic_sync(client, &group, &member, generation, plan),
            Request::Heartbeat { member, generation } => {
                let answer = self.classic_heartbeat(&group, &member, generation);
                self.respond(client, Response::Heartbeat(answer));
            }
            Request::Leave { member } => {
                self.classic_leave(&group, &member);
                self.respond(client, Response::Left);
            }
            Request::Beat {
                member,
                epoch,
                is_full,
                owned,
            } => self.beat(client, &group, &member, epoch, is_full, owned),
            Request::Commit {
                member,
                generation,
                batch,
            } => {
                let by = Committer { member, generation };
                self.commit(client, &group, &by, batch);
            }
            Request::FetchOffsets {
                number,
                partitions,
                is_stable,
            } => {
                let found = self.fetch_offsets(&group, partitions, is_stable);
                self.respond(client, Response::FetchOffsets(number, found));
            }
        }
        if is_of_members {
            self.note_tenures(&group, Gone::Left);
        }
    }

    /// Returns why the group's coordinator answers nobody.
    pub(super) fn no_coordinator(&self, group: &str) -> Option<RDKafkaErrorCode> {
        if self.is_unreachable() {
            return Some(RDKafkaErrorCode::BrokerTransportFailure);
        }
        let until = self.groups.get(group)?.unavailable_until?;
        (Instant::now() < until).then_some(RDKafkaErrorCode::NotCoordinator)
    }

    fn refuse(&mut self, client: ClientId, request: Request, code: RDKafkaErrorCode) {
        let response = match request {
            Request::Join { .. } => Response::Join(Err(code)),
            Request::Sync { .. } => Response::Sync(Err(code)),
            Request::Heartbeat { .. } => Response::Heartbeat(Err(code)),
            Request::Leave { .. } => Response::Left,
            Request::Beat { epoch: -1, .. } => Response::Left,
            Request::Beat { .. } => Response::Beat(Err(code)),
            Request::Commit { batch, .. } => Response::Commit(batch, Err(code)),
            Request::FetchOffsets { number, .. } => Response::FetchOffsets(number, Err(code)),
        };
        self.respond(client, response);
    }

    fn commit(&mut self, client: ClientId, group: &str, by: &Committer, batch: CommitBatch) {
        let refused = self.take_fault(|fault| match fault {
            Fault::CommitRefused(code, times) => Some((*code, times)),
            _ => None,
        });
        if let Some(code) = refused {
            self.note(format_args!(
                "{group}: commit of {} refused: {code:?}",
                by.member
            ));
            return self.respond(client, Response::Commit(batch, Err(code)));
        }
        let times_out = self.take_fault_once(|fault| match fault {
            Fault::CommitTimesOut { applied } => Some(*applied),
            _ => None,
        });
        match times_out {
            None => {
                let result = self.apply(group, by, &batch);
                if result.is_err() {
                    let refused = (self.elapsed(), client);
                    let group = self.groups.entry(group.to_owned()).or_default();
                    group.refused.push(refused);
                }
                self.respond(client, Response::Commit(batch, result));
            }
            Some(applied) => {
                if applied {
                    // Nobody hears how that went.
                    let _ = self.apply(group, by, &batch);
                }
                self.unmute(client);
                let timeout = self.settings.request_timeout;
                let result = Err(RDKafkaErrorCode::OperationTimedOut);
                let response = Response::Commit(batch, result);
                self.client_timer(client, timeout, move |cluster| {
                    cluster.answered(client, response);
                });
            }
        }
    }

    fn apply(
        &mut self,
        group: &str,
        by: &Committer,
        batch: &CommitBatch,
    ) -> Result<(), RDKafkaErrorCode> {
        let validated = self.validate_commit(group, by, &batch.offsets, false);
        if let Err(code) = validated {
            self.note(format_args!("{group}: commit of {by:?} refused: {code:?}"));
            return Err(code);
        }
        self.extend_session(group, &by.member);
        for (partition, stored) in &batch.offsets {
            let number = self.number();
            self.store(group, by, partition, (stored.clone(), number), false);
        }
        Ok(())
    }

    /// Checks a commit before anything of it is stored.
    pub(super) fn validate_commit(
        &mut self,
        group: &str,
        by: &Committer,
        offsets: &[(TopicPartition, StoredOffset)],
        is_transactional: bool,
    ) -> Result<(), RDKafkaErrorCode> {
        self.groups
            .entry(group.to_owned())
            .or_default()
            .validate(by, is_transactional)?;
        for (partition, stored) in offsets {
            if self.log(partition).is_none() {
                return Err(RDKafkaErrorCode::UnknownTopicOrPartition);
            }
            if stored.metadata.len() > self.settings.metadata_limit {
                return Err(RDKafkaErrorCode::OffsetMetadataTooLarge);
            }
        }
        Ok(())
    }

    /// Stores a committed offset, unless one that was committed later is stored.
    pub(super) fn store(
        &mut self,
        group: &str,
        by: &Committer,
        partition: &TopicPartition,
        (stored, number): (StoredOffset, u64),
        is_transactional: bool,
    ) {
        let at = self.elapsed();
        self.note(format_args!(
            "{group}: {} commits {partition} {} {:?} by {}, epoch {:?}",
            by.member, stored.offset, stored.metadata, by.generation, stored.leader_epoch
        ));
        let group = self.groups.entry(group.to_owned()).or_default();
        let earlier = group.offsets.get(partition);
        if earlier.is_some_and(|(_, earlier)| *earlier > number) {
            return;
        }
        group.applied.push(AppliedCommit {
            at,
            member: by.member.clone(),
            generation: by.generation,
            topic: partition.topic.clone(),
            partition: partition.partition,
            offset: stored.offset,
            metadata: stored.metadata.clone(),
            is_transactional,
        });
        group.offsets.insert(partition.clone(), (stored, number));
    }

    fn fetch_offsets(
        &mut self,
        group: &str,
        partitions: Vec<TopicPartition>,
        is_stable: bool,
    ) -> Result<Vec<Committed>, RDKafkaErrorCode> {
        let group = self.groups.entry(group.to_owned()).or_default();
        if is_stable && partitions.iter().any(|it| group.is_unstable(it)) {
            return Err(RDKafkaErrorCode::UnstableOffsetCommit);
        }
        let found = partitions.into_iter().map(|partition| {
            let stored = group.offsets.get(&partition).map(|(stored, _)| stored);
            Committed {
                offset: stored.map(|it| it.offset),
                leader_epoch: stored.and_then(|it| it.leader_epoch),
                metadata: stored
                    .map(|it| it.metadata.clone().into_bytes())
                    .unwrap_or_default(),
                partition,
            }
        });
        Ok(found.collect())
    }

    fn extend_session(&mut self, group: &str, member: &str) {
        if let Some(Members::Classic(classic)) =
            self.groups.get_mut(group).map(|it| &mut it.members)
        {
            classic.extend_session(member);
        }
    }

    /// Looks periodically for sessions and rebalances that have timed out.
    fn watch_group(&mut self, group: String) {
        const INTERVAL: Duration = Duration::from_millis(250);
        self.after(INTERVAL, move |cluster| {
            match cluster.groups.get(&group).map(|it| &it.members) {
                Some(Members::Classic(_)) => cluster.classic_tick(&group),
                Some(Members::Consumer(_)) => cluster.consumer_tick(&group),
                Some(Members::Unknown) | None => {}
            }
            cluster.note_tenures(&group, Gone::Evicted);
            cluster.watch_group(group);
        });
    }
}
