//! Rules of the group, the topics, the mode and the numbers.

use crate::names::{ConsumerName, GroupId, NameError, TopicName};
use crate::spec::{Commit, KafkaConsumerSpec, Mode};
use crate::validate::Concurrency;

use super::kinds::{
    HOUR, at, below, duration, found_text, integer, pattern, quoted, seconds, unless,
    unless_missing,
};
use super::{CelMessage, Finding, Rule};

/// Most topics of one consumer.
pub(crate) const MAX_TOPICS: usize = 100;

/// Most pods of one consumer.
const MAX_REPLICAS: i64 = 1_000;

/// Service, dot and group name, as [`GroupId`] takes them.
const GROUP: &str = "(?s)^[^.]+[.].+$";

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = names();
    rules.extend(mode());
    rules.extend(numbers());
    rules
}

fn names() -> Vec<Rule> {
    vec![
        pattern(
            "group",
            &["spec.group"],
            GROUP,
            "group_id must start with 'SERVICENAME.', followed by the group's name, such as 'billing.orders'",
            |spec| vec![("spec.group".into(), &spec.group)],
        ),
        below(
            "name",
            "spec",
            ".name",
            format!(
                "!has(self.name) || !self.group.matches({}) || self.name == 'kafka_consumer.' + self.group.substring(self.group.indexOf('.') + 1)",
                quoted(GROUP)
            ),
            CelMessage::Expression(
                r#""must be 'kafka_consumer." + self.group.substring(self.group.indexOf('.') + 1) + "', derived from the group, or be left out (found '" + self.name + "')""#.into(),
            ),
            "must be 'kafka_consumer.' and the group's name, derived from the group, or be left out",
            name_follows_from_group,
        ),
        at(
            "topics-some",
            &["spec.topics"],
            "size(self) >= 1",
            CelMessage::Fixed,
            "name at least one topic",
            |spec| unless_missing(!spec.topics.is_empty(), "spec.topics").into_iter().collect(),
        ),
        at(
            "topic",
            &["spec.topics[]"],
            topic_cel("self"),
            CelMessage::Found(found_text("self")),
            &NameError::Topic.to_string(),
            |spec| {
                indexed(&spec.topics)
                    .filter(|(_, topic)| TopicName::parse(topic).is_err())
                    .map(|(path, topic)| Finding::of(path, topic))
                    .collect()
            },
        ),
        at(
            "topics-once",
            &["spec.topics"],
            "self.all(topic, self.exists_one(other, other == topic))",
            CelMessage::Fixed,
            "name each topic once",
            |spec| {
                indexed(&spec.topics)
                    .enumerate()
                    .filter(|(index, (_, topic))| {
                        spec.topics[..*index].iter().any(|before| before == topic)
                    })
                    .map(|(_, (path, topic))| Finding::of(path, topic))
                    .collect()
            },
        ),
    ]
}

fn mode() -> Vec<Rule> {
    vec![
        below(
            "in-order-one-handler",
            "spec",
            ".maxConcurrency",
            "self.mode != 'InOrder' || !has(self.maxConcurrency) || self.maxConcurrency <= 1",
            CelMessage::Fixed,
            "Can only run 1 message handler! Leave maxConcurrency out, set it to 1, or choose mode: KeyOrdered or Fast",
            |spec| {
                let handlers = spec.max_concurrency.unwrap_or(1);
                unless(
                    spec.mode != Mode::InOrder || handlers <= 1,
                    "spec.maxConcurrency",
                    handlers,
                )
            },
        ),
        below(
            "in-order-one-replica",
            "spec",
            ".replicas",
            "self.mode != 'InOrder' || self.replicas <= 1",
            CelMessage::Fixed,
            "an InOrder consumer runs in 1 replica, or in 0 to pause it; set replicas to 1, or choose mode: KeyOrdered or Fast",
            |spec| {
                unless(
                    spec.mode != Mode::InOrder || spec.replicas <= 1,
                    "spec.replicas",
                    spec.replicas,
                )
            },
        ),
        below(
            "in-order-commit",
            "spec",
            ".commit",
            "self.mode != 'InOrder' || !has(self.commit) || self.commit != 'Read'",
            CelMessage::Found(found_text("self.commit")),
            "an InOrder consumer commits each message once it is handled; leave commit out, set it to Handled, or choose mode: Fast",
            |spec| {
                unless(
                    spec.mode != Mode::InOrder || spec.commit != Some(Commit::Read),
                    "spec.commit",
                    "Read",
                )
            },
        ),
        below(
            "key-ordered-commit",
            "spec",
            ".commit",
            "self.mode != 'KeyOrdered' || !has(self.commit) || self.commit != 'Read'",
            CelMessage::Found(found_text("self.commit")),
            "a KeyOrdered consumer commits only what was handled; leave commit out, set it to Handled, or choose mode: Fast",
            |spec| {
                unless(
                    spec.mode != Mode::KeyOrdered || spec.commit != Some(Commit::Read),
                    "spec.commit",
                    "Read",
                )
            },
        ),
    ]
}

fn numbers() -> Vec<Rule> {
    vec![
        integer(
            "max-concurrency",
            "spec.maxConcurrency",
            1..=i64::from(Concurrency::MAX),
            "must be 1 to 10000; a replica without a handler would read nothing",
            |spec| spec.max_concurrency,
        ),
        integer(
            "replicas",
            "spec.replicas",
            0..=MAX_REPLICAS,
            "must be 0 to 1000; 0 pauses the consumer",
            |spec| Some(spec.replicas.into()),
        ),
        integer(
            "consume-batch-size",
            "spec.consumeBatchSize",
            1..=10_000,
            "must be 1 to 10000",
            |spec| Some(spec.consume_batch_size),
        ),
        duration(
            "stop-timeout",
            "spec.stopTimeout",
            seconds(1)..=HOUR,
            "must be 1s to 1h",
            |spec| spec.stop_timeout,
        ),
    ]
}

/// CEL that is true of a valid topic name.
pub(super) fn topic_cel(topic: &str) -> String {
    format!(
        "{topic}.matches({}) && {topic} != '.' && {topic} != '..'",
        quoted(TopicName::PATTERN)
    )
}

fn name_follows_from_group(spec: &KafkaConsumerSpec) -> Option<Finding> {
    let name = spec.name.as_ref()?;
    // A bad group is reported as such; no name could follow from it.
    let group = GroupId::parse(&spec.group).ok()?;
    let error = ConsumerName::parse(name, &group).err()?;
    Some(Finding::of("spec.name", name.as_str()).saying(error.to_string()))
}

fn indexed(topics: &[String]) -> impl Iterator<Item = (String, &str)> {
    topics
        .iter()
        .enumerate()
        .map(|(index, topic)| (format!("spec.topics[{index}]"), topic.as_str()))
}
