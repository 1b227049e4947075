use RDKafkaErrorCode as Code;

use super::*;

/// The codes that can be an answer, with all that holds of each: it `mends` by itself,
/// `passes` as an answer to a commit, is the `end`, `retried` or `fatal` in a fetch, was
/// `refused` as a record, would be refused again `for-good`, and has an end code that is not
/// `KafkaError`.
const TABLE: &[(Code, &str)] = &[
    (Code::PartitionEOF, "mends end"),
    (Code::AllBrokersDown, "mends retried"),
    (Code::BrokerTransportFailure, "mends passes retried"),
    (Code::Resolve, "mends retried"),
    (Code::SSL, "mends retried"),
    (Code::Authentication, "mends retried"),
    (Code::OperationTimedOut, "mends passes retried"),
    (Code::MessageTimedOut, "mends passes retried"),
    (Code::PollExceeded, "mends retried"),
    (Code::NodeUpdate, "mends retried"),
    (Code::DestroyBroker, "passes retried"),
    // The group, by both protocols.
    (Code::RebalanceInProgress, "mends passes retried"),
    (Code::IllegalGeneration, "mends passes retried"),
    (Code::UnknownMemberId, "mends passes retried"),
    (Code::StaleMemberEpoch, "mends passes retried"),
    (Code::FencedMemberEpoch, "mends passes retried"),
    (Code::UnreleasedInstanceId, "fatal GroupRefused"),
    (Code::FencedInstanceId, "fatal GroupRefused"),
    (Code::UnsupportedAssignor, "fatal GroupRefused"),
    (Code::GroupMaxSizeReached, "fatal GroupRefused"),
    (Code::InconsistentGroupProtocol, "fatal GroupRefused"),
    (Code::GroupAuthorizationFailed, "fatal AuthorizationFailed"),
    // Its coordinator, and offsets.
    (Code::CoordinatorLoadInProgress, "mends passes retried"),
    (Code::CoordinatorNotAvailable, "mends passes retried"),
    (Code::NotCoordinator, "mends passes retried"),
    (Code::WaitingForCoordinator, "passes retried"),
    (Code::UnstableOffsetCommit, "passes retried"),
    (Code::ConcurrentTransactions, "passes retried"),
    (Code::OffsetMetadataTooLarge, "fatal"),
    (Code::InvalidCommitOffsetSize, "fatal"),
    // Fetches.
    (Code::Unknown, "retried"),
    (Code::RequestTimedOut, "passes retried"),
    (Code::NetworkException, "retried"),
    (Code::KafkaStorageError, "retried"),
    (Code::NotLeaderForPartition, "retried"),
    (Code::LeaderNotAvailable, "retried"),
    (Code::FencedLeaderEpoch, "retried"),
    (Code::UnknownTopicId, "retried"),
    (Code::OffsetNotAvailable, "retried"),
    (Code::ThrottlingQuotaExceeded, "retried"),
    (Code::BadMessage, "fatal RecordsUnreadable"),
    (Code::BadCompression, "fatal RecordsUnreadable"),
    (Code::NotImplemented, "fatal RecordsUnreadable"),
    (Code::AutoOffsetReset, "fatal"),
    (Code::OffsetOutOfRange, "fatal"),
    (Code::UnsupportedVersion, "fatal"),
    (Code::Fatal, "fatal"),
    // Records.
    (Code::InvalidMessage, "retried refused for-good"),
    (Code::MessageSizeTooLarge, "fatal refused for-good"),
    (Code::MessageBatchTooLarge, "fatal refused for-good"),
    (Code::InvalidRecord, "fatal refused for-good"),
    (Code::PolicyViolation, "fatal refused for-good"),
    (Code::InvalidTimestamp, "fatal refused for-good"),
    (Code::UnsupportedCompressionType, "fatal refused for-good"),
    (Code::InvalidDifferentRecord, "fatal"),
    (Code::UnknownTopic, "fatal for-good TopicNotFound"),
    (
        Code::UnknownTopicOrPartition,
        "fatal for-good TopicNotFound",
    ),
    (Code::UnknownPartition, "fatal for-good TopicNotFound"),
    (Code::InvalidTopic, "fatal for-good"),
    (
        Code::TopicAuthorizationFailed,
        "fatal for-good AuthorizationFailed",
    ),
    (
        Code::ClusterAuthorizationFailed,
        "fatal AuthorizationFailed",
    ),
    (Code::QueueFull, "fatal"),
];

fn judgements(code: Code) -> String {
    let fetch = match judge_fetch(code) {
        FetchError::End => "end",
        FetchError::Retried => "retried",
        FetchError::Fatal => "fatal",
    };
    let end = end_code(code);
    let all = [
        (mends_itself(code), "mends"),
        (is_between_generations(code), "passes"),
        (true, fetch),
        (is_refused_record(code), "refused"),
        (is_for_good(code), "for-good"),
        (end != EndCode::KafkaError, end.name()),
    ];
    let held: Vec<_> = all.iter().filter(|(holds, _)| *holds).collect();
    let words: Vec<_> = held.iter().map(|(_, word)| *word).collect();
    words.join(" ")
}

#[test]
fn each_code_is_judged_as_the_table_says() {
    for (code, expected) in TABLE {
        assert_eq!(judgements(*code), *expected, "{code}");
    }
}

#[test]
fn no_code_is_judged_twice() {
    for (place, (code, _)) in TABLE.iter().enumerate() {
        assert!(
            TABLE[..place].iter().all(|(other, _)| other != code),
            "{code}"
        );
    }
}

#[test]
fn what_passes_over_messages_is_never_retried() {
    for code in [
        Code::BadMessage,
        Code::BadCompression,
        Code::NotImplemented,
        Code::AutoOffsetReset,
    ] {
        assert_eq!(judge_fetch(code), FetchError::Fatal, "{code}");
    }
}

#[test]
fn whatever_is_refused_as_a_record_is_refused_for_good() {
    for (code, _) in TABLE {
        assert!(!is_refused_record(*code) || is_for_good(*code), "{code}");
    }
}

#[test]
fn an_error_does_not_show_the_value_of_a_property() {
    let mut config = rdkafka::ClientConfig::new();
    config.set("socket.timeout.ms", "hunter2");
    let created: Result<rdkafka::consumer::BaseConsumer, _> = config.create();
    let error = created.err().unwrap();
    assert!(error.to_string().contains("hunter2"), "{error}");
    assert_eq!(
        error_text(&error),
        "librdkafka refuses the value of 'socket.timeout.ms'"
    );
}
