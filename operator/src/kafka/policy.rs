//! Which brokers the operator may connect to. A manifest names brokers, and the operator
//! stands where a tenant may not: in its own pod's network, next to the API server.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;

use thiserror::Error;

use super::search::{Name, SearchPath};

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

/// Why a broker has no address to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ResolveError {
    /// The operator may not connect to it. This is final.
    NotAllowed(NotAllowed),
    /// The resolver gave no answer about one of its names, so another of its names may not
    /// be the right one. This may pass.
    NoAnswer(NoAnswer),
}

/// A broker about whose name the resolver gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("DNS did not answer for the name of broker '{0}'")]
pub(super) struct NoAnswer(String);

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
    /// no such name exists. This is the only way to an address to connect to. It waits for
    /// the resolver.
    pub(super) fn resolve(
        &self,
        namespace: &str,
        host: &str,
        port: u16,
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        self.resolve_by(namespace, host, port, |name| {
            let addresses = (name, port).to_socket_addrs();
            addresses.map_or_else(
                |error| absent(&error),
                |found| Lookup::Found(found.collect()),
            )
        })
    }

    /// The name that resolves first is the one that must be allowed.
    ///
    /// If the resolver does not answer about a name of the cluster, a later name is not tried:
    /// it may be another broker. As in glibc, a search domain outside the cluster whose servers
    /// fail is passed over, but then no later name is refused for good.
    fn resolve_by(
        &self,
        namespace: &str,
        host: &str,
        port: u16,
        mut look_up: impl FnMut(&str) -> Lookup,
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        let broker = || address(host, port);
        let mut unanswered = false;
        for name in self.search.names(namespace, host) {
            let addresses = match look_up(&name.query) {
                Lookup::Found(addresses) if !addresses.is_empty() => addresses,
                Lookup::Found(_) => continue,
                Lookup::NoAnswer => {
                    unanswered = true;
                    if name.is_of_cluster {
                        break;
                    }
                    continue;
                }
            };
            let is_allowed = self.allows_name(namespace, &name, Some(port));
            let is_denied = |address: &SocketAddr| self.denies(address.ip());
            if is_allowed && !addresses.iter().any(is_denied) {
                return Ok(addresses);
            }
            if !unanswered {
                return Err(ResolveError::NotAllowed(NotAllowed(broker())));
            }
            break;
        }
        match unanswered {
            true => Err(ResolveError::NoAnswer(NoAnswer(broker()))),
            false => Ok(Vec::new()),
        }
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
        let mut names = names.iter();
        names.any(|name| self.allows_name(namespace, name, port.parse().ok()))
    }

    fn allows_name(&self, namespace: &str, name: &Name, port: Option<u16>) -> bool {
        let is_own = |pattern: &&AllowedBrokers| pattern.namespace.as_deref() == Some(namespace);
        let has_own = self.allowed.iter().any(|pattern| is_own(&pattern));
        let mut patterns = self.allowed.iter().filter(|pattern| match has_own {
            true => is_own(pattern),
            false => pattern.namespace.is_none(),
        });
        let matches = |pattern: &AllowedBrokers| {
            let mut spellings = name.spellings.iter();
            let mut short = name.short.iter().filter(|_| pattern.is_exact());
            spellings.any(|it| pattern.matches(it, port))
                || short.any(|it| pattern.matches(it, port))
        };
        self.allowed.is_empty() || patterns.any(matches)
    }

    fn denies(&self, address: IpAddr) -> bool {
        let mut networks = self.denied.iter().flat_map(|networks| &networks.0);
        networks.any(|network| network.contains(address))
    }
}

impl AllowedBrokers {
    /// Returns `true` if the pattern has no wildcard in front of a name.
    fn is_exact(&self) -> bool {
        matches!(self.host, Host::Exactly(_))
    }

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

/// What the resolver says of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Lookup {
    /// The name has these addresses; none if there is no such name.
    Found(Vec<SocketAddr>),
    /// It does not say.
    NoAnswer,
}

/// Returns what an error of the resolver means. The standard library hands on no code, only
/// the C library's text: that of glibc, musl or macOS. Any other error may pass.
fn absent(error: &io::Error) -> Lookup {
    const NO_SUCH_NAME: [&str; 5] = [
        "Name or service not known",
        "No address associated with hostname",
        "Name does not resolve",
        "Name has no usable address",
        "nodename nor servname provided, or not known",
    ];
    let text = error.to_string();
    // A text that is no host name at all is refused before the resolver is asked.
    let is_no_name = error.kind() == io::ErrorKind::InvalidInput;
    match is_no_name || NO_SUCH_NAME.iter().any(|known| text.ends_with(known)) {
        true => Lookup::Found(Vec::new()),
        false => Lookup::NoAnswer,
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
mod tests;
