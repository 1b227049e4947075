//! Reads a handler's messages without a stream, for fuzzing.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;

use super::open::{Ended, Fate, Limits};
use super::session::Session;
use super::welcome::Peer;
use crate::handler::HandlerError;
use crate::handler::produce::Done;
use penstock_handler::v1::FromHandler;

/// Longer than any input takes.
const HOUR: Duration = Duration::from_secs(3600);

/// The result of a handler's messages.
#[derive(Debug, PartialEq)]
pub struct Heard {
    /// The verdict on each delivery, if there is one.
    pub verdicts: Vec<Option<Result<Done, HandlerError>>>,
    /// Credits that the handler has granted.
    pub credits: usize,
    /// Is `true` if all messages could be read. The stream ends with the first that cannot.
    pub whole: bool,
}

/// Reads a handler's messages from bytes, as on a stream on which batches of these sizes were
/// sent. The first delivery has the number 1.
pub fn hear(batches: &[usize], words: &[impl AsRef<[u8]>]) -> Heard {
    let limits = Limits {
        timeout: HOUR,
        max_timeout: HOUR,
        wait: HOUR,
    };
    let peer = Peer {
        reports_begun: true,
        ..Peer::without_welcome()
    };
    let session = Session::new(Arc::default(), peer, limits);
    let sent: Vec<_> = batches
        .iter()
        .filter_map(|count| session.open(*count))
        .collect();
    let mut whole = true;
    for word in words {
        match FromHandler::decode(word.as_ref()) {
            Ok(message) => session.take(message),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    let credits = session.credits();
    session.end(&Ended::InOrder);
    let outcomes = sent
        .into_iter()
        .filter_map(|(_, mut sent)| sent.try_recv().ok());
    let verdict = |fate| match fate {
        Fate::Verdict(verdict) => Some(verdict),
        _ => None,
    };
    Heard {
        verdicts: outcomes.flatten().map(verdict).collect(),
        credits,
        whole,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::handler::FailureKind;
    use crate::handler::damage::damaged;
    use penstock_handler::v1::verdict::Outcome;
    use penstock_handler::v1::{
        self, DeadLetter, Extension, Fail, Range, Record, Release, Retry, Skip, Verdict,
    };

    /// Numbers around the deliveries that there are, and at the ends of what there can be.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![
            8 => 0u64..40,
            1 => (u64::MAX - 40)..=u64::MAX,
            1 => any::<u64>(),
        ]
    }

    fn outcome() -> impl Strategy<Value = Option<Outcome>> {
        let produce = vec![Record::default()];
        prop_oneof![
            4 => Just(Some(Outcome::Done(v1::Done::default()))),
            1 => Just(Some(Outcome::Done(v1::Done { produce }))),
            2 => any::<(String, u64)>().prop_map(|(reason, delay_ms)| {
                Some(Outcome::Retry(Retry { reason, delay_ms }))
            }),
            1 => any::<String>().prop_map(|reason| Some(Outcome::Skip(Skip { reason }))),
            1 => any::<String>().prop_map(|reason| Some(Outcome::DeadLetter(DeadLetter { reason }))),
            1 => any::<String>().prop_map(|reason| Some(Outcome::Fail(Fail { reason }))),
            2 => any::<(String, u64)>().prop_map(|(reason, delay_ms)| {
                Some(Outcome::Release(Release { reason, delay_ms }))
            }),
            1 => Just(None),
        ]
    }

    fn message() -> impl Strategy<Value = FromHandler> {
        let credits = prop_oneof![0u32..100, Just(u32::MAX), any::<u32>()];
        let verdict =
            (number(), number(), outcome()).prop_map(|(first_id, count, outcome)| Verdict {
                first_id,
                count,
                outcome,
            });
        let range = || {
            let range = (number(), number());
            range.prop_map(|(first_id, count)| Range { first_id, count })
        };
        let extension =
            (prop::option::of(range()), number()).prop_map(|(deliveries, time_ms)| Extension {
                deliveries,
                time_ms,
            });
        let parts = (
            credits,
            prop::collection::vec(verdict, 0..6),
            prop::collection::vec(range(), 0..3),
            prop::collection::vec(extension, 0..3),
        );
        parts.prop_map(|(credits, verdicts, begun, extensions)| FromHandler {
            credits,
            verdicts,
            begun,
            extensions,
            welcome: None,
        })
    }

    /// A message as it is sent, one that was damaged on its way, or noise.
    fn word() -> impl Strategy<Value = Vec<u8>> {
        let sent = || message().prop_map(|message| message.encode_to_vec());
        prop_oneof![3 => sent(), 3 => damaged(sent()), 1 => prop::collection::vec(any::<u8>(), 0..40)]
    }

    /// What the contract says of it, found by looking at each delivery alone.
    fn expected(batches: &[usize], words: &[Vec<u8>]) -> Heard {
        let count: usize = batches.iter().sum();
        let mut verdicts = vec![None; count];
        let mut has_begun = vec![false; count];
        let (mut credits, mut whole) = (0, true);
        for word in words {
            let Ok(message) = FromHandler::decode(word.as_slice()) else {
                whole = false;
                break;
            };
            credits = (credits + message.credits as usize).min(1 << 24);
            let is_meant = |first_id: u64, count: u64, id: u64| {
                first_id <= id && u128::from(id) < u128::from(first_id) + u128::from(count)
            };
            for begun in &message.begun {
                for (id, has_begun) in (1u64..).zip(&mut has_begun) {
                    *has_begun |= is_meant(begun.first_id, begun.count, id);
                }
            }
            for said in &message.verdicts {
                for ((id, place), has_begun) in (1u64..).zip(&mut verdicts).zip(&has_begun) {
                    if is_meant(said.first_id, said.count.max(1), id) && place.is_none() {
                        *place = Some(kind(said, *has_begun));
                    }
                }
            }
        }
        Heard {
            verdicts,
            credits,
            whole,
        }
    }

    fn kind(said: &Verdict, has_begun: bool) -> Result<Done, HandlerError> {
        let (kind, reason) = match &said.outcome {
            Some(Outcome::Done(done)) if done.produce.is_empty() || said.count <= 1 => {
                return Ok(Done::default());
            }
            Some(Outcome::Retry(retry)) => (FailureKind::Retryable, &retry.reason),
            Some(Outcome::Skip(skip)) => (FailureKind::Skip, &skip.reason),
            Some(Outcome::DeadLetter(letter)) => (FailureKind::DeadLetter, &letter.reason),
            Some(Outcome::Fail(fail)) => (FailureKind::Permanent, &fail.reason),
            Some(Outcome::Done(_)) => (FailureKind::Permanent, &String::new()),
            // What has begun can't be released.
            Some(Outcome::Release(release)) if has_begun => {
                (FailureKind::Retryable, &release.reason)
            }
            Some(Outcome::Release(release)) => (FailureKind::NotAttempted, &release.reason),
            None => (FailureKind::Retryable, &String::new()),
        };
        Err(HandlerError::new(kind, reason))
    }

    /// Without words and waits, which the verdicts' own tests look at.
    fn kinds(heard: &Heard) -> Vec<Option<Result<(), FailureKind>>> {
        let kind = |verdict: &Result<Done, HandlerError>| {
            let verdict = verdict.as_ref();
            verdict.map(|_| ()).map_err(HandlerError::kind)
        };
        let verdicts = heard.verdicts.iter();
        verdicts.map(|said| said.as_ref().map(kind)).collect()
    }

    proptest! {
        /// PROPTEST_CASES sets how many.
        #[test]
        fn whatever_is_said_each_delivery_has_the_first_verdict_that_means_it(
            batches in prop::collection::vec(1usize..12, 0..4),
            words in prop::collection::vec(word(), 0..8),
        ) {
            let (heard, expected) = (hear(&batches, &words), expected(&batches, &words));
            prop_assert_eq!(kinds(&heard), kinds(&expected));
            prop_assert_eq!((heard.credits, heard.whole), (expected.credits, expected.whole));
        }
    }
}
