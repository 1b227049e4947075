//! What an administrator and third-party producers do to the cluster.

use tokio::time::Instant;

use super::broker::Cluster;
use super::group::{Committer, Group, Members, StoredOffset};
use super::log::Topic;
use super::settings::Produce;
use crate::kafka::seam::TopicPartition;

/// The transactional id of the third-party producer.
const FOREIGN: &str = "third-party";

/// Longer than any run: a transaction that nobody ends stays open.
const FOREIGN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1 << 24);

impl Cluster {
    /// Has the clients that read a topic notice its partitions, each at its time.
    pub(super) fn announce_change(&mut self, topic: &str) {
        let longest = self.settings.metadata_refresh;
        let sessions = self.sessions.iter();
        let readers = sessions.filter(|(_, it)| it.settings.topics.iter().any(|it| it == topic));
        let readers: Vec<_> = readers.map(|(client, _)| *client).collect();
        for client in readers {
            let delay = self.between(std::time::Duration::ZERO, longest);
            self.client_timer(client, delay, move |cluster| cluster.topics_changed(client));
        }
    }

    /// Deletes a topic and creates another of the same name, whose id it returns.
    pub(super) fn recreate(&mut self, name: &str, partitions: usize) -> u64 {
        let id = self.number();
        let kind = self
            .topics
            .get(name)
            .map(|topic| topic.kind)
            .unwrap_or_default();
        let topic = Topic::new(id, partitions, kind);
        let before = self.topics.insert(name.to_owned(), topic);
        // `GroupCoordinator.onPartitionsDeleted`.
        for group in self.groups.values_mut() {
            group.offsets.retain(|partition, _| partition.topic != name);
            for pending in group.pending.values_mut() {
                pending
                    .offsets
                    .retain(|partition, _| partition.topic != name);
            }
        }
        self.note(format_args!(
            "{name} is created again with {partitions} partitions"
        ));
        let logs = before.into_iter().flat_map(|topic| topic.partitions);
        for (partition, log) in (0..).zip(logs) {
            let partition = TopicPartition {
                topic: name.to_owned(),
                partition,
            };
            self.serve_parked(&partition, log.parked);
        }
        self.announce_change(name);
        id
    }

    pub(super) fn move_coordinator(&mut self, name: &str) {
        let load = self.settings.coordinator_load;
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        group.unavailable_until = Some(Instant::now() + load);
        let is_consumer = matches!(group.members, Members::Consumer(_));
        self.note(format_args!("{name}: the coordinator moves"));
        match is_consumer {
            true => self.consumer_move(name),
            false => self.classic_move(name),
        }
    }

    pub(super) fn reset_offset(&mut self, name: &str, partition: &TopicPartition, to: i64) {
        let group = self.groups.get(name);
        let is_stopped = group.is_none_or(Group::is_empty);
        assert!(
            is_stopped,
            "the group {name} has members: its offsets can't be reset"
        );
        let by = Committer {
            member: "administrator".into(),
            generation: -1,
        };
        let stored = StoredOffset {
            offset: to,
            leader_epoch: None,
            metadata: String::new(),
        };
        let number = self.number();
        self.store(name, &by, partition, (stored, number), false);
    }

    /// Appends a record to the third party's transaction. Returns its offset.
    ///
    /// # Panics
    ///
    /// Panics if there is no such partition.
    pub(super) fn produce_foreign(&mut self, partition: &TopicPartition, record: Produce) -> i64 {
        let known = self.producers.get(FOREIGN).map(|producer| producer.epoch);
        let identity = match known {
            Some(epoch) => super::producers::ProducerIdentity {
                id: FOREIGN.into(),
                epoch,
            },
            None => self.init_producer(FOREIGN),
        };
        let produced = self.produce_in_transaction(&identity, FOREIGN_TIMEOUT, partition, record);
        match produced {
            Ok(offset) => offset,
            Err(code) => panic!("no record can be written to {partition}: {code}"),
        }
    }

    pub(super) fn end_foreign_transaction(&mut self, commits: bool) {
        if let Some(producer) = self.producers.get(FOREIGN) {
            let identity = super::producers::ProducerIdentity {
                id: FOREIGN.into(),
                epoch: producer.epoch,
            };
            // It can't be fenced: nobody else has this id.
            let _ = self.end_transaction(&identity, commits);
        }
    }
}
