//! Lanes with everything that a run may vary.

use std::fmt;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::covering::{all, covering};
use super::{Behaviour, Lane, MODES, Mode, Protocol};
use crate::groups::{self, SessionLimits};
use crate::oracle::{Evidence, Rule, Violations};
use crate::topics::TopicError;
use crate::{Manifest, variable};

/// Set to `all`, each seed takes other combinations, and seeds that follow each other
/// take all; otherwise every run takes the same few, in which each pair of values is.
const VARIABLE: &str = "PENSTOCK_TEST_LANES";

/// How the members of a group get their partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// Each rebalance revokes all; partitions in ranges.
    Range,
    /// Each rebalance revokes all; partitions in turn.
    RoundRobin,
    /// A rebalance revokes what moves.
    CooperativeSticky,
    /// `group.protocol: consumer` (KIP-848): the broker assigns.
    Consumer,
}

impl Assignor {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Range,
        Self::RoundRobin,
        Self::CooperativeSticky,
        Self::Consumer,
    ];

    /// The manifest with it. Times of the session that were set before are kept by the
    /// classic ones and left to the broker by the other, which wants them so; see
    /// [`Self::limit_session`].
    #[must_use]
    pub fn apply(self, manifest: Manifest) -> Manifest {
        let name = match self {
            Self::Range => "range",
            Self::RoundRobin => "roundrobin",
            Self::CooperativeSticky => "cooperative-sticky",
            Self::Consumer => {
                return manifest
                    .kafka("group.protocol", "consumer")
                    .without_kafka("session.timeout.ms")
                    .without_kafka("heartbeat.interval.ms");
            }
        };
        manifest.kafka("partition.assignment.strategy", name)
    }

    /// Sets the session's times of a group at the broker, where that is who knows them.
    ///
    /// # Errors
    /// [`TopicError`] when the broker refuses.
    pub async fn limit_session(
        self,
        bootstrap: &str,
        group: &str,
        limits: SessionLimits,
    ) -> Result<(), TopicError> {
        match self {
            Self::Range | Self::RoundRobin | Self::CooperativeSticky => Ok(()),
            Self::Consumer => groups::limit_session(bootstrap, group, limits).await,
        }
    }
}

/// One way to consume in all that a run varies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Combination {
    /// Mode and protocol.
    pub lane: Lane,
    /// How partitions are assigned.
    pub assignor: Assignor,
    /// What the handler does.
    pub behaviour: Behaviour,
    /// Messages of a batch at most.
    pub batch: usize,
}

const PROTOCOLS: [Protocol; 4] = [
    Protocol::Http,
    Protocol::BatchHttp,
    Protocol::Grpc,
    Protocol::Embedded,
];

/// The numbers of values: mode, protocol, assignor, behaviour, batch or not.
const SIZES: [usize; 5] = [
    MODES.len(),
    PROTOCOLS.len(),
    Assignor::ALL.len(),
    Behaviour::ALL.len(),
    2,
];

impl Combination {
    /// The combinations of this run, among those of these `assignors` that `is_wanted`;
    /// batches are of up to `batch` messages.
    ///
    /// # Errors
    /// When `PENSTOCK_TEST_LANES` is set to something unknown.
    pub fn chosen(
        seed: u64,
        batch: usize,
        is_wanted: impl Fn(&Self) -> bool,
    ) -> Result<Vec<Self>, String> {
        let from = |values: &[usize]| Self::from_values(values, batch);
        let wanted = |values: &[usize]| from(values).is_some_and(|one| is_wanted(&one));
        let few = covering(&SIZES, wanted);
        let chosen = match variable::text(VARIABLE).as_deref() {
            None => few,
            Some("all") => walk(all(&SIZES, wanted), few.len(), seed),
            Some(other) => return Err(format!("{VARIABLE} is {other}, which is not 'all'")),
        };
        Ok(chosen.iter().filter_map(|values| from(values)).collect())
    }

    fn from_values(values: &[usize], batch: usize) -> Option<Self> {
        let &[mode, protocol, assignor, behaviour, batched] = values else {
            return None;
        };
        let lane = Lane {
            mode: *MODES.get(mode)?,
            protocol: *PROTOCOLS.get(protocol)?,
        };
        let one = Self {
            lane,
            assignor: *Assignor::ALL.get(assignor)?,
            behaviour: *Behaviour::ALL.get(behaviour)?,
            batch: if batched == 1 { batch } else { 1 },
        };
        let is_valid = match batched {
            0 => one.behaviour != Behaviour::Partial,
            _ => lane.has_batches() && !one.is_stuck(),
        };
        is_valid.then_some(one)
    }

    /// Returns `true` if a message that fails its whole request is never attempted again:
    /// in order the attempt is counted for the first of the batch, up to its last.
    fn is_stuck(self) -> bool {
        let fails_all = matches!(self.behaviour, Behaviour::Fails | Behaviour::Hangs);
        self.is_in_order() && self.lane.protocol == Protocol::BatchHttp && fails_all
    }

    /// A consumer of this kind that has up to `handlers` handlers.
    pub fn manifest(self, bootstrap: &str, group: &str, topic: &str, handlers: usize) -> Manifest {
        let lane = self.lane;
        let manifest = lane.manifest(bootstrap, group, topic, handlers, self.batch);
        self.behaviour.apply(manifest)
    }

    /// Holds a run against `rules` and those of its mode and its handler.
    ///
    /// # Errors
    /// All violations.
    pub fn check(self, evidence: Evidence, rules: &[Rule]) -> Result<(), Violations> {
        let mut rules = rules.to_vec();
        rules.extend(self.lane.mode.order());
        rules.push(self.behaviour.attempts(self.lane));
        self.check_only(evidence, &rules)
    }

    /// Holds a run against `rules` alone. Where answers may come too late, a message may
    /// come again: one alone in its request if its answer took long, and one of several,
    /// whose time began before the handler did, if it was answered about the end of it.
    ///
    /// # Errors
    /// All violations.
    pub fn check_only(self, evidence: Evidence, rules: &[Rule]) -> Result<(), Violations> {
        if !self.behaviour.has_limit() {
            return evidence.check(rules);
        }
        if self.lane.has_batches() {
            return evidence.late_answers(Behaviour::LIMIT).check(rules);
        }
        let (strict, usual): (Vec<_>, Vec<_>) = rules
            .iter()
            .copied()
            .partition(|rule| *rule == Rule::DuplicatesExplained);
        evidence.check(&usual)?;
        evidence
            .settled_by(Behaviour::surely_settles)
            .check(&strict)
    }

    /// Returns `true` if several messages go to a handler at once.
    pub fn has_batches(self) -> bool {
        self.batch > 1
    }

    /// Returns `true` if one message at a time is handled.
    pub fn is_in_order(self) -> bool {
        self.lane.mode == Mode::InOrder
    }
}

impl fmt::Display for Combination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lane { mode, protocol } = self.lane;
        let (assignor, behaviour) = (self.assignor, self.behaviour);
        let batch = self.batch;
        write!(
            f,
            "{mode:?}, {protocol:?}, {assignor:?}, {behaviour:?}, batches of {batch}"
        )
    }
}

/// What to set to make a run with this seed again.
pub fn recipe(seed: u64) -> String {
    match variable::text(VARIABLE) {
        Some(lanes) => format!("{VARIABLE}={lanes} PENSTOCK_TEST_SEED={seed}"),
        None => format!("PENSTOCK_TEST_SEED={seed}"),
    }
}

/// The `count` combinations that belong to `seed`, of all in a mixed order.
fn walk(mut all: Vec<Vec<usize>>, count: usize, seed: u64) -> Vec<Vec<usize>> {
    all.shuffle(&mut StdRng::seed_from_u64(0));
    let rounds = all.len().div_ceil(count.max(1)).max(1);
    let round = usize::try_from(seed % rounds as u64).unwrap_or(0);
    all.into_iter().skip(round * count).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_few_have_every_protocol_with_every_behaviour_that_it_can_have() {
        let few = Combination::chosen(7, 8, |_| true).unwrap();
        for protocol in PROTOCOLS {
            for behaviour in Behaviour::ALL {
                let can = behaviour != Behaviour::Partial
                    || matches!(protocol, Protocol::BatchHttp | Protocol::Grpc);
                let has = few
                    .iter()
                    .any(|one| one.lane.protocol == protocol && one.behaviour == behaviour);
                assert_eq!(has, can, "{protocol:?}, {behaviour:?}");
            }
        }
        assert!(few.len() <= 30, "{}", few.len());
    }

    #[test]
    fn seeds_that_follow_each_other_walk_through_all() {
        let everything = all(&[3, 4, 5], |_| true);
        let mut seen: Vec<_> = (1000..1009)
            .flat_map(|seed| walk(everything.clone(), 7, seed))
            .collect();
        seen.sort();
        assert_eq!(seen, everything);
    }
}
