//! Fetching: what the broker answers, and what the client makes of it. After
//! `rdkafka_fetcher.c` and `rdkafka_offset.c` of librdkafka 2.12.

use rdkafka::error::RDKafkaErrorCode;
use tokio::time::Instant;

use super::broker::{ClientId, Cluster};
use super::fetcher::{FetchState, Item, What};
use super::log::{Batch, ParkedFetch, Position};
use super::settings::Fault;
use crate::kafka::seam::{Edge, OutOfRange, TopicPartition};

/// A fetch on its way to the broker.
#[derive(Debug, Clone)]
struct FetchRequest {
    partition: TopicPartition,
    position: i64,
    version: u64,
    topic: u64,
    leader_epoch: i32,
    reported_end: Option<i64>,
}

struct FetchAnswer {
    batch: Batch,
    high_watermark: i64,
    readable_end: i64,
}

impl Cluster {
    /// Sends a fetch for a partition, unless one is on its way or it is not to be fetched.
    pub(super) fn fetch(&mut self, client: ClientId, partition: &TopicPartition) {
        let latency = self.latency();
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let queued_messages = session.settings.queued_messages;
        let Some(toppar) = session.toppars.get_mut(partition) else {
            return;
        };
        let may = toppar.state == FetchState::Active
            && !toppar.is_paused
            && !toppar.is_held
            && !toppar.is_in_flight
            && toppar.queued < queued_messages;
        if !may {
            return;
        }
        if toppar.is_to_validate {
            // A pause has dropped the answer; in `VALIDATE_EPOCH_WAIT` nothing is fetched.
            return self.validate_position(client, partition);
        }
        toppar.is_in_flight = true;
        let request = FetchRequest {
            partition: partition.clone(),
            position: toppar.position.offset,
            version: toppar.version,
            topic: toppar.topic,
            leader_epoch: toppar.leader_epoch,
            reported_end: toppar.reported_end,
        };
        self.after(latency, move |cluster| {
            cluster.serve_fetch(client, request, None)
        });
    }

    /// Serves a fetch at the partition's leader; `again` once the log has changed (`true`)
    /// or the wait is over (`false`).
    fn serve_fetch(&mut self, client: ClientId, request: FetchRequest, again: Option<bool>) {
        let FetchRequest {
            partition, version, ..
        } = request.clone();
        let answer = match self.answer_fetch(client, &request) {
            Ok(answer) => answer,
            Err(code) => {
                return self.reply_to(client, move |cluster| {
                    cluster.fetch_failed(client, &partition, version, code);
                });
            }
        };
        let has_news = !answer.batch.records.is_empty()
            || answer.batch.next.offset != request.position
            || again == Some(false);
        if has_news {
            return self.reply_to(client, move |cluster| {
                cluster.fetched(client, &partition, version, answer);
            });
        }
        // The answer tells of the end, or of another end, after the longest wait.
        let is_awaited = request.reported_end != Some(answer.readable_end) || again == Some(true);
        self.park(client, request, is_awaited);
    }

    fn answer_fetch(
        &mut self,
        client: ClientId,
        request: &FetchRequest,
    ) -> Result<FetchAnswer, RDKafkaErrorCode> {
        if self.is_unreachable() {
            return Err(RDKafkaErrorCode::BrokerTransportFailure);
        }
        let fault = self.take_fault(|fault| match fault {
            Fault::FetchError(code, times) => Some((*code, times)),
            _ => None,
        });
        if let Some(code) = fault {
            return Err(code);
        }
        let session = self
            .sessions
            .get(&client)
            .ok_or(RDKafkaErrorCode::BrokerDestroy)?;
        let settings = session.settings.clone();
        let topic = self
            .topics
            .get(&request.partition.topic)
            .map(|topic| topic.id);
        let log = self.log(&request.partition);
        let log = log.ok_or(RDKafkaErrorCode::UnknownTopicOrPartition)?;
        let now = Instant::now();
        if log.leaderless_until.is_some_and(|until| now < until) {
            return Err(RDKafkaErrorCode::NotLeaderForPartition);
        }
        if topic != Some(request.topic) || log.epoch != request.leader_epoch {
            return Err(RDKafkaErrorCode::FencedLeaderEpoch);
        }
        if request.position < log.start || request.position > log.end {
            return Err(RDKafkaErrorCode::OffsetOutOfRange);
        }
        let isolation = settings.isolation;
        let (messages, bytes) = (settings.fetch_messages, settings.fetch_bytes);
        Ok(FetchAnswer {
            batch: log.read(request.position, isolation, messages, bytes),
            high_watermark: log.end,
            readable_end: log.readable_end(isolation),
        })
    }

    fn park(&mut self, client: ClientId, request: FetchRequest, is_awaited: bool) {
        let (number, wait) = (self.number(), self.settings.fetch_wait);
        let partition = request.partition.clone();
        let parked = ParkedFetch {
            client,
            number,
            position: request.position,
            version: request.version,
            topic: request.topic,
            leader_epoch: request.leader_epoch,
            reported_end: request.reported_end,
        };
        if let Some(log) = self.log(&partition) {
            log.parked.push(parked);
        }
        if is_awaited {
            self.after(wait, move |cluster| {
                let Some(log) = cluster.log(&partition) else {
                    return;
                };
                let place = log.parked.iter().position(|it| it.number == number);
                if let Some(place) = place {
                    log.parked.remove(place);
                    cluster.serve_fetch(client, request, Some(false));
                }
            });
        }
    }

    /// A log has changed: fetches that wait for that are looked at again.
    pub(super) fn wake_fetches(&mut self, partition: &TopicPartition) {
        let parked = match self.log(partition) {
            Some(log) => std::mem::take(&mut log.parked),
            None => Vec::new(),
        };
        self.serve_parked(partition, parked);
    }

    /// Serves fetches that waited, perhaps at a log that is gone.
    pub(super) fn serve_parked(&mut self, partition: &TopicPartition, parked: Vec<ParkedFetch>) {
        for fetch in parked {
            let request = FetchRequest {
                partition: partition.clone(),
                position: fetch.position,
                version: fetch.version,
                topic: fetch.topic,
                leader_epoch: fetch.leader_epoch,
                reported_end: fetch.reported_end,
            };
            self.serve_fetch(fetch.client, request, Some(true));
        }
    }

    /// Takes a fetch's answer (`rd_kafka_fetch_reply_handle_partition`).
    fn fetched(
        &mut self,
        client: ClientId,
        partition: &TopicPartition,
        version: u64,
        answer: FetchAnswer,
    ) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let toppar = session.toppars.get_mut(partition);
        let Some(toppar) = toppar.filter(|it| it.version == version) else {
            return;
        };
        toppar.is_in_flight = false;
        session
            .watermarks
            .insert(partition.clone(), answer.high_watermark);
        let end = answer.readable_end;
        let mut items = Vec::new();
        let item = |what| Item {
            partition: partition.clone(),
            version,
            what,
        };
        if end == toppar.position.offset && toppar.reported_end != Some(end) {
            toppar.reported_end = Some(end);
            if session.settings.reports_ends {
                items.push(item(What::End(end)));
            }
        } else {
            let epoch = answer.batch.next.epoch.or(toppar.position.epoch);
            toppar.position = Position {
                offset: answer.batch.next.offset,
                epoch,
            };
            toppar.queued += answer.batch.records.len();
            items.extend(
                answer
                    .batch
                    .records
                    .into_iter()
                    .map(|it| item(What::Record(it))),
            );
        }
        session.enqueue(partition, items);
        self.fetch(client, partition);
    }

    /// `rd_kafka_fetch_reply_handle_partition_error`.
    fn fetch_failed(
        &mut self,
        client: ClientId,
        partition: &TopicPartition,
        version: u64,
        code: RDKafkaErrorCode,
    ) {
        let backoff = self.settings.retry_backoff;
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let toppar = session.toppars.get_mut(partition);
        let Some(toppar) = toppar.filter(|it| it.version == version) else {
            return;
        };
        let offset = toppar.position.offset;
        self.note(format_args!(
            "client {client}: fetching {partition} at {offset} failed: {code:?}"
        ));
        let partition = partition.clone();
        match code {
            RDKafkaErrorCode::OffsetOutOfRange => {
                self.reset_position(client, &partition, at(offset));
            }
            // Mended by itself, with new metadata.
            RDKafkaErrorCode::NotLeaderForPartition
            | RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::FencedLeaderEpoch
            | RDKafkaErrorCode::UnknownLeaderEpoch
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::ReplicaNotAvailable
            | RDKafkaErrorCode::KafkaStorageError
            | RDKafkaErrorCode::OffsetNotAvailable
            | RDKafkaErrorCode::BrokerNotAvailable
            | RDKafkaErrorCode::BrokerTransportFailure => {
                self.client_timer(client, backoff, move |cluster| {
                    cluster.validate_version(client, &partition, version);
                });
            }
            code => {
                if let Some(session) = self.sessions.get_mut(&client) {
                    let text = format!("Fetch from broker 1 failed at offset {offset}: {code}");
                    session.enqueue_error(&partition, version, (code, text, offset));
                }
                self.client_timer(client, backoff, move |cluster| {
                    cluster.validate_version(client, &partition, version);
                });
            }
        }
    }

    /// Learns of the partition's leader, and checks whether the log still has what was read
    /// up to the position (`rd_kafka_offset_validate`, KIP-320).
    pub(super) fn validate_position(&mut self, client: ClientId, partition: &TopicPartition) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if let Some(toppar) = session.toppars.get_mut(partition) {
            toppar.is_in_flight = true;
            toppar.is_to_validate = true;
            let version = toppar.version;
            self.validate_version(client, partition, version);
        }
    }

    fn validate_version(&mut self, client: ClientId, partition: &TopicPartition, version: u64) {
        let latency = self.latency();
        let Some(session) = self.sessions.get(&client) else {
            return;
        };
        let toppar = session.toppars.get(partition);
        let Some(toppar) = toppar.filter(|it| it.version == version) else {
            return;
        };
        let epoch = toppar.position.epoch;
        let partition = partition.clone();
        self.after(latency, move |cluster| {
            let is_unreachable = cluster.is_unreachable();
            let topic = cluster.topics.get(&partition.topic).map(|topic| topic.id);
            let now = Instant::now();
            let log = cluster.log(&partition).filter(|log| {
                !is_unreachable && log.leaderless_until.is_none_or(|until| until <= now)
            });
            let found = log.zip(topic).map(|(log, topic)| {
                let end = epoch.map(|epoch| log.end_of_epoch(epoch));
                (topic, log.epoch, end)
            });
            cluster.reply_to(client, move |cluster| {
                cluster.validated(client, &partition, version, found);
            });
        });
    }

    fn validated(
        &mut self,
        client: ClientId,
        partition: &TopicPartition,
        version: u64,
        found: Option<(u64, i32, Option<Option<i64>>)>,
    ) {
        let backoff = self.settings.retry_backoff;
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let toppar = session.toppars.get_mut(partition);
        let Some(toppar) = toppar.filter(|it| it.version == version) else {
            return;
        };
        let Some((topic, leader_epoch, end)) = found else {
            let partition = partition.clone();
            return self.client_timer(client, backoff, move |cluster| {
                cluster.validate_version(client, &partition, version);
            });
        };
        toppar.topic = topic;
        toppar.leader_epoch = leader_epoch;
        toppar.is_in_flight = false;
        toppar.is_to_validate = false;
        let position = toppar.position.offset;
        match end {
            // `rd_kafka_toppar_handle_OffsetForLeaderEpoch`: the position is not told, and
            // where the log departs is.
            Some(Some(end)) if end < position => {
                let departed = OutOfRange {
                    position: None,
                    departs_at: Some(end),
                };
                self.reset_position(client, partition, departed);
            }
            // The broker knows no such epoch.
            Some(None) => self.reset_position(client, partition, at(position)),
            Some(Some(_)) | None => self.fetch(client, partition),
        }
    }

    /// `rd_kafka_offset_reset`.
    pub(super) fn reset_position(
        &mut self,
        client: ClientId,
        partition: &TopicPartition,
        refused: OutOfRange,
    ) {
        let latency = self.latency();
        self.note(format_args!(
            "client {client}: {partition} is refused: {refused:?}"
        ));
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let (edge, isolation) = (
            session.settings.auto_offset_reset,
            session.settings.isolation,
        );
        let Some(toppar) = session.toppars.get_mut(partition) else {
            return;
        };
        toppar.is_in_flight = false;
        let version = toppar.version;
        let Some(edge) = edge else {
            toppar.state = FetchState::Stopped;
            let item = Item {
                partition: partition.clone(),
                version: 0,
                what: What::Refused(refused),
            };
            return session.enqueue(partition, vec![item]);
        };
        toppar.state = FetchState::Looking;
        let partition = partition.clone();
        self.after(latency, move |cluster| {
            let is_unreachable = cluster.is_unreachable();
            let log = cluster.log(&partition).filter(|_| !is_unreachable);
            let found = log.map(|log| match edge {
                Edge::Start => log.start,
                Edge::End => log.readable_end(isolation),
            });
            cluster.reply_to(client, move |cluster| match found {
                Some(offset) => cluster.reset_to(client, &partition, version, offset),
                None => cluster.reset_position(client, &partition, refused),
            });
        });
    }

    fn reset_to(
        &mut self,
        client: ClientId,
        partition: &TopicPartition,
        version: u64,
        offset: i64,
    ) {
        self.note(format_args!(
            "client {client}: {partition} is reset to {offset}"
        ));
        let topic = self
            .topics
            .get(&partition.topic)
            .map_or(0, |topic| topic.id);
        let leader_epoch = self.log(partition).map_or(0, |log| log.epoch);
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let toppar = session.toppars.get_mut(partition);
        if let Some(toppar) = toppar.filter(|it| it.version == version) {
            toppar.topic = topic;
            toppar.leader_epoch = leader_epoch;
            toppar.state = FetchState::Active;
            toppar.position = Position {
                offset,
                epoch: None,
            };
            toppar.restart = toppar.position;
            self.fetch(client, partition);
        }
    }
}

/// A refusal that names the position.
fn at(position: i64) -> OutOfRange {
    OutOfRange {
        position: Some(position),
        departs_at: None,
    }
}
