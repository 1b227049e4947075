//! The protocol by which a group's members share its partitions.

use std::collections::BTreeMap;

/// The families of rebalance protocols. Members of two families can't be in one group:
/// the broker refuses a new one until the last of the old ones has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebalanceProtocol {
    /// Each member gives all its partitions back: `range`, `roundrobin`.
    Eager,
    /// A member gives back only partitions that move: `cooperative-sticky`.
    Cooperative,
    /// The broker assigns: `group.protocol: consumer` (KIP-848).
    Consumer,
}

impl RebalanceProtocol {
    /// The Deployment's annotation with the protocol of its pods. It stands at the
    /// Deployment and not in the template, where a new operator that adds it would
    /// replace every pod.
    pub const ANNOTATION: &str = "penstock.dev/rebalance-protocol";

    const ALL: [Self; 3] = [Self::Eager, Self::Cooperative, Self::Consumer];

    /// Returns the protocol that follows from `spec.kafka.config`.
    pub fn of(config: &BTreeMap<String, String>) -> Self {
        let property = |name: &str| config.get(name).map_or("", String::as_str);
        if property("group.protocol").eq_ignore_ascii_case("consumer") {
            return Self::Consumer;
        }
        let mut assignors = property("partition.assignment.strategy").split(',');
        if assignors.any(|assignor| assignor.trim() == "cooperative-sticky") {
            Self::Cooperative
        } else {
            Self::Eager
        }
    }

    /// Returns the annotation's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eager => "eager",
            Self::Cooperative => "cooperative",
            Self::Consumer => "consumer",
        }
    }

    /// Returns the protocol of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|protocol| protocol.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_follows_from_the_properties() {
        use RebalanceProtocol::{Consumer, Cooperative, Eager};
        let cases: [(&[(&str, &str)], RebalanceProtocol); 8] = [
            (&[], Eager),
            (
                &[("partition.assignment.strategy", "range,roundrobin")],
                Eager,
            ),
            (
                &[("partition.assignment.strategy", "cooperative-sticky")],
                Cooperative,
            ),
            (
                &[("partition.assignment.strategy", " cooperative-sticky ")],
                Cooperative,
            ),
            (&[("group.protocol", "consumer")], Consumer),
            (&[("group.protocol", "CONSUMER")], Consumer),
            (&[("group.protocol", "classic")], Eager),
            (
                &[
                    ("group.protocol", "classic"),
                    ("partition.assignment.strategy", "cooperative-sticky"),
                ],
                Cooperative,
            ),
        ];
        for (properties, protocol) in cases {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            let config = properties.iter().map(owned).collect();
            assert_eq!(RebalanceProtocol::of(&config), protocol, "{properties:?}");
        }
        for protocol in RebalanceProtocol::ALL {
            assert_eq!(RebalanceProtocol::parse(protocol.name()), Some(protocol));
        }
        assert_eq!(RebalanceProtocol::parse("another"), None);
    }
}
