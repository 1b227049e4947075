//! The names by which a pod of a namespace finds a broker.
//!
//! A pod completes a short name by its search path, which begins with its own namespace: `kafka` is
//! `kafka.shop.svc.cluster.local` for the pods of namespace shop. The operator's pod is in another
//! namespace. So the operator tries the search path of a pod in the consumer's namespace.

use std::net::IpAddr;

/// The search path of this pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchPath {
    /// Empty outside a cluster: names are then resolved unchanged.
    entries: Vec<String>,
    /// A name with this number of dots is first tried unchanged.
    dots: usize,
}

/// A name to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// The name for the resolver.
    pub query: String,
    /// The spellings by which a policy may allow it.
    pub spellings: Vec<String>,
    /// The spelling by which a policy without a wildcard may allow the name.
    pub short: Option<String>,
    /// Is `true` if the cluster's DNS answers for the name. Such names come before names for which
    /// other servers answer.
    pub is_of_cluster: bool,
}

impl SearchPath {
    /// Reads the search path of this pod.
    pub fn of_this_pod() -> Self {
        let text = std::fs::read_to_string("/etc/resolv.conf");
        text.map_or_else(|_| Self::default(), |text| Self::parse(&text))
    }

    /// Reads a `resolv.conf`. The last line of each kind counts.
    pub fn parse(text: &str) -> Self {
        let mut path = Self {
            entries: Vec::new(),
            dots: 1,
        };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("search") => path.entries = words.map(str::to_owned).collect(),
                Some("options") => {
                    let ndots = |word: &str| word.strip_prefix("ndots:")?.parse().ok();
                    path.dots = words.filter_map(ndots).fold(path.dots, |_, dots| dots);
                }
                _ => {}
            }
        }
        match path
            .entries
            .iter()
            .any(|entry| of_namespace(entry).is_some())
        {
            true => path,
            false => Self::default(),
        }
    }

    /// Returns the names that a pod of the namespace tries for a host, in their order.
    pub(super) fn names(&self, namespace: &str, host: &str) -> Vec<Name> {
        let is_address = host.parse::<IpAddr>().is_ok();
        let as_it_is = is_address || host.ends_with('.') || host == "localhost";
        if self.entries.is_empty() || as_it_is {
            return vec![Name {
                query: host.to_owned(),
                spellings: vec![host.to_owned()],
                short: None,
                is_of_cluster: false,
            }];
        }
        let domain = self.entries.iter().find_map(|entry| of_namespace(entry));
        let domain = domain.unwrap_or_default();
        let entries = self.entries.iter();
        let mut names: Vec<Name> = entries
            .map(|entry| completed(namespace, host, entry, domain))
            .collect();
        let absolute = Name {
            query: format!("{host}."),
            spellings: Vec::from_iter(spelled_by_host(host, host, domain)),
            short: None,
            is_of_cluster: false,
        };
        let place = match host.matches('.').count() >= self.dots {
            true => 0,
            false => names.len(),
        };
        names.insert(place, absolute);
        names
    }
}

/// Completes a host by an entry of the search path. A tenant decides the names in its namespace:
/// there, the host alone is not a spelling that allows it.
fn completed(namespace: &str, host: &str, entry: &str, domain: &str) -> Name {
    if of_namespace(entry).is_some() {
        let short = format!("{host}.{namespace}.svc");
        let full = format!("{short}.{domain}");
        return Name {
            query: format!("{full}."),
            spellings: vec![short, full],
            short: None,
            is_of_cluster: true,
        };
    }
    let entry = entry.trim_end_matches('.');
    let is_services = entry.strip_prefix("svc.") == Some(domain);
    let full = format!("{host}.{entry}");
    let is_of_cluster = is_services || entry == domain;
    // Anybody's Service may be called like a public name: `kafka.example.com` is also pod kafka
    // of Service example in namespace com. A wildcard such as `*.example.com` does not mean it.
    let (short, spelled) = match service_meant(host, domain).is_none() && is_of_cluster {
        true => (Some(host.to_owned()), None),
        false => (None, spelled_by_host(host, &full, domain)),
    };
    let mut spellings = Vec::from_iter(spelled);
    if is_services {
        spellings.push(format!("{host}.svc"));
    }
    spellings.push(full.clone());
    Name {
        query: format!("{full}."),
        spellings,
        short,
        is_of_cluster,
    }
}

/// Returns the host alone, unless it means another name than this one: `k.kafka.svc` means
/// namespace kafka. Completed by `svc.cluster.local`, it is a name of the namespace called svc.
fn spelled_by_host(host: &str, full: &str, domain: &str) -> Option<String> {
    let means = service_meant(host, domain);
    let is_same = means.is_none_or(|means| means.eq_ignore_ascii_case(full));
    is_same.then(|| host.to_owned())
}

/// Returns the full name of the Service that a host means by its end, `.svc` or `.svc.DOMAIN`.
fn service_meant(host: &str, domain: &str) -> Option<String> {
    let lower = host.to_ascii_lowercase();
    let end = format!(".svc.{}", domain.to_ascii_lowercase());
    match lower {
        service if service.ends_with(".svc") => Some(format!("{service}.{domain}")),
        service if service.ends_with(&end) => Some(service),
        _ => None,
    }
}

/// Returns the cluster's domain if an entry is that of a namespace, `NAMESPACE.svc.DOMAIN`.
fn of_namespace(entry: &str) -> Option<&str> {
    let (namespace, domain) = entry.trim_end_matches('.').split_once(".svc.")?;
    (!namespace.is_empty() && !namespace.contains('.')).then_some(domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_A_POD: &str = "search penstock-system.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n";

    fn queries(path: &SearchPath, host: &str) -> Vec<String> {
        let names = path.names("shop", host).into_iter();
        names.map(|name| name.query).collect()
    }

    #[test]
    fn a_short_name_is_one_of_the_consumer_s_namespace() {
        let path = SearchPath::parse(OF_A_POD);
        for (host, of_namespace) in [
            ("kafka", "kafka.shop.svc.cluster.local."),
            ("kafka-0.kafka", "kafka-0.kafka.shop.svc.cluster.local."),
        ] {
            let expected = [
                of_namespace.to_owned(),
                format!("{host}.svc.cluster.local."),
                format!("{host}.cluster.local."),
                format!("{host}.corp.example."),
                format!("{host}."),
            ];
            assert_eq!(queries(&path, host), expected);
        }
    }

    #[test]
    fn a_long_name_is_tried_as_it_is_first() {
        let path = SearchPath::parse(OF_A_POD);
        let names = queries(&path, "b-1.a.kafka.eu-1.example.com");
        assert_eq!(names[0], "b-1.a.kafka.eu-1.example.com.");
        assert_eq!(names.len(), 5);
    }

    #[test]
    fn a_name_that_means_a_service_allows_that_service_alone() {
        let path = SearchPath::parse(OF_A_POD);
        for (host, means) in [
            ("k.kafka.svc", "k.kafka.svc.cluster.local."),
            ("k.kafka.SVC", "k.kafka.SVC.cluster.local."),
            ("k.kafka.svc.cluster.local", "k.kafka.svc.cluster.local."),
        ] {
            for namespace in ["svc", "shop"] {
                let names = path.names(namespace, host).into_iter();
                let allowed = names.filter(|name| name.spellings.iter().any(|it| it == host));
                let queries: Vec<String> = allowed.map(|name| name.query).collect();
                assert_eq!(queries, [means], "{host} in {namespace}");
            }
        }
    }

    #[test]
    fn addresses_absolute_names_and_names_outside_a_cluster_stay_as_they_are() {
        let path = SearchPath::parse(OF_A_POD);
        for host in ["10.0.0.7", "::1", "kafka.example.", "localhost"] {
            assert_eq!(queries(&path, host), [host]);
        }
        let outside = SearchPath::parse("search corp.example\noptions ndots:5");
        assert_eq!(outside, SearchPath::default());
        assert_eq!(queries(&outside, "kafka"), ["kafka"]);
    }
}
