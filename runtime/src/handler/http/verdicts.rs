//! Reads the verdict on each message of a batch from an answer.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::Answer;
use super::content::{Content, List, from_object, read_answer};
use super::records;
use crate::handler::HandlerError;
use crate::handler::produce::Done;

/// The verdict on one message.
pub(super) type Verdict = Result<Done, HandlerError>;

/// The body of an answer with verdicts.
#[derive(Deserialize)]
struct Verdicts<'a> {
    #[serde(borrow)]
    verdicts: Vec<&'a RawValue>,
}

/// The verdict on one message, with its details. The name of the verdict alone is valid too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Entry<'a> {
    verdict: Name,
    #[serde(default)]
    reason: String,
    /// The wait in seconds.
    #[serde(default)]
    retry_after: Option<f64>,
    /// The records to produce, with `done`.
    #[serde(default, borrow)]
    produce: Vec<&'a RawValue>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Name {
    Done,
    Retry,
    Fail,
    Skip,
    DeadLetter,
}

/// Returns the verdict on each of `count` messages, in their order; fewer if the handler returned
/// fewer.
///
/// A success whose body is not a list is the verdict on all messages.
///
/// # Errors
/// Returns an error if the status is not a success, or if the body is meant as a list and can't be
/// read as one.
pub(super) fn each(answer: &Answer, count: usize) -> Result<Vec<Verdict>, HandlerError> {
    let content = read_answer(answer, List::Verdicts, |body| read(body, count))?;
    Ok(match content {
        Content::List(entries) => entries.into_iter().map(Entry::verdict).collect(),
        Content::Status => vec![Ok(Done::default()); count],
    })
}

/// Returns the verdicts as [`each`] does, with its error as the verdict on all messages.
pub(super) fn of(answer: &Answer, count: usize) -> Vec<Verdict> {
    each(answer, count).unwrap_or_else(|error| vec![Err(error); count])
}

/// Reads the verdicts on at most `count` messages.
pub(super) fn read(body: &[u8], count: usize) -> Result<Vec<Entry<'_>>, String> {
    let Verdicts { verdicts } = from_object(body).map_err(|error| error.to_string())?;
    if verdicts.len() > count {
        return Err(format!("{} verdicts on {count} messages", verdicts.len()));
    }
    let entries = verdicts.iter().map(|verdict| Entry::read(verdict));
    entries
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

impl<'a> Entry<'a> {
    fn read(text: &'a RawValue) -> serde_json::Result<Self> {
        if !text.get().starts_with('"') {
            return from_object(text.get().as_bytes());
        }
        Ok(Self {
            verdict: serde_json::from_str(text.get())?,
            reason: String::new(),
            retry_after: None,
            produce: Vec::new(),
        })
    }

    fn verdict(self) -> Result<Done, HandlerError> {
        let reason = match self.reason.as_str() {
            "" => "the handler gave no reason",
            reason => reason,
        };
        let wait = self
            .retry_after
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let error = match self.verdict {
            Name::Done => return records::parse(&self.produce),
            Name::Retry => HandlerError::retryable(reason),
            Name::Fail => HandlerError::permanent(reason),
            Name::Skip => HandlerError::skip(reason),
            Name::DeadLetter => HandlerError::dead_letter(reason),
        };
        Err(match wait {
            Some(wait) => error.after(wait),
            None => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::handler::FailureKind;
    use crate::handler::produce::ProducerRecord;

    fn answer(status: u16, text: &str) -> Answer {
        Answer {
            is_json: true,
            ..Answer::of(status, text)
        }
    }

    fn kinds(answer: &Answer, count: usize) -> Vec<Option<FailureKind>> {
        let verdicts = of(answer, count).into_iter();
        verdicts
            .map(|verdict| verdict.err().map(|error| error.kind()))
            .collect()
    }

    #[test]
    fn each_message_has_its_own_verdict() {
        let text = r#"{"verdicts": ["done", {"verdict": "retry", "reason": "busy", "retryAfter": 1.5},
            "fail", {"verdict": "skip", "reason": "old"}, {"verdict": "deadLetter"}]}"#;
        let verdicts = of(&answer(200, text), 5);
        let retry = verdicts[1].clone().unwrap_err();
        assert_eq!(retry.reason(), "busy");
        assert_eq!(retry.retry_after(), Some(Duration::from_millis(1500)));
        assert_eq!(
            kinds(&answer(200, text), 5),
            [
                None,
                Some(FailureKind::Retryable),
                Some(FailureKind::Permanent),
                Some(FailureKind::Skip),
                Some(FailureKind::DeadLetter)
            ]
        );
    }

    #[test]
    fn an_answer_without_a_list_is_the_verdict_on_all() {
        for text in ["", "ok", "<p>done</p>"] {
            assert_eq!(kinds(&Answer::of(200, text), 2), [None; 2], "{text}");
        }
        let all = r#"{"verdicts": ["done", "done"]}"#;
        for (status, text, kind) in [
            (503, all, FailureKind::Retryable),
            (400, all, FailureKind::Permanent),
            (200, r#"{"Verdicts": ["done"]}"#, FailureKind::Retryable),
            (
                200,
                r#"{"verdicts": ["done", "done", "done"]}"#,
                FailureKind::Retryable,
            ),
        ] {
            assert_eq!(kinds(&answer(status, text), 2), [Some(kind); 2], "{text}");
        }
    }

    #[test]
    fn a_done_may_bring_records_to_produce() {
        let text = r#"{"verdicts": [{"verdict": "done", "produce": [{"topic": "out", "data": 1.10}]},
            {"verdict": "done", "produce": [{"topic": "out", "data_base64": "!"}]},
            {"verdict": "done", "produce": [["out"]]}, "done"]}"#;
        let verdicts = of(&answer(200, text), 4);
        let record = ProducerRecord::new("out", "1.10");
        assert_eq!(verdicts[0], Ok(record.into()));
        for unreadable in &verdicts[1..3] {
            let error = unreadable.as_ref().unwrap_err();
            assert_eq!(error.kind(), FailureKind::Permanent);
        }
        assert_eq!(verdicts[3], Ok(Done::default()));
    }

    #[test]
    fn fewer_verdicts_than_messages_are_those_of_the_first() {
        assert_eq!(kinds(&answer(200, r#"{"verdicts": ["done"]}"#), 3), [None]);
    }

    proptest! {
        /// Whatever an answer holds, it is read without a panic, and no message is
        /// given more than one verdict.
        #[test]
        fn any_text_is_an_answer(text in ".{0,200}", count in 0usize..5) {
            prop_assert!(of(&answer(200, &text), count).len() <= count);
            let as_list = format!(r#"{{"verdicts": [{text}]}}"#);
            prop_assert!(of(&answer(200, &as_list), count).len() <= count);
        }
    }
}
