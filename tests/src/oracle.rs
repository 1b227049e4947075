//! Judging what was recorded by the rules that every run must keep, whatever was
//! killed, paused or restarted meanwhile.

mod commits;
mod deliveries;
mod story;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::Position;
use crate::groups::CommitSample;
use crate::produce::Produced;
use crate::recorder::{DEADLINE, Delivery};

/// How many violations a message shows.
const SHOWN: usize = 20;

/// Of how many of them it tells all that is known.
const TOLD: usize = 3;

/// How long an answer may be on its way to the runtime: one that is given so shortly before
/// the time of its attempt is over may come too late.
const ON_ITS_WAY: Duration = Duration::from_millis(300);

/// How much later than its first message a call's last may be recorded.
const TOGETHER: Duration = Duration::from_millis(50);

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Every message was handled with success at least once, except those that were
    /// to be skipped; and nothing was delivered that was to be skipped or was never
    /// produced.
    NothingLost,
    /// Every message was settled at least once, however it is that messages are settled,
    /// except those that were to be skipped.
    EverythingSettled,
    /// No sample shows an offset committed beyond the messages that were settled,
    /// with all before them, by the time of the sample.
    CommitsWithinSettled,
    /// No committed offset ever went back or vanished.
    CommitsNeverGoBack,
    /// In each partition one delivery begins after the last has ended, no message is
    /// begun while one before it is unsettled, and a settled one comes again only
    /// after a disruption.
    InOrder,
    /// The same for the messages of each key in a partition, beside which those of
    /// other keys, and those without one, may do as they like.
    KeyOrder,
    /// No message was attempted more often than this, counted anew after each
    /// disruption that does not keep attempts; and `ce-attempt` says no more.
    AttemptsWithin(u32),
    /// A message that was settled is delivered again only after a disruption.
    DuplicatesExplained,
    /// After an answer that a message failed, its next attempt begins no sooner than
    /// after this time, whoever makes it.
    BackedOff(Duration),
    /// No message is with two handlers at once, unless a disruption lies between.
    NeverTwiceAtOnce,
}

/// A time in which a consumer was killed, paused, restarted or revoked: it explains
/// what comes again.
#[derive(Clone, Copy, Debug)]
pub struct Disruption {
    from: Instant,
    to: Instant,
    keeps_attempts: bool,
}

impl Disruption {
    /// At one moment: that of a kill.
    pub fn at(moment: Instant) -> Self {
        Self {
            from: moment,
            to: moment,
            keeps_attempts: false,
        }
    }

    /// Over a time: from the pause to the end of the rebalance, for instance.
    pub fn between(from: Instant, to: Instant) -> Self {
        Self {
            from,
            to,
            keeps_attempts: false,
        }
    }

    /// One after which attempts are counted on: a stop as it should be, or a
    /// revocation, while messages wait for another attempt.
    #[must_use]
    pub fn keeping_attempts(mut self) -> Self {
        self.keeps_attempts = true;
        self
    }

    /// Whether some of it lies between the beginnings of two deliveries.
    fn separates(&self, earlier: Instant, later: Instant) -> bool {
        self.from <= later && self.to >= earlier
    }
}

/// What a run left behind.
pub struct Evidence {
    produced: Vec<Position>,
    skipped: Vec<Position>,
    deliveries: Vec<Delivery>,
    commits: Vec<CommitSample>,
    disruptions: Vec<Disruption>,
    settles: Box<dyn Fn(&Delivery) -> bool>,
    /// The handler's limit, where answers may come after it.
    limit: Option<Duration>,
}

impl Evidence {
    /// Of a run over these messages, with these deliveries.
    pub fn new(produced: &[Produced], mut deliveries: Vec<Delivery>) -> Self {
        deliveries.sort_by_key(|delivery| delivery.start);
        Self {
            produced: produced.iter().map(|one| one.position.clone()).collect(),
            skipped: Vec::new(),
            deliveries,
            commits: Vec::new(),
            disruptions: Vec::new(),
            settles: Box::new(|delivery| delivery.verdict.is_success()),
            limit: None,
        }
    }

    /// Says that an answer may have come too late, though the handler gave it: the time of
    /// an attempt is `limit`. That an answer was given about the end of this time, or later,
    /// then explains that its message comes again, and that it comes behind others.
    #[must_use]
    pub fn late_answers(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Adds samples of committed offsets.
    #[must_use]
    pub fn commits(mut self, samples: Vec<CommitSample>) -> Self {
        self.commits = samples;
        self
    }

    /// Names messages that must not be delivered, such as invalid JSON: commits may
    /// pass them. They need not be among the produced.
    #[must_use]
    pub fn skipped(mut self, skipped: impl IntoIterator<Item = Position>) -> Self {
        self.skipped.extend(skipped);
        self
    }

    /// Adds disruptions.
    #[must_use]
    pub fn disruptions(mut self, disruptions: impl IntoIterator<Item = Disruption>) -> Self {
        self.disruptions.extend(disruptions);
        self
    }

    /// Says which deliveries settle their message, so that the consumer may go on.
    /// By default it is success; where failed messages are skipped or dead-lettered,
    /// it is also the failure that ends the attempts.
    #[must_use]
    pub fn settled_by(mut self, settles: impl Fn(&Delivery) -> bool + 'static) -> Self {
        self.settles = Box::new(settles);
        self
    }

    /// Holds the run against the rules.
    ///
    /// # Errors
    /// All violations.
    pub fn check(&self, rules: &[Rule]) -> Result<(), Violations> {
        let violations: Vec<_> = rules
            .iter()
            .flat_map(|rule| self.violations(*rule))
            .collect();
        if violations.is_empty() {
            return Ok(());
        }
        let told = violations.iter().take(TOLD);
        Err(Violations {
            story: told.map(|one| story::tell(self, one.position())).collect(),
            found: violations,
        })
    }

    fn violations(&self, rule: Rule) -> Vec<Violation> {
        match rule {
            Rule::NothingLost => deliveries::nothing_lost(self),
            Rule::EverythingSettled => deliveries::everything_settled(self),
            Rule::CommitsWithinSettled => commits::within_settled(self),
            Rule::CommitsNeverGoBack => commits::never_go_back(self),
            Rule::InOrder => deliveries::in_order(self),
            Rule::KeyOrder => deliveries::key_order(self),
            Rule::AttemptsWithin(limit) => deliveries::attempts_within(self, limit),
            Rule::BackedOff(shortest) => deliveries::backed_off(self, shortest),
            Rule::DuplicatesExplained => deliveries::duplicates_explained(self),
            Rule::NeverTwiceAtOnce => deliveries::never_twice_at_once(self),
        }
    }

    /// Deliveries by partition, each in the order of their beginnings.
    fn by_partition(&self) -> BTreeMap<(&str, i32), Vec<&Delivery>> {
        let mut partitions: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for delivery in &self.deliveries {
            let Position {
                topic, partition, ..
            } = &delivery.position;
            partitions
                .entry((topic.as_str(), *partition))
                .or_default()
                .push(delivery);
        }
        partitions
    }

    /// Deliveries by partition and key, each in the order of their beginnings.
    fn by_key(&self) -> BTreeMap<(&str, i32, &str), Vec<&Delivery>> {
        let mut keys: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for delivery in &self.deliveries {
            let Position {
                topic, partition, ..
            } = &delivery.position;
            if let Some(key) = &delivery.key {
                keys.entry((topic.as_str(), *partition, key.as_str()))
                    .or_default()
                    .push(delivery);
            }
        }
        keys
    }

    /// Deliveries by message, each in the order of their beginnings.
    fn by_position(&self) -> BTreeMap<&Position, Vec<&Delivery>> {
        let mut positions: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for delivery in &self.deliveries {
            positions
                .entry(&delivery.position)
                .or_default()
                .push(delivery);
        }
        positions
    }

    /// When a delivery settled its message, if it did.
    fn settled_at(&self, delivery: &Delivery) -> Option<Instant> {
        delivery.end.filter(|_| (self.settles)(delivery))
    }

    /// Returns `true` if the answer may have come too late, or there was none. Where a call
    /// has one answer, all its messages are late with one.
    fn was_late(&self, delivery: &Delivery) -> bool {
        let Some(limit) = self.limit else {
            return false;
        };
        let is_late = |one: &Delivery| {
            let deadline = one.deadline().unwrap_or(one.start + limit);
            one.end.is_none_or(|end| end + ON_ITS_WAY >= deadline)
        };
        let mut all = self.deliveries.iter();
        is_late(delivery)
            || (!delivery.is_answered_alone()
                && all.any(|one| is_one_call(delivery, one) && is_late(one)))
    }

    fn disrupted(&self, earlier: &Delivery, later: &Delivery) -> bool {
        self.disruptions
            .iter()
            .any(|disruption| disruption.separates(earlier.start, later.start))
    }
}

/// Returns `true` if the two were given in one call, as far as can be told: their times are
/// over at the same moment, or they began together where that is not recorded.
fn is_one_call(one: &Delivery, other: &Delivery) -> bool {
    let deadlines = [one, other].map(|it| it.header(DEADLINE));
    let apart = one.start.max(other.start) - one.start.min(other.start);
    one.connection == other.connection
        && match deadlines {
            [None, None] => apart < TOGETHER,
            [one, other] => one == other,
        }
}

/// One breach of a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Of [`Rule::NothingLost`].
    #[error("{0} was never handled with success")]
    Lost(Position),
    /// Of [`Rule::EverythingSettled`].
    #[error("{0} was never settled")]
    NeverSettled(Position),
    /// Of [`Rule::NothingLost`].
    #[error("{0} was delivered and should not have been")]
    Unexpected(Position),
    /// Of [`Rule::CommitsWithinSettled`].
    #[error("{committed} was committed while {unsettled} was not settled")]
    CommittedUnsettled {
        /// What was committed.
        committed: Position,
        /// The first message before it that was not settled then.
        unsettled: Position,
    },
    /// Of [`Rule::CommitsWithinSettled`].
    #[error("{0} was committed, which is beyond the last message")]
    CommittedBeyondEnd(Position),
    /// Of [`Rule::CommitsNeverGoBack`].
    #[error("{from} was committed, and then {}", match to {
        Some(offset) => format!("{offset}"),
        None => "nothing".into(),
    })]
    WentBack {
        /// What was committed first.
        from: Position,
        /// The offset that followed, if any.
        to: Option<i64>,
    },
    /// Of [`Rule::InOrder`] and [`Rule::KeyOrder`].
    #[error("{second} began while {first} was being handled")]
    Overlap {
        /// Being handled.
        first: Position,
        /// Begun meanwhile.
        second: Position,
    },
    /// Of [`Rule::InOrder`] and [`Rule::KeyOrder`].
    #[error("{later} began while {unsettled}, begun before it, was not settled")]
    Overtaken {
        /// Begun and not settled.
        unsettled: Position,
        /// Begun all the same.
        later: Position,
    },
    /// Of [`Rule::InOrder`] and [`Rule::KeyOrder`].
    #[error("{later} was begun after {earlier} without a disruption between them")]
    Inverted {
        /// Begun first, although it lies behind.
        earlier: Position,
        /// Begun second.
        later: Position,
    },
    /// Of [`Rule::AttemptsWithin`].
    #[error("{position} was attempted {attempts} times; {allowed} were allowed")]
    TooManyAttempts {
        /// The message.
        position: Position,
        /// Deliveries, or what `ce-attempt` said.
        attempts: usize,
        /// How many there may be.
        allowed: usize,
    },
    /// Of [`Rule::BackedOff`].
    #[error("attempt {attempt} at {position} began {waited:?} after the one before had failed")]
    TooSoon {
        /// The message.
        position: Position,
        /// The attempt that came too soon.
        attempt: u32,
        /// The time between them.
        waited: Duration,
    },
    /// Of [`Rule::DuplicatesExplained`].
    #[error("{0} was settled, and delivered again without a disruption")]
    UnexplainedDuplicate(Position),
    /// Of [`Rule::NeverTwiceAtOnce`].
    #[error("{0} was with two handlers at once")]
    TwiceAtOnce(Position),
}

impl Violation {
    /// The message that it concerns most.
    pub fn position(&self) -> &Position {
        match self {
            Self::Lost(position)
            | Self::NeverSettled(position)
            | Self::Unexpected(position)
            | Self::CommittedBeyondEnd(position)
            | Self::UnexplainedDuplicate(position)
            | Self::TwiceAtOnce(position)
            | Self::WentBack { from: position, .. }
            | Self::TooManyAttempts { position, .. }
            | Self::TooSoon { position, .. }
            | Self::CommittedUnsettled {
                unsettled: position,
                ..
            }
            | Self::Overlap {
                second: position, ..
            }
            | Self::Overtaken {
                later: position, ..
            }
            | Self::Inverted {
                later: position, ..
            } => position,
        }
    }
}

/// All breaches that were found.
#[derive(Clone, Debug)]
pub struct Violations {
    /// Which.
    pub found: Vec<Violation>,
    /// What is known of the first of them.
    story: String,
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} violations:", self.found.len())?;
        for violation in self.found.iter().take(SHOWN) {
            writeln!(f, "  {violation}")?;
        }
        let more = self.found.len().saturating_sub(SHOWN);
        if more > 0 {
            writeln!(f, "  and {more} more")?;
        }
        f.write_str(&self.story)
    }
}

impl std::error::Error for Violations {}

/// Logs written by hand, for the rules' own tests.
#[cfg(test)]
mod logs {
    use super::*;
    use crate::recorder::Verdict;

    /// Moments of one log, in milliseconds from its beginning.
    pub(super) struct Clock(Instant);

    impl Clock {
        pub(super) fn new() -> Self {
            Self(Instant::now())
        }

        pub(super) fn at(&self, milliseconds: u64) -> Instant {
            self.0 + Duration::from_millis(milliseconds)
        }

        /// A delivery of `t/0@offset` from and to these moments.
        pub(super) fn delivery(&self, offset: i64, from: u64, to: u64, status: u16) -> Delivery {
            Delivery {
                position: at(offset),
                key: None,
                attempt: 1,
                method: "POST".into(),
                path: "/".into(),
                headers: BTreeMap::new(),
                body: Vec::new(),
                connection: 0,
                start: self.at(from),
                end: Some(self.at(to)),
                verdict: Verdict::Answered(status),
            }
        }

        /// The moment as the runtime writes times.
        pub(super) fn text_of(&self, milliseconds: u64) -> String {
            let began = std::time::SystemTime::now() - self.0.elapsed();
            let moment = began + Duration::from_millis(milliseconds);
            jiff::Timestamp::try_from(moment).unwrap().to_string()
        }

        /// A sample at this moment that shows `offset` committed for `t/0`.
        pub(super) fn sample(&self, moment: u64, offset: Option<i64>) -> CommitSample {
            CommitSample {
                asked: self.at(moment),
                answered: self.at(moment),
                offsets: offset
                    .map(|offset| (("t".to_owned(), 0), offset))
                    .into_iter()
                    .collect(),
            }
        }
    }

    pub(super) fn at(offset: i64) -> Position {
        Position::new("t", 0, offset)
    }

    /// What a run breaks of a rule.
    pub(super) fn found(run: &Evidence, rule: Rule) -> Vec<Violation> {
        run.check(&[rule])
            .map_or_else(|violations| violations.found, |()| Vec::new())
    }

    /// `t/0@0` to `t/0@(count - 1)`.
    pub(super) fn produced(count: u64) -> Vec<Produced> {
        (0..count)
            .map(|seq| Produced {
                seq,
                position: at(i64::try_from(seq).unwrap()),
            })
            .collect()
    }
}
