//! Names that cannot be wrong: a value of one of these types has been checked.

use std::fmt;

use thiserror::Error;

/// The reason why a name is rejected. The text is the whole message for the user, except
/// for the field's path.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// The group has no service name, or nothing after it.
    #[error("group_id must start with 'SERVICENAME.'")]
    GroupWithoutService,
    /// The consumer's name does not follow from the group.
    #[error("must be 'kafka_consumer.{expected}', derived from the group, or be left out")]
    NameNotDerived {
        /// The group name that the consumer's name has to end in.
        expected: String,
    },
    /// The topic's name breaks Kafka's rules.
    #[error(
        "a topic name has 1 to 249 characters, each a letter, a digit, '.', '_' or '-', and is neither '.' nor '..'"
    )]
    Topic,
}

/// A consumer group, `SERVICENAME.group_name`, split at the first dot; both
/// parts are non-empty. `s.b.c` is the group `b.c` of the service `s`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupId {
    id: String,
    dot: usize,
}

impl GroupId {
    /// Checks and takes a group.
    pub fn parse(id: &str) -> Result<Self, NameError> {
        match id.split_once('.') {
            Some((service, group)) if !service.is_empty() && !group.is_empty() => Ok(Self {
                id: id.to_owned(),
                dot: service.len(),
            }),
            _ => Err(NameError::GroupWithoutService),
        }
    }

    /// The whole group, as Kafka knows it.
    pub fn as_str(&self) -> &str {
        &self.id
    }

    /// The part before the first dot.
    pub fn service(&self) -> &str {
        &self.id[..self.dot]
    }

    /// The part after the first dot.
    pub fn group_name(&self) -> &str {
        &self.id[self.dot + 1..]
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

/// The consumer's name in spans and metrics: `kafka_consumer.{group_name}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConsumerName(String);

impl ConsumerName {
    /// The only name that a group's consumer may have.
    pub fn derive(group: &GroupId) -> Self {
        Self(format!("kafka_consumer.{}", group.group_name()))
    }

    /// Checks a name that the user gave.
    pub fn parse(name: &str, group: &GroupId) -> Result<Self, NameError> {
        let derived = Self::derive(group);
        if derived.0 == name {
            Ok(derived)
        } else {
            Err(NameError::NameNotDerived {
                expected: group.group_name().to_owned(),
            })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConsumerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A topic's name, by the rules of Kafka's `Topic.validate`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(String);

impl TopicName {
    /// Longest name, in characters.
    pub const MAX_LENGTH: usize = 249;

    /// The pattern of a topic name. (`.` and `..` match, but are rejected too.)
    pub const PATTERN: &str = "^[a-zA-Z0-9._-]+$";

    /// Checks and takes a topic name.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let valid = !name.is_empty()
            && name.len() <= Self::MAX_LENGTH
            && name != "."
            && name != ".."
            && name.chars().all(allowed);
        if valid {
            Ok(Self(name.to_owned()))
        } else {
            Err(NameError::Topic)
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
