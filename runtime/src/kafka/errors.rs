//! The meaning of Kafka's and librdkafka's errors for a consumer. Every decision about a code
//! is here, with a table that tests it.
//!
//! The facts are from librdkafka 2.12, in whose words the codes are named here:
//! `rdkafka_fetcher.c` (`rd_kafka_fetch_reply_handle_partition_error`) and
//! `rdkafka_msgset_reader.c` for fetches, `rdkafka_request.c`
//! (`rd_kafka_handle_OffsetCommit_error`, `rd_kafka_handle_Produce_error`) for commits and
//! records, `rdkafka_cgrp.c` (`rd_kafka_cgrp_handle_ConsumerGroupHeartbeat`) for KIP-848.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::program::end_code::EndCode;

/// Returns what the error says, without the value of a property: it may be a credential, and
/// the text goes to logs, events and statuses.
pub fn error_text(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, _, property, _) => {
            format!("librdkafka refuses the value of '{property}'")
        }
        error => error.to_string(),
    }
}

/// Returns `true` for errors of the client as a whole after which librdkafka continues by
/// itself.
pub(crate) fn mends_itself(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::MessageTimedOut
            | RDKafkaErrorCode::SSL
            | RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::PollExceeded
            | RDKafkaErrorCode::PartitionEOF
            | RDKafkaErrorCode::NodeUpdate
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::CoordinatorLoadInProgress
            | RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::RebalanceInProgress
            | RDKafkaErrorCode::UnknownMemberId
            | RDKafkaErrorCode::IllegalGeneration
            | RDKafkaErrorCode::StaleMemberEpoch
            | RDKafkaErrorCode::FencedMemberEpoch
    )
}

/// Returns `true` for answers to a commit or a look-up of offsets that mean "not now": the
/// group is between two generations, or its coordinator is moving. The same request may
/// succeed a moment later.
///
/// By KIP-848, `StaleMemberEpoch` says that the member's epoch has moved on and comes with
/// the next heartbeat, and `FencedMemberEpoch` that the member joins again; its partitions
/// are revoked as lost then, which answers what waits. `UnreleasedInstanceId`,
/// `FencedInstanceId`, `UnsupportedAssignor` and `GroupMaxSizeReached` end the client.
pub(crate) fn is_between_generations(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::RebalanceInProgress
            | RDKafkaErrorCode::IllegalGeneration
            | RDKafkaErrorCode::UnknownMemberId
            | RDKafkaErrorCode::StaleMemberEpoch
            | RDKafkaErrorCode::FencedMemberEpoch
            | RDKafkaErrorCode::CoordinatorLoadInProgress
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::WaitingForCoordinator
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::DestroyBroker
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::MessageTimedOut
            | RDKafkaErrorCode::UnstableOffsetCommit
            | RDKafkaErrorCode::ConcurrentTransactions
    )
}

/// The consequence of an error in the place of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FetchError {
    /// No error, but the end of the partition.
    End,
    /// librdkafka fetches again from the same offset, so nothing is lost; to be counted
    /// and warned of.
    Retried,
    /// librdkafka cannot recover, or would pass over messages: the consumer must end.
    Fatal,
}

/// Judges an error of a fetch.
///
/// librdkafka deals with some codes alone (a leader that moved, an offset out of range) and
/// passes all others on, though it retries them too, after `fetch.error.backoff.ms` and
/// from the same offset. Fatal are
/// - refusals that an administrator must end: authorization, unknown topics, formats;
/// - what librdkafka found in a response (`BadMessage`, `BadCompression`,
///   `NotImplemented`): it skips the record set after a CRC or a magic byte that is wrong,
///   and never gets behind one that it cannot decompress;
/// - `AutoOffsetReset`, after which it does not fetch again, and `Fatal`.
pub(crate) fn judge_fetch(code: RDKafkaErrorCode) -> FetchError {
    match code {
        RDKafkaErrorCode::PartitionEOF => FetchError::End,
        // The leader or its storage fails. Tiered storage answers Unknown (-1) or
        // RequestTimedOut when the remote tier does not deliver.
        RDKafkaErrorCode::Unknown
        | RDKafkaErrorCode::InvalidMessage
        | RDKafkaErrorCode::OffsetNotAvailable
        | RDKafkaErrorCode::LeaderNotAvailable
        | RDKafkaErrorCode::NotLeaderForPartition
        | RDKafkaErrorCode::BrokerNotAvailable
        | RDKafkaErrorCode::ReplicaNotAvailable
        | RDKafkaErrorCode::PreferredLeaderNotAvailable
        | RDKafkaErrorCode::EligibleLeadersNotAvailable
        | RDKafkaErrorCode::KafkaStorageError
        | RDKafkaErrorCode::RequestTimedOut
        | RDKafkaErrorCode::NetworkException
        | RDKafkaErrorCode::NotEnoughReplicas
        | RDKafkaErrorCode::FencedLeaderEpoch
        | RDKafkaErrorCode::UnknownLeaderEpoch
        | RDKafkaErrorCode::UnknownTopicId
        | RDKafkaErrorCode::FetchSessionIdNotFound
        | RDKafkaErrorCode::InvalidFetchSessionEpoch
        | RDKafkaErrorCode::ReassignmentInProgress
        | RDKafkaErrorCode::ThrottlingQuotaExceeded
        | RDKafkaErrorCode::ListenerNotFound
        | RDKafkaErrorCode::StaleControllerEpoch
        | RDKafkaErrorCode::StaleBrokerEpoch => FetchError::Retried,
        // Errors of the connection, the group or a look-up of offsets.
        code if mends_itself(code) || is_between_generations(code) => FetchError::Retried,
        _ => FetchError::Fatal,
    }
}

/// Returns the code with which the runtime ends after an error that librdkafka does not retry.
/// Codes differ where the remedies do.
pub(crate) fn end_code(code: RDKafkaErrorCode) -> EndCode {
    match code {
        RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::GroupAuthorizationFailed
        | RDKafkaErrorCode::ClusterAuthorizationFailed
        | RDKafkaErrorCode::TransactionalIdAuthorizationFailed => EndCode::AuthorizationFailed,
        RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownTopicOrPartition
        | RDKafkaErrorCode::UnknownPartition => EndCode::TopicNotFound,
        RDKafkaErrorCode::UnreleasedInstanceId
        | RDKafkaErrorCode::FencedInstanceId
        | RDKafkaErrorCode::UnsupportedAssignor
        | RDKafkaErrorCode::InconsistentGroupProtocol
        | RDKafkaErrorCode::GroupMaxSizeReached => EndCode::GroupRefused,
        RDKafkaErrorCode::BadMessage
        | RDKafkaErrorCode::BadCompression
        | RDKafkaErrorCode::NotImplemented => EndCode::RecordsUnreadable,
        _ => EndCode::KafkaError,
    }
}

/// Returns `true` if the brokers refused a record for what it is: they would refuse it
/// again, and perhaps not another one in its place.
pub(crate) fn is_refused_record(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::MessageBatchTooLarge
            | RDKafkaErrorCode::InvalidMessageSize
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::InvalidTimestamp
            | RDKafkaErrorCode::PolicyViolation
            | RDKafkaErrorCode::UnsupportedForMessageFormat
            | RDKafkaErrorCode::UnsupportedCompressionType
    )
}

/// Returns `true` if the same record would be refused again, because of what it is or of
/// its topic.
pub(crate) fn is_for_good(code: RDKafkaErrorCode) -> bool {
    is_refused_record(code)
        || matches!(
            code,
            RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::InvalidTopic
        )
}

/// Returns `true` if brokers say so of each record of a batch, whichever it was.
pub(crate) fn is_of_the_batch(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::MessageBatchTooLarge
            | RDKafkaErrorCode::InvalidMessageSize
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::InvalidTimestamp
            | RDKafkaErrorCode::InvalidDifferentRecord
            | RDKafkaErrorCode::PolicyViolation
    )
}

#[cfg(test)]
mod tests;
