//! Rules of attempts, waits and the dead-letter topic.

use crate::names::{NameError, TopicName};
use crate::spec::OnFailure;

use super::consumer::topic_cel;
use super::kinds::{
    HOUR, at, below, duration, found_text, integer, number, seconds, unless, unless_missing,
};
use super::{CelMessage, Finding, Rule};

const DEAD_LETTER_TOPIC: &str = "spec.delivery.deadLetterTopic";

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = attempts();
    rules.extend(dead_letters());
    rules
}

fn attempts() -> Vec<Rule> {
    vec![
        integer(
            "max-attempts",
            "spec.delivery.maxAttempts",
            1..=1_000,
            "must be 1 to 1000; 1 means that nothing is tried again",
            |spec| Some(spec.delivery.max_attempts),
        ),
        number(
            "backoff-factor",
            "spec.delivery.backoff.factor",
            1.0..=100.0,
            "must be 1 to 100; 1 keeps the waits equal",
            |spec| spec.delivery.backoff.factor,
        ),
        number(
            "backoff-jitter",
            "spec.delivery.backoff.jitter",
            0.0..=1.0,
            "must be 0 to 1; 0 draws nothing at random",
            |spec| spec.delivery.backoff.jitter,
        ),
        duration(
            "backoff-max",
            "spec.delivery.backoff.max",
            seconds(0)..=HOUR,
            "must be at most 1h",
            |spec| spec.delivery.backoff.max,
        ),
        below(
            "backoff-initial",
            "spec.delivery.backoff",
            ".initial",
            "duration(self.initial) <= duration(self.max)",
            CelMessage::Found(found_text("self.initial")),
            "must not be longer than spec.delivery.backoff.max; shorten initial or lengthen max",
            |spec| {
                let backoff = &spec.delivery.backoff;
                unless(
                    backoff.initial <= backoff.max,
                    "spec.delivery.backoff.initial",
                    backoff.initial.to_string(),
                )
            },
        ),
    ]
}

fn dead_letters() -> Vec<Rule> {
    vec![
        below(
            "dead-letter-topic-needed",
            "spec.delivery",
            ".deadLetterTopic",
            "self.onFailure != 'DeadLetter' || has(self.deadLetterTopic)",
            CelMessage::Fixed,
            "onFailure: DeadLetter needs a topic for the messages; set deadLetterTopic, or choose onFailure: Stop or Skip",
            |spec| {
                let kept = spec.delivery.on_failure != OnFailure::DeadLetter
                    || spec.delivery.dead_letter_topic.is_some();
                unless_missing(kept, DEAD_LETTER_TOPIC)
            },
        ),
        below(
            "dead-letter-topic-unused",
            "spec.delivery",
            ".deadLetterTopic",
            "self.onFailure == 'DeadLetter' || !has(self.deadLetterTopic)",
            CelMessage::Found(found_text("self.deadLetterTopic")),
            "is used with onFailure: DeadLetter only; leave deadLetterTopic out, or set onFailure: DeadLetter",
            |spec| {
                let topic = spec.delivery.dead_letter_topic.as_deref()?;
                unless(
                    spec.delivery.on_failure == OnFailure::DeadLetter,
                    DEAD_LETTER_TOPIC,
                    topic,
                )
            },
        ),
        at(
            "dead-letter-topic",
            &[DEAD_LETTER_TOPIC],
            topic_cel("self"),
            CelMessage::Found(found_text("self")),
            &NameError::Topic.to_string(),
            |spec| {
                let topic = spec.delivery.dead_letter_topic.as_deref();
                topic
                    .filter(|topic| TopicName::parse(topic).is_err())
                    .map(|topic| Finding::of(DEAD_LETTER_TOPIC, topic))
                    .into_iter()
                    .collect()
            },
        ),
        below(
            "dead-letter-topic-other",
            "spec",
            ".delivery.deadLetterTopic",
            "!has(self.delivery.deadLetterTopic) || !(self.delivery.deadLetterTopic in self.topics)",
            CelMessage::Found(found_text("self.delivery.deadLetterTopic")),
            "must not be one of spec.topics, or the consumer would read its own dead letters; choose another topic",
            |spec| {
                let topic = spec.delivery.dead_letter_topic.as_ref()?;
                unless(
                    !spec.topics.contains(topic),
                    DEAD_LETTER_TOPIC,
                    topic.as_str(),
                )
            },
        ),
    ]
}
