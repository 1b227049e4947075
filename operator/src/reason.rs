//! The reasons of conditions and events. docs/conditions.md explains each, with its remedy.

/// The reason of a condition's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The manifest keeps every rule.
    Valid,
    /// The manifest keeps every rule, but other consumers read the same topics as the same group.
    GroupShared,
    /// The manifest breaks a rule.
    Invalid,
    /// The manifest does not have the structure of this version.
    Unreadable,

    /// Every topic exists.
    TopicsFound,
    /// A topic does not exist.
    TopicNotFound,
    /// The brokers have not been asked yet.
    BrokersNotAsked,
    /// The operator may not connect to the brokers.
    BrokersNotAllowed,
    /// The brokers did not answer.
    BrokersUnreachable,
    /// The brokers refused the credentials.
    AuthenticationFailed,
    /// A Secret or an entry of it is missing.
    SecretNotFound,
    /// The operator does not look for topics, because the manifest is not accepted.
    NotAccepted,

    /// Pods handle messages.
    HandlersReady,
    /// Pods handle messages, but containers ended a short time ago.
    Restarting,
    /// `spec.replicas` is 0.
    Paused,
    /// `spec.replicas` is 0, and pods still run.
    Stopping,
    /// Pods are starting.
    Starting,
    /// The topics do not exist, so no pods were started.
    TopicsNotResolved,
    /// The runtime ended with an error, such as a message that can't be handled.
    ConsumerFailed,
    /// The handler's container ended with an error.
    HandlerFailed,
    /// The handler's container does not accept connections.
    HandlerNotStarted,
    /// A container's image can't be pulled.
    ImagePullFailed,
    /// The kubelet can't start a container.
    ContainerRefused,
    /// Quota, pod security or another policy refuses the pods.
    PodsRefused,
    /// No node takes the pods.
    Unschedulable,

    /// Pods are being started or replaced.
    RollingOut,
    /// The pods match the manifest.
    Complete,
    /// The Deployment reports that it makes no progress.
    Stalled,
    /// The rollout of the Deployment is paused.
    RolloutPaused,
    /// Another owner has an object with the name.
    NameTaken,
    /// Objects of an earlier consumer with this name still exist.
    AwaitingDeletion,
    /// The API server refuses an object.
    ObjectRefused,
    /// Requests to the API server fail at the moment.
    RequestFailed,

    /// The log of every partition has the committed offset.
    NothingLost,
    /// The log of a partition begins after the committed offset.
    RetentionPassed,
    /// The log of a partition ends before the committed offset.
    TopicRecreated,
    /// The group had committed offsets and has none any more.
    OffsetsExpired,
    /// The group's offsets could not be read.
    OffsetsNotRead,
}

impl Reason {
    /// Returns the text in the field `reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Valid => "Valid",
            Self::GroupShared => "GroupShared",
            Self::Invalid => "Invalid",
            Self::Unreadable => "Unreadable",
            Self::TopicsFound => "TopicsFound",
            Self::TopicNotFound => "TopicNotFound",
            Self::BrokersNotAsked => "BrokersNotAsked",
            Self::BrokersNotAllowed => "BrokersNotAllowed",
            Self::BrokersUnreachable => "BrokersUnreachable",
            Self::AuthenticationFailed => "AuthenticationFailed",
            Self::SecretNotFound => "SecretNotFound",
            Self::NotAccepted => "NotAccepted",
            Self::HandlersReady => "HandlersReady",
            Self::Restarting => "Restarting",
            Self::Paused => "Paused",
            Self::Stopping => "Stopping",
            Self::Starting => "Starting",
            Self::TopicsNotResolved => "TopicsNotResolved",
            Self::ConsumerFailed => "ConsumerFailed",
            Self::HandlerFailed => "HandlerFailed",
            Self::HandlerNotStarted => "HandlerNotStarted",
            Self::ImagePullFailed => "ImagePullFailed",
            Self::ContainerRefused => "ContainerRefused",
            Self::PodsRefused => "PodsRefused",
            Self::Unschedulable => "Unschedulable",
            Self::RollingOut => "RollingOut",
            Self::Complete => "Complete",
            Self::Stalled => "Stalled",
            Self::RolloutPaused => "RolloutPaused",
            Self::NameTaken => "NameTaken",
            Self::AwaitingDeletion => "AwaitingDeletion",
            Self::ObjectRefused => "ObjectRefused",
            Self::RequestFailed => "RequestFailed",
            Self::NothingLost => "NothingLost",
            Self::RetentionPassed => "RetentionPassed",
            Self::TopicRecreated => "TopicRecreated",
            Self::OffsetsExpired => "OffsetsExpired",
            Self::OffsetsNotRead => "OffsetsNotRead",
        }
    }

    /// Returns `true` if the reason needs attention: it causes a Warning event.
    pub fn is_warning(self) -> bool {
        match self {
            Self::GroupShared
            | Self::Invalid
            | Self::Unreadable
            | Self::TopicNotFound
            | Self::BrokersNotAllowed
            | Self::BrokersUnreachable
            | Self::AuthenticationFailed
            | Self::SecretNotFound
            | Self::Restarting
            | Self::ConsumerFailed
            | Self::HandlerFailed
            | Self::ImagePullFailed
            | Self::ContainerRefused
            | Self::PodsRefused
            | Self::Unschedulable
            | Self::Stalled
            | Self::RolloutPaused
            | Self::NameTaken
            | Self::ObjectRefused
            | Self::RetentionPassed
            | Self::TopicRecreated
            | Self::OffsetsExpired => true,
            Self::Valid
            | Self::TopicsFound
            | Self::BrokersNotAsked
            | Self::NotAccepted
            | Self::HandlersReady
            | Self::Paused
            | Self::Stopping
            | Self::Starting
            | Self::TopicsNotResolved
            | Self::HandlerNotStarted
            | Self::RollingOut
            | Self::Complete
            | Self::AwaitingDeletion
            | Self::RequestFailed
            | Self::NothingLost
            | Self::OffsetsNotRead => false,
        }
    }

    /// Returns the reason with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.name() == name)
    }

    /// All reasons, in the order of their conditions.
    pub const ALL: &[Self] = &[
        Self::Valid,
        Self::GroupShared,
        Self::Invalid,
        Self::Unreadable,
        Self::TopicsFound,
        Self::TopicNotFound,
        Self::BrokersNotAsked,
        Self::BrokersNotAllowed,
        Self::BrokersUnreachable,
        Self::AuthenticationFailed,
        Self::SecretNotFound,
        Self::NotAccepted,
        Self::HandlersReady,
        Self::Restarting,
        Self::Paused,
        Self::Stopping,
        Self::Starting,
        Self::TopicsNotResolved,
        Self::ConsumerFailed,
        Self::HandlerFailed,
        Self::HandlerNotStarted,
        Self::ImagePullFailed,
        Self::ContainerRefused,
        Self::PodsRefused,
        Self::Unschedulable,
        Self::RollingOut,
        Self::Complete,
        Self::Stalled,
        Self::RolloutPaused,
        Self::NameTaken,
        Self::AwaitingDeletion,
        Self::ObjectRefused,
        Self::RequestFailed,
        Self::NothingLost,
        Self::RetentionPassed,
        Self::TopicRecreated,
        Self::OffsetsExpired,
        Self::OffsetsNotRead,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: &str = include_str!("../../docs/conditions.md");

    #[test]
    fn the_reference_explains_every_reason() {
        for reason in Reason::ALL {
            let heading = format!("### {}", reason.name());
            assert!(
                REFERENCE.lines().any(|line| line == heading),
                "docs/conditions.md lacks '{heading}'"
            );
        }
    }

    #[test]
    fn the_reference_explains_no_reason_that_does_not_exist() {
        for name in REFERENCE
            .lines()
            .filter_map(|line| line.strip_prefix("### "))
        {
            assert!(
                Reason::parse(name).is_some(),
                "docs/conditions.md explains '{name}', which is no reason"
            );
        }
    }
}
