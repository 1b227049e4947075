//! A member of a script: it answers its group, reads, and notes what it observes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::{LIMIT, Observed, Step};
use crate::group::partition::Partition;
use crate::kafka::{Client, Event, Fetched, Fetcher as _, StartOffset, TopicPartition};
use crate::observe::metrics::Metrics;

/// A member that answers its group, reads and notes.
pub(super) struct Member<C: Client> {
    pub(super) client: Arc<C>,
    fetcher: C::Fetcher,
    pub(super) topic: String,
    metrics: Metrics,
    owned: BTreeMap<i32, Arc<Partition>>,
    pub(super) is_silent: bool,
    unanswered: VecDeque<Event>,
    group: Vec<String>,
    commits: Vec<String>,
    read: BTreeMap<i32, Vec<Read>>,
}

/// What was read of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Record(i64),
    End(i64),
    Refused(Option<i64>),
    Error(rdkafka::error::RDKafkaErrorCode),
}

impl<C: Client> Member<C> {
    pub(super) fn new(client: Arc<C>, topic: &str, wake: &Arc<Notify>) -> Self {
        let wake = Arc::clone(wake);
        Self {
            fetcher: client.fetcher(move || wake.notify_one()),
            client,
            topic: topic.to_owned(),
            metrics: Metrics::new("", "conformance").expect("the series are well-formed"),
            owned: BTreeMap::new(),
            is_silent: false,
            unanswered: VecDeque::new(),
            group: Vec::new(),
            commits: Vec::new(),
            read: BTreeMap::new(),
        }
    }

    pub(super) async fn serve(&mut self) -> Result<(), String> {
        // Errors of the client as a whole depend on its connections.
        while self.client.poll(Duration::ZERO).more {}
        while let Some(event) = self.client.next_event() {
            match event {
                Event::Commit(outcomes) => {
                    let outcomes = outcomes.iter();
                    self.commits.extend(outcomes.map(|it| {
                        let offset = it.offset.unwrap_or(-1);
                        let result = it
                            .result
                            .map_or_else(|code| format!("{code:?}"), |()| "done".into());
                        format!("{}@{offset}: {result}", it.partition)
                    }));
                }
                Event::Assign(partitions) => {
                    self.group.push(format!("assigned {}", partitions.len()));
                    match self.is_silent {
                        true => self.unanswered.push_back(Event::Assign(partitions)),
                        false => self.assign(partitions).await?,
                    }
                }
                Event::Revoke { partitions, lost } => {
                    let how = if lost { "lost" } else { "revoked" };
                    self.group.push(format!("{how} {}", partitions.len()));
                    if self.is_silent {
                        self.unanswered
                            .push_back(Event::Revoke { partitions, lost });
                        continue;
                    }
                    self.owned
                        .retain(|number, _| !partitions.iter().any(|it| it.partition == *number));
                    self.client.unassign(&partitions)?;
                }
            }
        }
        self.read();
        Ok(())
    }

    async fn assign(&mut self, partitions: Vec<TopicPartition>) -> Result<(), String> {
        let found = match partitions.is_empty() {
            true => Vec::new(),
            false => {
                let found = self.client.committed(partitions, LIMIT).await;
                found.map_err(|error| error.to_string())?
            }
        };
        let mut starts = Vec::new();
        for committed in found {
            let (topic, number) = (&committed.partition.topic, committed.partition.partition);
            let owned = Partition::new(topic, number, 0, &self.metrics, Arc::default(), None);
            self.fetcher.attach(&owned);
            self.owned.insert(number, Arc::new(owned));
            starts.push(StartOffset {
                offset: Some(committed.offset.unwrap_or(0)),
                leader_epoch: committed.leader_epoch,
                partition: committed.partition,
            });
        }
        self.client.assign(&starts)
    }

    fn read(&mut self) {
        let (owned, read) = (&self.owned, &mut self.read);
        self.fetcher.read(
            1000,
            |handle, _| owned.get(&handle.partition).cloned(),
            |fetched| {
                let (partition, what) = match fetched {
                    Fetched::Record(record) => (record.partition(), Read::Record(record.offset())),
                    Fetched::End(partition, end) => (partition.number, Read::End(end)),
                    Fetched::OutOfRange(partition, refused) => {
                        (partition.number, Read::Refused(refused.position))
                    }
                    Fetched::Error(error) => {
                        (error.partition.unwrap_or(-1), Read::Error(error.code))
                    }
                };
                read.entry(partition).or_default().push(what);
            },
        );
    }

    pub(super) fn has_come(&self, step: Step) -> bool {
        let of = |partition: i32| self.read.get(&partition).into_iter().flatten();
        match step {
            Step::UntilAssigned(_, count) => {
                self.owned.len() == count && self.group.last().is_some_and(|it| it != "revoked 0")
            }
            Step::UntilRevoked(_) => {
                let mut group = self.group.iter();
                group.any(|it| !it.starts_with("assigned"))
            }
            Step::UntilRead(_, partition, offset) => {
                of(partition).any(|it| matches!(it, Read::Record(at) if *at >= offset))
            }
            Step::UntilEnd(_, partition, end) => of(partition).any(|it| *it == Read::End(end)),
            Step::UntilRefused(_, partition) => {
                of(partition).any(|it| matches!(it, Read::Refused(_)))
            }
            Step::UntilAnswered(_, count) => self.commits.len() >= count,
            _ => true,
        }
    }

    pub(super) fn tell(&self, number: usize, observed: &mut Observed) {
        observed.insert(format!("member {number}, group"), self.group.clone());
        observed.insert(format!("member {number}, commits"), self.commits.clone());
        for (partition, read) in &self.read {
            let read = read.iter().map(|it| format!("{it:?}"));
            let name = format!("member {number}, partition {partition}");
            observed.insert(name, read.collect());
        }
    }

    pub(super) async fn leave(self) {
        let Self {
            client, fetcher, ..
        } = self;
        client.answer_by_itself();
        drop(fetcher);
        client.leave().await;
    }
}
