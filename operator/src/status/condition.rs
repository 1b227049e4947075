//! Conditions, before they are stamped with a time.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use super::{Reason, find};

/// The conditions of a KafkaConsumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionType {
    /// The manifest can be read and keeps every rule.
    Accepted,
    /// Every topic is there.
    TopicsResolved,
    /// At least one pod is handling messages.
    Available,
    /// The pods are being brought to what the manifest says.
    Progressing,
    /// Messages are gone that the group has not handled.
    MessagesLost,
    /// The pods are as the manifest says, and work.
    Ready,
    /// They are not yet.
    Reconciling,
    /// They are not, and won't be until somebody acts.
    Stalled,
}

impl ConditionType {
    /// As it stands in `type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::TopicsResolved => "TopicsResolved",
            Self::Available => "Available",
            Self::Progressing => "Progressing",
            Self::MessagesLost => "MessagesLost",
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
        }
    }

    /// Returns `true` for a condition that follows from others, which have made their event.
    pub(crate) fn is_derived(name: &str) -> bool {
        [Self::Ready, Self::Reconciling, Self::Stalled]
            .iter()
            .any(|type_| type_.name() == name)
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does.
    True,
    /// It does not.
    False,
    /// It could not be told.
    Unknown,
}

impl State {
    /// As it stands in `status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }

    /// Returns the state of this name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        [Self::True, Self::False, Self::Unknown]
            .into_iter()
            .find(|state| state.name() == name)
    }
}

/// Longest message, in bytes; the API server takes 32,768.
const MAX_MESSAGE: usize = 8_192;

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// What it is about.
    pub type_: ConditionType,
    /// Whether it holds.
    pub state: State,
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people, and what to do.
    pub message: String,
    /// Since when, if that is not the time of the last flip.
    pub since: Option<Timestamp>,
}

impl Condition {
    /// All of it.
    pub fn new(
        type_: ConditionType,
        state: State,
        reason: Reason,
        message: impl Into<String>,
    ) -> Self {
        Self {
            type_,
            state,
            reason,
            message: message.into(),
            since: None,
        }
    }

    /// With a time: its own, or that of the last flip, which is now unless the condition
    /// already stood so.
    pub(super) fn stamp(
        mut self,
        generation: Option<i64>,
        before: &[meta::Condition],
        now: Timestamp,
    ) -> meta::Condition {
        let end = self.message.floor_char_boundary(MAX_MESSAGE);
        self.message.truncate(end);
        let same = find(before, self.type_).filter(|it| it.status == self.state.name());
        let last_flip = same.map_or(now, |it| it.last_transition_time.0);
        let since = meta::Time(self.since.unwrap_or(last_flip));
        meta::Condition {
            last_transition_time: since,
            message: self.message,
            observed_generation: generation,
            reason: self.reason.name().to_owned(),
            status: self.state.name().to_owned(),
            type_: self.type_.name().to_owned(),
        }
    }
}
