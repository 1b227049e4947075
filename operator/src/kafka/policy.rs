//! Which brokers the operator may connect to. A manifest names brokers, and the operator
//! stands where a tenant may not: in its own pod's network, next to the API server.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;

use thiserror::Error;

use super::search::SearchPath;

/// Brokers that are allowed, and networks that never are.
#[derive(Clone, Debug, Default)]
pub struct BrokerPolicy {
    allowed: Vec<AllowedBrokers>,
    denied: Vec<DeniedNetworks>,
    search: SearchPath,
}

/// Brokers that are allowed: `[NAMESPACE=]HOST:PORT`. HOST may be `*` or begin with `*.`,
/// and PORT may be `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedBrokers {
    /// Absent: of every namespace that has no pattern of its own.
    namespace: Option<String>,
    host: Host,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Any,
    /// With the dot in front.
    Below(String),
    Exactly(String),
}

/// Networks to which no connection is made: `loopback`, `link-local`, a network such as
/// `10.96.0.0/12`, or `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeniedNetworks(Vec<Network>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    /// An IPv4 address as the IPv6 address that it is mapped to.
    address: u128,
    prefix: u32,
}

/// Why a pattern or network can't be read.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// It is no pattern.
    #[error(
        "'{0}' is no [NAMESPACE=]HOST:PORT, such as '*.kafka.svc:9092' or 'shop=kafka.shop.svc:*'"
    )]
    Pattern(String),
    /// It is no network.
    #[error("'{0}' is neither 'loopback', 'link-local', 'none' nor a network such as 10.96.0.0/12")]
    Network(String),
}

/// A broker that the operator may not connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAllowed(pub String);

/// What is said of it: the same whatever it resolves to, since a tenant could learn
/// addresses by it.
impl fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the operator may not connect to broker '{}'", self.0)
    }
}

impl BrokerPolicy {
    /// Without any pattern, all brokers are allowed that are in no denied network.
    pub fn new(allowed: Vec<AllowedBrokers>, denied: Vec<DeniedNetworks>) -> Self {
        Self {
            allowed,
            denied,
            search: SearchPath::default(),
        }
    }

    /// Completes short names by this search path, as pods of each consumer's namespace do.
    #[must_use]
    pub fn searching(self, search: SearchPath) -> Self {
        Self { search, ..self }
    }

    /// Returns the first of some brokers, separated by commas, that no pattern allows.
    pub(super) fn check(&self, namespace: &str, brokers: &str) -> Result<(), NotAllowed> {
        let mut brokers = brokers.split(',').map(str::trim);
        match brokers.find(|broker| !self.allows(namespace, broker)) {
            Some(broker) => Err(NotAllowed(broker.to_owned())),
            None => Ok(()),
        }
    }

    /// Returns the addresses of a broker, of which none is in a denied network; none at all if
    /// the name is not known. This is the only way to an address to connect to. It waits for
    /// the resolver.
    pub(super) fn resolve(
        &self,
        namespace: &str,
        host: &str,
        port: u16,
    ) -> Result<Vec<SocketAddr>, NotAllowed> {
        self.resolve_by(namespace, host, port, |name| {
            let addresses = (name, port).to_socket_addrs();
            addresses.map_or_else(|_| Vec::new(), Iterator::collect)
        })
    }

    /// The name that resolves first is the one that must be allowed.
    fn resolve_by(
        &self,
        namespace: &str,
        host: &str,
        port: u16,
        mut look_up: impl FnMut(&str) -> Vec<SocketAddr>,
    ) -> Result<Vec<SocketAddr>, NotAllowed> {
        for name in self.search.names(namespace, host) {
            let addresses = look_up(&name.query);
            if addresses.is_empty() {
                continue;
            }
            let is_allowed = |name: &String| self.allows_name(namespace, name, Some(port));
            let is_denied = |address: &SocketAddr| self.denies(address.ip());
            if !name.spellings.iter().any(is_allowed) || addresses.iter().any(is_denied) {
                return Err(NotAllowed(address(host, port)));
            }
            return Ok(addresses);
        }
        Ok(Vec::new())
    }

    /// Returns `true` if the broker may be allowed, whichever of its names resolves.
    fn allows(&self, namespace: &str, broker: &str) -> bool {
        if self.allowed.is_empty() {
            return true;
        }
        let Some((host, port)) = broker.rsplit_once(':') else {
            return false;
        };
        let names = self.search.names(namespace, without_brackets(host));
        let mut spellings = names.iter().flat_map(|name| &name.spellings);
        spellings.any(|name| self.allows_name(namespace, name, port.parse().ok()))
    }

    fn allows_name(&self, namespace: &str, name: &str, port: Option<u16>) -> bool {
        let is_own = |pattern: &&AllowedBrokers| pattern.namespace.as_deref() == Some(namespace);
        let has_own = self.allowed.iter().any(|pattern| is_own(&pattern));
        let mut patterns = self.allowed.iter().filter(|pattern| match has_own {
            true => is_own(pattern),
            false => pattern.namespace.is_none(),
        });
        self.allowed.is_empty() || patterns.any(|pattern| pattern.matches(name, port))
    }

    fn denies(&self, address: IpAddr) -> bool {
        let mut networks = self.denied.iter().flat_map(|networks| &networks.0);
        networks.any(|network| network.contains(address))
    }
}

impl AllowedBrokers {
    fn matches(&self, host: &str, port: Option<u16>) -> bool {
        let host = canonical(host);
        let host_matches = match &self.host {
            Host::Any => true,
            Host::Below(end) => host.ends_with(end.as_str()),
            Host::Exactly(exact) => host == *exact,
        };
        host_matches && self.port.is_none_or(|wanted| port == Some(wanted))
    }
}

/// librdkafka takes brackets off whatever is in them.
fn without_brackets(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// A broker as it is written: an IPv6 address in brackets.
pub(super) fn address(host: &str, port: impl fmt::Display) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// Names are compared in lower case, without the dot of the root and without brackets.
fn canonical(host: &str) -> String {
    let host = without_brackets(host);
    host.trim_end_matches('.').to_ascii_lowercase()
}

impl FromStr for AllowedBrokers {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let error = || PolicyError::Pattern(text.to_owned());
        let (namespace, broker) = match text.trim().split_once('=') {
            Some((namespace, broker)) => (Some(namespace.to_owned()), broker),
            None => (None, text.trim()),
        };
        let (host, port) = broker.rsplit_once(':').ok_or_else(error)?;
        let port = match port {
            "*" => None,
            port => Some(port.parse().map_err(|_| error())?),
        };
        let host = match host {
            "*" => Host::Any,
            host => match host.strip_prefix('*') {
                Some(end) if end.starts_with('.') && end.len() > 1 => Host::Below(canonical(end)),
                Some(_) => return Err(error()),
                None => Host::Exactly(canonical(host)),
            },
        };
        let is_empty = |text: &str| text.is_empty() || text.contains('*');
        let bad_host = matches!(&host, Host::Exactly(host) | Host::Below(host) if is_empty(host));
        if bad_host || namespace.as_deref().is_some_and(is_empty) {
            return Err(error());
        }
        Ok(Self {
            namespace,
            host,
            port,
        })
    }
}

impl Network {
    const fn v4(address: Ipv4Addr, prefix: u32) -> Self {
        Self {
            address: address.to_ipv6_mapped().to_bits(),
            prefix: prefix + 96,
        }
    }

    const fn v6(address: Ipv6Addr, prefix: u32) -> Self {
        Self {
            address: address.to_bits(),
            prefix,
        }
    }

    fn contains(self, address: IpAddr) -> bool {
        let address = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let differs = self.address ^ address.to_bits();
        differs.leading_zeros() >= self.prefix
    }
}

/// With the unspecified address, by which a connection reaches this machine too.
const LOOPBACK: [Network; 4] = [
    Network::v4(Ipv4Addr::new(127, 0, 0, 0), 8),
    Network::v4(Ipv4Addr::new(0, 0, 0, 0), 8),
    Network::v6(Ipv6Addr::LOCALHOST, 128),
    Network::v6(Ipv6Addr::UNSPECIFIED, 128),
];

/// With the one address of a cloud's metadata service that is not link-local.
const LINK_LOCAL: [Network; 3] = [
    Network::v4(Ipv4Addr::new(169, 254, 0, 0), 16),
    Network::v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    Network::v6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128),
];

impl FromStr for DeniedNetworks {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let error = || PolicyError::Network(text.to_owned());
        match text {
            "loopback" => return Ok(Self(LOOPBACK.to_vec())),
            "link-local" => return Ok(Self(LINK_LOCAL.to_vec())),
            "none" => return Ok(Self(Vec::new())),
            _ => {}
        }
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let prefix: u32 = prefix.parse().map_err(|_| error())?;
        let network = match address.parse().map_err(|_| error())? {
            IpAddr::V4(address) if prefix <= 32 => Network::v4(address, prefix),
            IpAddr::V6(address) if prefix <= 128 => Network::v6(address, prefix),
            IpAddr::V4(_) | IpAddr::V6(_) => return Err(error()),
        };
        Ok(Self(vec![network]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allowed: &[&str], denied: &[&str]) -> BrokerPolicy {
        BrokerPolicy::new(
            allowed.iter().map(|text| text.parse().unwrap()).collect(),
            denied.iter().map(|text| text.parse().unwrap()).collect(),
        )
    }

    #[test]
    fn without_patterns_any_broker_is_allowed() {
        assert_eq!(policy(&[], &[]).check("shop", "a:1, b:2"), Ok(()));
    }

    #[test]
    fn a_namespace_has_its_own_patterns_or_those_of_all() {
        let policy = policy(
            &[
                "*.kafka.svc:9092",
                "shop=Kafka.shop.svc:*",
                "shop=10.0.0.7:9092",
                "open=*:*",
            ],
            &[],
        );
        let cases = [
            ("billing", "k-0.kafka.svc:9092,k-1.b.kafka.svc:9092", true),
            ("billing", "K-0.KAFKA.svc.:9092", true),
            ("billing", "k-0.kafka.svc:9093", false),
            ("billing", "kafka.svc:9092", false),
            ("billing", "evilkafka.svc:9092", false),
            ("billing", "k-0.kafka.svc:9092,evil.example:9092", false),
            ("shop", "kafka.shop.svc:1", true),
            ("shop", "10.0.0.7:9092", true),
            ("shop", "k-0.kafka.svc:9092", false),
            ("open", "[::1]:443", true),
        ];
        for (namespace, brokers, allowed) in cases {
            let checked = policy.check(namespace, brokers);
            assert_eq!(checked.is_ok(), allowed, "{namespace} {brokers}");
        }
        assert_eq!(
            policy.check("billing", "k.kafka.svc:9092,evil:1"),
            Err(NotAllowed("evil:1".into()))
        );
    }

    #[test]
    fn a_namespace_without_patterns_has_none_where_there_is_no_default() {
        assert!(policy(&["shop=*:*"], &[]).check("billing", "k:1").is_err());
    }

    fn resolved(policy: &BrokerPolicy, host: &str) -> Result<Vec<SocketAddr>, NotAllowed> {
        policy.resolve("shop", host, 9092)
    }

    #[test]
    fn addresses_in_denied_networks_are_refused_in_every_spelling() {
        let policy = policy(
            &[],
            &["loopback", "link-local", "10.96.0.0/12", "fd12::/16"],
        );
        for denied in [
            "127.0.0.1",
            "127.1.2.3",
            "::1",
            "localhost",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "10.96.0.1",
            "10.111.255.255",
            "fd12:34::1",
        ] {
            let refused = NotAllowed(address(denied, 9092));
            assert_eq!(resolved(&policy, denied), Err(refused), "{denied}");
        }
        for allowed in ["10.95.255.255", "10.112.0.0", "192.0.2.1", "2001:db8::1"] {
            let ip: IpAddr = allowed.parse().unwrap();
            let addresses = vec![SocketAddr::new(ip, 9092)];
            assert_eq!(resolved(&policy, allowed), Ok(addresses), "{allowed}");
        }
    }

    const SEARCH: &str = "search operators.svc.cluster.local svc.cluster.local cluster.local
        options ndots:5";

    /// What there is in the cluster: a Service `kafka` in both namespaces, and one of kafka's.
    fn look_up(name: &str) -> Vec<SocketAddr> {
        let address = match name {
            "kafka.shop.svc.cluster.local." => "10.0.0.1:9092",
            "kafka.operators.svc.cluster.local." => "10.0.0.2:9092",
            "kafka.central.svc.cluster.local." => "10.0.0.3:9092",
            _ => return Vec::new(),
        };
        vec![address.parse().unwrap()]
    }

    fn found(policy: &BrokerPolicy, host: &str) -> Option<String> {
        let found = policy.resolve_by("shop", host, 9092, look_up).ok()?;
        found.first().map(ToString::to_string)
    }

    #[test]
    fn a_short_name_is_resolved_and_allowed_in_the_consumer_s_namespace() {
        let with = |allowed: &[&str]| policy(allowed, &[]).searching(SearchPath::parse(SEARCH));
        let own = Some("10.0.0.1:9092".to_owned());
        let central = Some("10.0.0.3:9092".to_owned());
        assert_eq!(found(&with(&[]), "kafka"), own);
        assert_eq!(found(&with(&[]), "kafka.central"), central);
        for allowed in ["kafka.shop.svc:9092", "*.shop.svc.cluster.local:*", "*:*"] {
            let policy = with(&[allowed]);
            assert_eq!(policy.check("shop", "kafka:9092"), Ok(()), "{allowed}");
            assert_eq!(found(&policy, "kafka"), own, "{allowed}");
        }
        // The name alone does not allow what a tenant calls so in its namespace.
        for allowed in ["kafka:9092", "kafka.operators.svc:9092", "kafka.shop.svc:1"] {
            assert_eq!(found(&with(&[allowed]), "kafka"), None, "{allowed}");
        }
        for allowed in [
            "kafka.central:9092",
            "*.central.svc:9092",
            "*.svc.cluster.local:*",
        ] {
            let policy = with(&[allowed]);
            assert_eq!(
                policy.check("shop", "kafka.central:9092"),
                Ok(()),
                "{allowed}"
            );
            assert_eq!(found(&policy, "kafka.central"), central, "{allowed}");
        }
        let unknown = with(&[]).resolve_by("shop", "nothing", 9092, look_up);
        assert_eq!(unknown, Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_pattern_or_network_is_refused() {
        for text in [
            "", "kafka", "kafka:x", ":1", "a*b:1", "*kafka:1", "=k:1", "*.:1", "k:99999",
        ] {
            assert!(text.parse::<AllowedBrokers>().is_err(), "{text}");
        }
        for text in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "lan", "10.0.0/8"] {
            assert!(text.parse::<DeniedNetworks>().is_err(), "{text}");
        }
    }
}
