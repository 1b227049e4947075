//! The broker's settings.

use std::fmt;
use std::io;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::security::{Scram, TlsFiles};
use crate::ports;

/// A broker among those of its cluster.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Its id, from 1.
    pub(super) id: i32,
    /// The cluster's id.
    pub(super) cluster: String,
    /// The controllers, as `controller.quorum.voters` has them.
    pub(super) voters: String,
    /// The number of brokers.
    pub(super) brokers: usize,
}

impl Node {
    /// The nodes of a new cluster that listen so.
    pub(super) fn cluster(listeners: &[Listeners]) -> Vec<Self> {
        let voters = (1..).zip(listeners).map(|(id, one): (i32, _)| {
            let controller = one.controller();
            format!("{id}@{controller}")
        });
        let voters = voters.collect::<Vec<_>>().join(",");
        let cluster = cluster_id();
        let nodes = (1..).zip(listeners).map(|(id, _)| Self {
            id,
            cluster: cluster.clone(),
            voters: voters.clone(),
            brokers: listeners.len(),
        });
        nodes.collect()
    }
}

/// Where the broker listens.
#[derive(Clone, Debug)]
pub(super) struct Listeners {
    host: String,
    plaintext: u16,
    controller: u16,
    tls: u16,
    mutual_tls: u16,
    sasl: u16,
    has_tls: bool,
    has_sasl: bool,
}

impl Listeners {
    pub(super) fn choose(host: String, has_tls: bool, has_sasl: bool) -> io::Result<Self> {
        let [plaintext, controller, tls, mutual_tls, sasl] = ports::free(&host)?;
        Ok(Self {
            host,
            plaintext,
            controller,
            tls,
            mutual_tls,
            sasl,
            has_tls,
            has_sasl,
        })
    }

    pub(super) fn plaintext(&self) -> String {
        self.address(self.plaintext)
    }

    pub(super) fn tls(&self) -> Option<String> {
        self.has_tls.then(|| self.address(self.tls))
    }

    pub(super) fn mutual_tls(&self) -> Option<String> {
        self.has_tls.then(|| self.address(self.mutual_tls))
    }

    pub(super) fn sasl(&self) -> Option<String> {
        self.has_sasl.then(|| self.address(self.sasl))
    }

    fn controller(&self) -> String {
        format!("127.0.0.1:{}", self.controller)
    }

    fn address(&self, port: u16) -> String {
        format!("{}:{port}", self.host)
    }

    /// Name, address and protocol of each that clients use.
    fn for_clients(&self) -> Vec<(&'static str, String, &'static str)> {
        let sasl_protocol = match self.has_tls {
            true => "SASL_SSL",
            false => "SASL_PLAINTEXT",
        };
        let all = [
            ("PLAIN", Some(self.plaintext()), "PLAINTEXT"),
            ("TLS", self.tls(), "SSL"),
            ("MUTUAL", self.mutual_tls(), "SSL"),
            ("SASL", self.sasl(), sasl_protocol),
        ];
        all.into_iter()
            .filter_map(|(name, address, protocol)| Some((name, address?, protocol)))
            .collect()
    }
}

/// All that server.properties says; it is written by `Display`.
pub(super) struct Settings<'a> {
    pub(super) data: &'a Path,
    pub(super) node: &'a Node,
    pub(super) listeners: &'a Listeners,
    pub(super) tls: Option<&'a TlsFiles>,
    pub(super) users: &'a [Scram],
    /// Written last, so that they win.
    pub(super) extra: &'a [(String, String)],
}

/// For few partitions, groups that settle at once, and a broker that is let
/// in again soon after a crash: it is not before its last session has run out.
const FIXED: &str = "\
process.roles=broker,controller
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAIN
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=4
log.index.size.max.bytes=65536
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
group.max.session.timeout.ms=1800000
group.consumer.min.session.timeout.ms=500
group.consumer.session.timeout.ms=4000
group.consumer.min.heartbeat.interval.ms=100
group.consumer.heartbeat.interval.ms=200
";

impl fmt::Display for Settings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FIXED)?;
        self.write_node(f)?;
        writeln!(f, "log.dirs={}", self.data.display())?;
        self.write_listeners(f)?;
        if let Some(tls) = self.tls {
            write_tls(f, tls)?;
        }
        if !self.users.is_empty() {
            write_sasl(f, self.users)?;
        }
        for (name, value) in self.extra {
            writeln!(f, "{name}={value}")?;
        }
        Ok(())
    }
}

impl Settings<'_> {
    /// Internal topics have as many replicas as there are brokers, and with several one
    /// may be missing. A leader stays where a test has put it.
    fn write_node(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Node {
            id,
            voters,
            brokers,
            ..
        } = self.node;
        let in_sync = brokers.saturating_sub(1).max(1);
        writeln!(f, "node.id={id}")?;
        writeln!(f, "controller.quorum.voters={voters}")?;
        writeln!(f, "auto.leader.rebalance.enable=false")?;
        writeln!(f, "default.replication.factor={brokers}")?;
        writeln!(f, "min.insync.replicas={in_sync}")?;
        writeln!(f, "offsets.topic.replication.factor={brokers}")?;
        for topic in ["transaction.state.log", "share.coordinator.state.topic"] {
            writeln!(f, "{topic}.replication.factor={brokers}")?;
            writeln!(f, "{topic}.min.isr={in_sync}")?;
        }
        Ok(())
    }

    fn write_listeners(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let controller = self.listeners.controller();
        let clients = self.listeners.for_clients();
        let addresses = clients
            .iter()
            .map(|(name, address, _)| format!("{name}://{address}"))
            .collect::<Vec<_>>()
            .join(",");
        let protocols = clients
            .iter()
            .map(|(name, _, protocol)| format!("{name}:{protocol}"))
            .collect::<Vec<_>>()
            .join(",");
        writeln!(f, "listeners={addresses},CONTROLLER://{controller}")?;
        writeln!(f, "advertised.listeners={addresses}")?;
        writeln!(
            f,
            "listener.security.protocol.map={protocols},CONTROLLER:PLAINTEXT"
        )
    }
}

fn write_tls(f: &mut fmt::Formatter<'_>, tls: &TlsFiles) -> fmt::Result {
    writeln!(f, "ssl.keystore.type=PEM")?;
    writeln!(f, "ssl.keystore.location={}", tls.server_keystore.display())?;
    writeln!(f, "ssl.truststore.type=PEM")?;
    writeln!(f, "ssl.truststore.location={}", tls.ca.display())?;
    writeln!(f, "listener.name.mutual.ssl.client.auth=required")
}

fn write_sasl(f: &mut fmt::Formatter<'_>, users: &[Scram]) -> fmt::Result {
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let oauth = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required \
                 unsecuredLoginStringClaim_sub=\"broker\";";
    let plain = users
        .iter()
        .map(|user| format!(" user_{}=\"{}\"", user.user, user.password))
        .collect::<String>();
    let plain = format!("org.apache.kafka.common.security.plain.PlainLoginModule required{plain};");
    let mechanisms = [
        ("PLAIN", plain.as_str()),
        ("SCRAM-SHA-256", scram),
        ("SCRAM-SHA-512", scram),
        ("OAUTHBEARER", oauth),
    ];

    let names = mechanisms.map(|(name, _)| name).join(",");
    writeln!(f, "listener.name.sasl.sasl.enabled.mechanisms={names}")?;
    for (name, login) in mechanisms {
        let name = name.to_lowercase();
        writeln!(f, "listener.name.sasl.{name}.sasl.jaas.config={login}")?;
    }
    Ok(())
}

/// A new cluster id: 16 random bytes, as Kafka writes them.
fn cluster_id() -> String {
    // A leading dash would be read as an option.
    let bytes: [u8; 15] = rand::random();
    URL_SAFE_NO_PAD.encode([&[0x50], bytes.as_slice()].concat())
}
