//! Decides the offset from which a partition is read.
//!
//! The runtime decides, and not `auto.offset.reset`, which has one answer to three questions:
//!
//! - A group without offsets begins at `offsetReset`.
//! - A partition that appeared while its group has offsets on the topic begins at the log
//!   start, regardless of `offsetReset`: its messages were written for this group.
//! - A group whose offset is lost continues at `onOffsetLost`. An offset is lost when the
//!   brokers refuse a fetch there: retention passed it, or the log was truncated or created
//!   again. The brokers' refusal decides, and not a comparison with the end of the log: under
//!   `read_committed` that is the last stable offset, and a valid offset may be above it.
//!
//! # A new partition or a new group
//!
//! Members look up their partitions at different times, so one may find the offsets that
//! another has committed for the same new group. Two rules prevent that it regards its own
//! partitions as new, and reads a long history:
//!
//! - A start at the end is committed immediately, before anything is read, for all partitions
//!   of an assignment together. So every partition that was ever assigned has an offset, even
//!   without messages.
//! - In the first generation of a group no partition is new: a partition that appears causes a
//!   rebalance, and thus another generation.
//!
//! If the generation is not known, the partition counts as new: messages are repeated rather
//! than skipped.

use std::ops::Range;

use penstock_crds::spec::OnOffsetLost;

use crate::kafka::{Edge, OutOfRange};

/// The policy for partitions without an offset to continue from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// The edge at which a group without offsets begins; `None`: the consumer ends.
    pub(crate) reset: Option<Edge>,
    /// The policy for a group whose offsets are lost.
    pub(crate) lost: OnOffsetLost,
}

/// The offsets of a partition that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The first offset that is retained.
    pub(crate) start: i64,
    /// The offset that the next message will get.
    pub(crate) end: i64,
}

/// The reason that an offset is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The messages there were deleted.
    Retention,
    /// The log became shorter.
    Truncation,
    /// The topic was deleted and created again.
    Recreation,
}

impl Reason {
    /// Returns the value of the label `reason`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Truncation => "truncation",
            Self::Recreation => "recreation",
        }
    }
}

/// The identity of a topic, compared with the one that was read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Incarnation {
    Same,
    Other,
    Unknown,
}

/// The point at which a partition continues after its offset was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resumption {
    /// The offset that is read next.
    pub(crate) offset: i64,
    /// The reason that it cannot continue at its offset; `None` if it can.
    pub(crate) lost: Option<Lost>,
}

impl Resumption {
    /// Returns `true` if the messages read so far belong to a log that is gone.
    pub(crate) fn is_of_other_log(&self) -> bool {
        self.lost.as_ref().is_some_and(Lost::is_other_log)
    }
}

/// An offset that was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) reason: Reason,
    /// The offsets of messages that are skipped.
    pub(crate) skipped: Range<i64>,
    /// The offset up to which the log still has the messages that were read, if it was
    /// truncated and that is known.
    pub(crate) kept: Option<i64>,
}

impl Lost {
    /// Returns `true` if the messages read so far belong to a log that is gone.
    pub(crate) fn is_other_log(&self) -> bool {
        self.reason != Reason::Retention
    }
}

/// Returns the edge of the log at which a partition without an offset begins, or `None` if the
/// consumer must end. `is_new`: the partition appeared while its group has offsets on the
/// topic.
pub(crate) fn begin(policy: Policy, is_new: bool) -> Option<Edge> {
    if is_new {
        Some(Edge::Start)
    } else {
        policy.reset
    }
}

/// Returns the point at which a partition continues that the brokers refused to read at
/// `position`, or the loss with which the consumer must end.
pub(crate) fn resume(
    position: i64,
    refused: OutOfRange,
    bounds: Bounds,
    incarnation: Incarnation,
    policy: OnOffsetLost,
) -> Result<Resumption, Lost> {
    // The refusal is of an earlier assignment, or of a position that was left since. Or the
    // client names no position: librdkafka (2.12) may lose a position when a rebalance pauses
    // and resumes a partition. The brokers then decide if they have it.
    let is_stale = match refused.position {
        Some(refused) => refused < position,
        None => refused.departs_at.is_none(),
    };
    if is_stale && incarnation != Incarnation::Other {
        return Ok(Resumption {
            offset: position,
            lost: None,
        });
    }
    // Offsets of an earlier incarnation may lie anywhere in this one, so the epoch shows where
    // the log departs only if the topic is known to be the same.
    let departs_at = refused
        .departs_at
        .filter(|_| incarnation == Incarnation::Same);
    let (reason, oldest) = if incarnation == Incarnation::Other {
        (Reason::Recreation, bounds.start)
    } else if let Some(departs_at) = departs_at {
        (
            Reason::Truncation,
            departs_at.clamp(bounds.start, bounds.end),
        )
    } else if position < bounds.start {
        (Reason::Retention, bounds.start)
    } else {
        (Reason::Truncation, bounds.start)
    };
    let offset = match policy {
        OnOffsetLost::Latest => bounds.end,
        OnOffsetLost::Earliest | OnOffsetLost::Fail => oldest,
    };
    // Nothing was read of another log, so all its messages count.
    let unread = match reason {
        Reason::Retention => position,
        Reason::Truncation => oldest,
        Reason::Recreation => 0,
    };
    // Nothing was read of a log after the point at which it departs, and retention may have
    // passed that point. Nothing at all was read of another topic.
    let unread = refused.departs_at.map_or(unread, |it| it.min(unread));
    let lost = Lost {
        reason,
        skipped: unread..offset.max(unread),
        kept: departs_at,
    };
    match policy {
        OnOffsetLost::Fail => Err(lost),
        OnOffsetLost::Earliest | OnOffsetLost::Latest => Ok(Resumption {
            offset,
            lost: Some(lost),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_without_an_offset_begins_by_its_group() {
        let policy = |reset| Policy {
            reset,
            lost: OnOffsetLost::Latest,
        };
        for (reset, is_new, expected) in [
            (Some(Edge::End), false, Some(Edge::End)),
            (Some(Edge::End), true, Some(Edge::Start)),
            (Some(Edge::Start), false, Some(Edge::Start)),
            (Some(Edge::Start), true, Some(Edge::Start)),
            (None, false, None),
            (None, true, Some(Edge::Start)),
        ] {
            assert_eq!(begin(policy(reset), is_new), expected, "{reset:?} {is_new}");
        }
    }

    #[test]
    fn a_lost_offset_continues_by_the_policy_and_names_what_is_skipped() {
        use Incarnation::{Other, Same, Unknown};
        use OnOffsetLost::{Earliest, Latest};
        use Reason::{Recreation, Retention, Truncation};
        // Position, departs at, bounds, incarnation, policy: offset, reason and skipped.
        let table = [
            // Retention passed the position.
            (
                1000,
                None,
                (1500, 2000),
                Same,
                Earliest,
                1500,
                Retention,
                1000..1500,
            ),
            (
                1000,
                None,
                (1500, 2000),
                Same,
                Latest,
                2000,
                Retention,
                1000..2000,
            ),
            (
                1000,
                None,
                (1500, 2000),
                Unknown,
                Earliest,
                1500,
                Retention,
                1000..1500,
            ),
            // All of it is gone.
            (
                1000,
                None,
                (2000, 2000),
                Same,
                Earliest,
                2000,
                Retention,
                1000..2000,
            ),
            // The log is shorter: nothing of it is skipped.
            (
                1000,
                Some(900),
                (100, 950),
                Same,
                Earliest,
                900,
                Truncation,
                900..900,
            ),
            (
                1000,
                Some(900),
                (100, 950),
                Same,
                Latest,
                950,
                Truncation,
                900..950,
            ),
            (
                1000,
                None,
                (100, 950),
                Same,
                Earliest,
                100,
                Truncation,
                100..100,
            ),
            // The log is shorter, and retention has passed where it departs.
            (
                1000,
                Some(900),
                (950, 980),
                Same,
                Earliest,
                950,
                Truncation,
                900..950,
            ),
            // The same before the topic's id is known.
            (
                1000,
                Some(900),
                (950, 1080),
                Unknown,
                Earliest,
                950,
                Truncation,
                900..950,
            ),
            (
                1000,
                Some(900),
                (1100, 1200),
                Unknown,
                Earliest,
                1100,
                Retention,
                900..1100,
            ),
            // It may be another topic, in which the epoch tells nothing.
            (
                1000,
                Some(900),
                (0, 950),
                Unknown,
                Earliest,
                0,
                Truncation,
                0..0,
            ),
            // The topic was created again; its log may be longer than the position.
            (
                1000,
                Some(900),
                (0, 950),
                Other,
                Earliest,
                0,
                Recreation,
                0..0,
            ),
            (1000, None, (0, 5000), Other, Earliest, 0, Recreation, 0..0),
            (
                1000,
                None,
                (0, 5000),
                Other,
                Latest,
                5000,
                Recreation,
                0..5000,
            ),
            // The log grew beyond the position since the brokers refused it.
            (1000, None, (0, 1200), Same, Earliest, 0, Truncation, 0..0),
        ];
        for (position, departs_at, bounds, incarnation, policy, offset, reason, skipped) in table {
            let refused = OutOfRange {
                position: departs_at.is_none().then_some(position),
                departs_at,
            };
            let bounds = Bounds {
                start: bounds.0,
                end: bounds.1,
            };
            let is_known = reason == Truncation && incarnation == Same;
            let lost = Lost {
                reason,
                skipped,
                kept: departs_at.filter(|_| is_known),
            };
            let found = resume(position, refused, bounds, incarnation, policy);
            let expected = Resumption {
                offset,
                lost: Some(lost),
            };
            assert_eq!(
                found,
                Ok(expected),
                "{position} {bounds:?} {incarnation:?} {policy:?}"
            );
            let fails = resume(position, refused, bounds, incarnation, OnOffsetLost::Fail);
            assert_eq!(fails.unwrap_err().reason, reason);
        }
    }

    #[test]
    fn a_refusal_of_an_earlier_position_changes_nothing() {
        let bounds = Bounds { start: 50, end: 90 };
        // Nor does one of no position, which the client has lost by itself.
        for position in [Some(10), None] {
            let refused = OutOfRange {
                position,
                departs_at: None,
            };
            for incarnation in [Incarnation::Same, Incarnation::Unknown] {
                let found = resume(60, refused, bounds, incarnation, OnOffsetLost::Latest);
                let expected = Resumption {
                    offset: 60,
                    lost: None,
                };
                assert_eq!(found, Ok(expected), "{position:?} {incarnation:?}");
            }
        }
    }
}
