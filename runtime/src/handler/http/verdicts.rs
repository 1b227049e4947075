//! What an answer says of each message of a batch.

use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::answer::Answer;
use super::records::{self, JsonRecord};
use super::verdict;
use crate::handler::HandlerError;
use crate::produce::Done;

/// White space around JSON (RFC 8259); other characters that look like it are none.
pub(super) const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// An answer's body, where it gives verdicts.
#[derive(Deserialize)]
struct Verdicts<'a> {
    #[serde(borrow)]
    verdicts: Vec<&'a RawValue>,
}

/// An answer's body, as far as it must be known whether it gives verdicts.
#[derive(Deserialize)]
struct Outline {
    verdicts: Option<IgnoredAny>,
}

/// One message's verdict, with what belongs to it. It may be its name alone.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Entry<'a> {
    verdict: Name,
    #[serde(default)]
    reason: String,
    /// Seconds.
    #[serde(default)]
    retry_after: Option<f64>,
    /// With `done`.
    #[serde(default, borrow)]
    produce: Vec<JsonRecord<'a>>,
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

/// The verdict on each of `count` messages, in their order; fewer where the handler gave
/// fewer.
///
/// A status that is no success is the verdict on all of them, as for a single message. A
/// success without a list of verdicts is one for all.
pub(super) fn of(answer: &Answer, count: usize) -> Vec<Result<Done, HandlerError>> {
    if let Err(error) = verdict::of(answer) {
        return vec![Err(error); count];
    }
    match read(answer, count) {
        Ok(Some(entries)) => entries.into_iter().map(Entry::verdict).collect(),
        Ok(None) => vec![Ok(Done::default()); count],
        Err(reason) => vec![Err(HandlerError::retryable(reason)); count],
    }
}

/// The list, if there is one. What may have been meant as one and can't be read is an
/// error: to take it for success could lose messages.
fn read(answer: &Answer, count: usize) -> Result<Option<Vec<Entry<'_>>>, String> {
    let text = answer.text.trim_matches(SPACE);
    if text.is_empty() || !answer.is_json {
        return Ok(None);
    }
    if !answer.whole {
        return Err("the handler's verdicts are too long to be read".into());
    }
    let unreadable =
        |error: serde_json::Error| format!("the handler's verdicts can't be read: {error}");
    if !text.starts_with('{') {
        serde_json::from_str::<IgnoredAny>(text).map_err(unreadable)?;
        return Ok(None);
    }
    let outline: Outline = serde_json::from_str(text).map_err(unreadable)?;
    if outline.verdicts.is_none() {
        return Ok(None);
    }
    let Verdicts { verdicts } = serde_json::from_str(text).map_err(unreadable)?;
    let entries = verdicts.iter().map(|verdict| Entry::read(verdict));
    let entries: Vec<_> = entries.collect::<Result<_, _>>().map_err(unreadable)?;
    match entries.len() <= count {
        true => Ok(Some(entries)),
        false => Err(format!(
            "the handler gave {} verdicts on {count} messages",
            verdicts.len()
        )),
    }
}

impl<'a> Entry<'a> {
    fn read(text: &'a RawValue) -> serde_json::Result<Self> {
        if !text.get().starts_with('"') {
            return serde_json::from_str(text.get());
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
            Name::Done => return records::done(self.produce),
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
    use crate::produce::ProducerRecord;

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
    fn a_status_without_verdicts_is_the_verdict_on_all() {
        for text in [
            "",
            "null",
            "{}",
            r#"{"status": "ok"}"#,
            "[1]",
            r#"{"verdicts": null}"#,
        ] {
            assert_eq!(kinds(&answer(200, text), 2), [None; 2], "{text}");
        }
        let mut plain = answer(200, "thank you {");
        plain.is_json = false;
        assert_eq!(kinds(&plain, 2), [None; 2]);
        let all = r#"{"verdicts": ["done", "done"]}"#;
        assert_eq!(
            kinds(&answer(503, all), 2),
            [Some(FailureKind::Retryable); 2]
        );
        assert_eq!(
            kinds(&answer(400, all), 2),
            [Some(FailureKind::Permanent); 2]
        );
    }

    #[test]
    fn verdicts_that_can_not_be_read_are_no_success() {
        for text in [
            r#"{"verdicts": ["done""#,
            r#"{"verdicts": ["fine", "done"]}"#,
            r#"{"verdicts": [{"verdict": "retry", "after": 1}]}"#,
            r#"{"verdicts": {"0": "done"}}"#,
            r#"{"verdicts": ["done", "done", "done"]}"#,
            "\u{a0}",
            "\u{b}0",
        ] {
            let retryable = [Some(FailureKind::Retryable); 2];
            assert_eq!(kinds(&answer(200, text), 2), retryable, "{text}");
        }
        let mut cut = answer(200, r#"{"verdicts": []}"#);
        cut.whole = false;
        assert_eq!(kinds(&cut, 1), [Some(FailureKind::Retryable)]);
    }

    #[test]
    fn a_done_may_bring_records_to_produce() {
        let text = r#"{"verdicts": [{"verdict": "done", "produce": [{"topic": "out", "data": 1.10}]},
            {"verdict": "done", "produce": [{"topic": "out", "data_base64": "!"}]}, "done"]}"#;
        let verdicts = of(&answer(200, text), 3);
        let record = ProducerRecord::new("out", "1.10");
        assert_eq!(verdicts[0], Ok(record.into()));
        let error = verdicts[1].as_ref().unwrap_err();
        assert_eq!(error.kind(), FailureKind::Permanent);
        assert_eq!(verdicts[2], Ok(Done::default()));
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
