//! The protocol by which a group's members share its partitions.

use std::collections::BTreeMap;

/// The families of rebalance protocols. Members of two families can't be in one group, nor can
/// eager members without a common assignor: the broker refuses a new member until the last of the
/// old ones has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebalanceProtocol {
    /// Each member releases all its partitions.
    Eager(Assignors),
    /// A member releases only partitions that move: `cooperative-sticky`.
    Cooperative,
    /// The broker assigns: `group.protocol: consumer` (KIP-848).
    Consumer,
}

/// The eager assignors that a member offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignors {
    /// `range` alone.
    Range,
    /// `roundrobin` alone.
    RoundRobin,
    /// Both, which is the default.
    Both,
}

impl RebalanceProtocol {
    /// The Deployment's annotation with the protocol of its pods. The Deployment has it and not the
    /// template, in which a new operator would add it and so replace every pod.
    pub const ANNOTATION: &str = "penstock.dev/rebalance-protocol";

    const ALL: [Self; 5] = [
        Self::Eager(Assignors::Both),
        Self::Eager(Assignors::Range),
        Self::Eager(Assignors::RoundRobin),
        Self::Cooperative,
        Self::Consumer,
    ];

    /// Returns the protocol that follows from `spec.kafka.config`.
    pub fn of(config: &BTreeMap<String, String>) -> Self {
        let property = |name: &str| config.get(name).map_or("", String::as_str);
        if property("group.protocol").eq_ignore_ascii_case("consumer") {
            return Self::Consumer;
        }
        let assignors = property("partition.assignment.strategy");
        let offers = |name: &str| assignors.split(',').any(|it| it.trim() == name);
        if offers("cooperative-sticky") {
            return Self::Cooperative;
        }
        Self::Eager(match (offers("range"), offers("roundrobin")) {
            (true, false) => Assignors::Range,
            (false, true) => Assignors::RoundRobin,
            (true, true) | (false, false) => Assignors::Both,
        })
    }

    /// Returns the annotation's value. An earlier operator, which noted no assignors, also wrote
    /// `eager`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eager(Assignors::Both) => "eager",
            Self::Eager(Assignors::Range) => "eager-range",
            Self::Eager(Assignors::RoundRobin) => "eager-roundrobin",
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

    /// Returns `true` if members of the two can be in one group.
    pub fn agrees_with(self, other: Self) -> bool {
        match (self, other) {
            (Self::Eager(one), Self::Eager(other)) => {
                one == other || one == Assignors::Both || other == Assignors::Both
            }
            _ => self == other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_follows_from_the_properties() {
        use Assignors::{Both, Range, RoundRobin};
        use RebalanceProtocol::{Consumer, Cooperative, Eager};
        let cases: [(&[(&str, &str)], RebalanceProtocol); 10] = [
            (&[], Eager(Both)),
            (
                &[("partition.assignment.strategy", "range,roundrobin")],
                Eager(Both),
            ),
            (
                &[("partition.assignment.strategy", " range, ")],
                Eager(Range),
            ),
            (
                &[("partition.assignment.strategy", "roundrobin,roundrobin")],
                Eager(RoundRobin),
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
            (&[("group.protocol", "classic")], Eager(Both)),
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

    #[test]
    fn members_agree_on_a_family_and_an_assignor() {
        use Assignors::{Both, Range, RoundRobin};
        use RebalanceProtocol::{Consumer, Cooperative, Eager};
        let all = RebalanceProtocol::ALL;
        let agreeing = |one: RebalanceProtocol| -> Vec<_> {
            all.into_iter().filter(|it| one.agrees_with(*it)).collect()
        };
        assert_eq!(
            agreeing(Eager(Both)),
            [Eager(Both), Eager(Range), Eager(RoundRobin)]
        );
        assert_eq!(agreeing(Eager(Range)), [Eager(Both), Eager(Range)]);
        assert_eq!(
            agreeing(Eager(RoundRobin)),
            [Eager(Both), Eager(RoundRobin)]
        );
        for alone in [Cooperative, Consumer] {
            assert_eq!(agreeing(alone), [alone]);
        }
    }
}
