//! The configuration of the operator's own Kafka clients.
//!
//! A tenant writes a manifest, and the operator connects with its settings. So a client takes from
//! a manifest only the properties of [`ALLOWED`], without which it could not connect. All other
//! properties are fixed here. [`client_config`] is the only place that configures a client.

use std::collections::BTreeMap;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

/// The properties that a manifest decides.
const ALLOWED: [&str; 15] = [
    BOOTSTRAP_SERVERS,
    "broker.address.family",
    "client.id",
    "enable.ssl.certificate.verification",
    "sasl.mechanism",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "ssl.ca.pem",
    "ssl.certificate.pem",
    "ssl.cipher.suites",
    "ssl.curves.list",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.pem",
    "ssl.sigalgs.list",
];

const BOOTSTRAP_SERVERS: &str = "bootstrap.servers";

/// The maximum number of bootstrap brokers: librdkafka starts a thread for each.
const MAX_BOOTSTRAP_SERVERS: usize = 8;

/// Limits of every client, whatever the manifest contains.
const FIXED: [(&str, &str); 21] = [
    ("allow.auto.create.topics", "false"),
    ("api.version.request.timeout.ms", "5000"),
    // Nothing is fetched, but librdkafka compares the limit of an answer with these.
    ("fetch.max.bytes", "65536"),
    ("fetch.message.max.bytes", "65536"),
    ("max.in.flight", "16"),
    ("message.max.bytes", "65536"),
    ("queued.max.messages.kbytes", "64"),
    ("queued.min.messages", "1"),
    // The limit of a broker's answer. One topic with ten thousand partitions fits.
    ("receive.message.max.bytes", "524288"),
    ("enable.auto.commit", "false"),
    ("enable.metrics.push", "false"),
    ("log.connection.close", "false"),
    ("metadata.max.age.ms", "900000"),
    ("reconnect.backoff.max.ms", "2000"),
    ("reconnect.backoff.ms", "250"),
    ("socket.connection.setup.timeout.ms", "10000"),
    ("socket.keepalive.enable", "false"),
    ("socket.max.fails", "1"),
    ("socket.timeout.ms", "10000"),
    ("statistics.interval.ms", "0"),
    ("topic.metadata.refresh.interval.ms", "-1"),
];

/// The messages that a client reads, which determine the end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Messages before the first open transaction.
    Committed,
    /// All messages.
    Uncommitted,
}

impl Isolation {
    fn name(self) -> &'static str {
        match self {
            Self::Committed => "read_committed",
            Self::Uncommitted => "read_uncommitted",
        }
    }
}

/// The address of a cluster, and the credentials. Consumers of one namespace with equal connections
/// share the answers.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Connection {
    namespace: String,
    properties: BTreeMap<String, String>,
    token: Option<String>,
}

impl Connection {
    /// Creates a connection with the librdkafka properties that are needed to connect. `namespace`
    /// is that of the consumer, and `token` its access token for OAUTHBEARER.
    pub fn new(
        namespace: &str,
        properties: BTreeMap<String, String>,
        token: Option<String>,
    ) -> Self {
        let mut properties = properties;
        properties.retain(|name, _| ALLOWED.contains(&name.as_str()));
        if let Some(servers) = properties.get_mut(BOOTSTRAP_SERVERS) {
            let first: Vec<&str> = servers.split(',').take(MAX_BOOTSTRAP_SERVERS).collect();
            *servers = first.join(",");
        }
        Self {
            namespace: namespace.to_owned(),
            properties,
            token,
        }
    }

    /// Returns the namespace of the consumers.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the bootstrap servers.
    pub fn brokers(&self) -> &str {
        let brokers = self.properties.get(BOOTSTRAP_SERVERS);
        brokers.map_or("", String::as_str)
    }

    /// Returns the access token.
    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }
}

/// Returns the configuration of a client, in `group` if the question is about a group's offsets. It
/// names no brokers: they are added once the client can resolve their names.
pub(super) fn client_config(
    connection: &Connection,
    group: Option<&str>,
    isolation: Isolation,
) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.extend(connection.properties.clone());
    config.remove(BOOTSTRAP_SERVERS);
    for (name, value) in FIXED {
        config.set(name, value);
    }
    config.set("isolation.level", isolation.name());
    config.set_log_level(RDKafkaLogLevel::Warning);
    if let Some(group) = group {
        config.set("group.id", group);
    }
    config
}

#[cfg(test)]
mod tests {
    use penstock_crds::librdkafka::properties::{self, Kind};
    use rdkafka::consumer::BaseConsumer;

    use super::*;

    /// A value that a property of this kind may have, other than its default or ours
    /// where there is a choice.
    fn value(kind: Kind) -> String {
        match kind {
            Kind::Text => "hostile".into(),
            Kind::Boolean => "true".into(),
            Kind::Integer(_, max) => max.to_string(),
            Kind::Number(_, max) => max.to_string(),
            Kind::Choice(words) | Kind::Flags(words) => words[0].into(),
            Kind::Api => "0x0".into(),
        }
    }

    /// What a manifest could say of every property that librdkafka has.
    fn everything() -> BTreeMap<String, String> {
        let all = properties::all().iter();
        all.map(|property| (property.name.to_owned(), value(property.kind)))
            .collect()
    }

    #[test]
    fn of_all_properties_only_the_allowed_ones_reach_the_client() {
        let connection = Connection::new("shop", everything(), None);
        let hostile = client_config(&connection, Some("g"), Isolation::Committed);
        let plain = Connection::new("shop", BTreeMap::new(), None);
        let plain = client_config(&plain, Some("g"), Isolation::Committed);
        for property in properties::all() {
            let name = property.name;
            if ALLOWED.contains(&name) {
                assert!(plain.get(name).is_none(), "{name} is allowed and fixed");
            } else {
                assert_eq!(hostile.get(name), plain.get(name), "{name}");
            }
        }
        assert!(hostile.config_map().len() <= plain.config_map().len() + ALLOWED.len());
    }

    #[test]
    fn what_is_allowed_or_fixed_exists() {
        for name in ALLOWED.iter().chain(FIXED.iter().map(|(name, _)| name)) {
            assert!(properties::find(name).is_some(), "{name}");
        }
    }

    #[test]
    fn librdkafka_takes_the_fixed_limits() {
        let connection = Connection::new("shop", BTreeMap::new(), None);
        let config = client_config(&connection, Some("g"), Isolation::Committed);
        let client: BaseConsumer = config.create().unwrap();
        let native = config.create_native_config().unwrap();
        drop(client);
        assert_eq!(native.get("receive.message.max.bytes").unwrap(), "524288");
        assert_eq!(native.get("group.id").unwrap(), "g");
    }

    #[test]
    fn thousands_of_bootstrap_brokers_are_not_thousands_of_threads() {
        let servers: Vec<String> = (1..=1000).map(|port| format!("k:{port}")).collect();
        let properties = [(BOOTSTRAP_SERVERS.to_owned(), servers.join(","))];
        let connection = Connection::new("shop", properties.into(), None);
        assert_eq!(
            connection.brokers().split(',').count(),
            MAX_BOOTSTRAP_SERVERS
        );
        assert!(connection.brokers().starts_with("k:1,k:2,"));
    }
}
