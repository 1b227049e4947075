//! The configuration of a consumer's librdkafka client, layer upon layer.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::spec::{Commit, OffsetReset};
use crate::validate::{ConsumeMode, Endpoint, Transport, ValidatedConsumer};

use super::connection::{self, SecretError, SecretRef, Setting};
use super::properties::{self, Scope};

/// The maximum time that the coordinator keeps the transaction of a dead process open.
/// Other consumers that are assigned its partitions, and readers of its records, wait
/// that long.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Properties and values, in the order in which they are given to librdkafka.
pub type Layer = Vec<(String, String)>;

/// Messages fetched ahead, in KiB. librdkafka's own default is 64 MiB, which
/// alone would take a consumer with slow handlers above 80 MB; an eighth of it
/// still feeds fast ones.
const QUEUED_KBYTES: &str = "8192";

/// The same before a handler that receives batches in another process. Each batch is in
/// memory twice, as messages and in its encoded form, and half of the above still keeps
/// such a handler busy.
const QUEUED_KBYTES_FOR_BATCHES: &str = "4096";

/// The pause of librdkafka's fetches once that much is waiting, in milliseconds. Its
/// default, a second, leaves fast handlers idle for most of a backlog.
const FETCH_BACKOFF_MS: &str = "10";

/// A consumer's configuration: memory, base, connection, mode and the user's own
/// properties. A later value wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerConfig {
    memory: Layer,
    base: Layer,
    connection: Vec<Setting>,
    mode: Layer,
    user: Layer,
}

/// The configuration that follows from a consumer.
pub fn consumer_config(consumer: &ValidatedConsumer) -> ConsumerConfig {
    let user: Layer = consumer
        .kafka
        .config
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    ConsumerConfig {
        memory: memory(&consumer.endpoint),
        base: base(consumer),
        connection: connection::settings(&consumer.kafka),
        mode: mode(consumer),
        user,
    }
}

impl ConsumerConfig {
    /// Returns the properties that limit the memory. Penstock adds them; the other layers
    /// are those of baseplate.
    pub fn memory(&self) -> &[(String, String)] {
        &self.memory
    }

    /// Brokers, group and where a group without an offset begins.
    pub fn base(&self) -> &[(String, String)] {
        &self.base
    }

    /// Encryption and authentication, with Secrets by reference.
    pub fn connection(&self) -> &[Setting] {
        &self.connection
    }

    /// Timeouts and commits, as the mode needs them.
    pub fn mode(&self) -> &[(String, String)] {
        &self.mode
    }

    /// `spec.kafka.config`, to the letter.
    pub fn user(&self) -> &[(String, String)] {
        &self.user
    }

    /// The entries of Secrets that a client needs.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        self.connection.iter().flat_map(Setting::secrets)
    }

    /// The consumer's properties, with Secrets from `{secrets_dir}/{name}/{key}`.
    ///
    /// # Errors
    /// When an entry is missing, unreadable or empty.
    pub fn resolve(&self, secrets_dir: &Path) -> Result<BTreeMap<String, String>, SecretError> {
        let connection = self.connection_from_directory(secrets_dir)?;
        Ok(merge([
            self.memory.clone(),
            self.base.clone(),
            connection,
            self.mode.clone(),
            self.user.clone(),
        ]))
    }

    /// The properties for a producer or an admin client at the same brokers: the
    /// brokers, the connection, and those of the user's properties that are not
    /// for consumers only.
    ///
    /// # Errors
    /// When an entry is missing, unreadable or empty.
    pub fn resolve_client(
        &self,
        secrets_dir: &Path,
    ) -> Result<BTreeMap<String, String>, SecretError> {
        Ok(self.client(self.connection_from_directory(secrets_dir)?))
    }

    /// As [`Self::resolve_client`], with entries from `lookup` instead of files:
    /// for the operator, which has no Secrets mounted.
    ///
    /// # Errors
    /// When `lookup` does not have an entry.
    pub fn resolve_client_with(
        &self,
        mut lookup: impl FnMut(&SecretRef) -> Option<String>,
    ) -> Result<BTreeMap<String, String>, SecretError> {
        let connection = self
            .connection
            .iter()
            .map(|setting| setting.look_up(&mut lookup))
            .collect::<Result<Layer, _>>()?;
        Ok(self.client(connection))
    }

    fn connection_from_directory(&self, secrets_dir: &Path) -> Result<Layer, SecretError> {
        self.connection
            .iter()
            .map(|setting| setting.read_from(secrets_dir))
            .collect()
    }

    fn client(&self, connection: Layer) -> BTreeMap<String, String> {
        let brokers = self
            .base
            .iter()
            .filter(|(name, _)| name == BOOTSTRAP_SERVERS)
            .cloned()
            .collect();
        let shared = self
            .user
            .iter()
            .filter(|(name, _)| {
                properties::find(name).is_some_and(|property| property.scope == Scope::Any)
            })
            .cloned()
            .collect();
        merge([brokers, connection, shared])
    }
}

const BOOTSTRAP_SERVERS: &str = "bootstrap.servers";

fn memory(endpoint: &Endpoint) -> Layer {
    let queued = match endpoint {
        Endpoint::Remote {
            transport: Transport::BatchHttp | Transport::Grpc,
            ..
        } => QUEUED_KBYTES_FOR_BATCHES,
        Endpoint::Embedded
        | Endpoint::Remote {
            transport: Transport::Http,
            ..
        } => QUEUED_KBYTES,
    };
    layer(&[
        ("queued.max.messages.kbytes", queued),
        ("fetch.queue.backoff.ms", FETCH_BACKOFF_MS),
    ])
}

fn base(consumer: &ValidatedConsumer) -> Layer {
    let reset = match consumer.offset_reset {
        OffsetReset::Latest => "latest",
        OffsetReset::Earliest => "earliest",
        OffsetReset::Fail => "error",
    };
    let servers: Vec<&str> = consumer
        .kafka
        .bootstrap_servers
        .split(',')
        .map(str::trim)
        .collect();
    layer(&[
        (BOOTSTRAP_SERVERS, &servers.join(",")),
        ("group.id", consumer.group.as_str()),
        ("auto.offset.reset", reset),
    ])
}

fn mode(consumer: &ValidatedConsumer) -> Layer {
    let mut properties = Vec::new();
    // With group.protocol=consumer the broker decides both, and librdkafka
    // refuses to be told.
    if !is_consumer_protocol(&consumer.kafka.config) {
        properties.extend([
            ("heartbeat.interval.ms", "3000"),
            ("session.timeout.ms", "10000"),
        ]);
    }
    properties.push(("max.poll.interval.ms", "300000"));
    match (consumer.commit, consumer.mode) {
        (Commit::Read, _) => properties.extend([
            ("enable.auto.commit", "true"),
            ("auto.commit.interval.ms", "5000"),
            ("enable.auto.offset.store", "true"),
        ]),
        (Commit::Handled, ConsumeMode::InOrder) => properties.push(("enable.auto.commit", "false")),
        // The runtime commits at this interval, not librdkafka, which would miss a change
        // of the metadata while the offset stays the same.
        (Commit::Handled, ConsumeMode::KeyOrdered { .. } | ConsumeMode::Fast { .. }) => properties
            .extend([
                ("enable.auto.commit", "false"),
                ("auto.commit.interval.ms", "5000"),
                ("enable.auto.offset.store", "false"),
            ]),
        // The new owner of a partition must wait for an open transaction: librdkafka
        // requests that if it reads committed messages only.
        (Commit::Transactional, _) => properties.extend([
            ("enable.auto.commit", "false"),
            ("auto.commit.interval.ms", "100"),
            ("enable.auto.offset.store", "false"),
            ("isolation.level", "read_committed"),
        ]),
    }
    layer(&properties)
}

/// Returns `true` if the properties choose the group protocol of KIP-848.
pub(crate) fn is_consumer_protocol(config: &BTreeMap<String, String>) -> bool {
    config
        .get("group.protocol")
        .is_some_and(|protocol| protocol.eq_ignore_ascii_case("consumer"))
}

fn layer(properties: &[(&str, &str)]) -> Layer {
    properties
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn merge<const N: usize>(layers: [Layer; N]) -> BTreeMap<String, String> {
    layers.into_iter().flatten().collect()
}
