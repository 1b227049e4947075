//! Commits: who may, and how they end.

use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tokio::time::Instant;

use super::reader::{GROUP, Reader, TOPIC, cluster, fill, run_for, settings, until};
use crate::kafka::seam::{Client as _, CommitEntry, Event};
use crate::kafka::simulated::group::Committer;
use crate::kafka::simulated::{
    Fault, GroupProtocol, Kafka, KafkaSettings, MemberSettings, TopicKind,
};

async fn reader(kafka: &Kafka, protocol: GroupProtocol) -> Reader {
    let mut reader = Reader::join(kafka, settings(protocol));
    reader
        .until("an assignment", |it| !it.owned.is_empty())
        .await;
    reader
}

#[tokio::test(start_paused = true)]
async fn a_commit_is_stored_with_its_metadata() {
    let kafka = cluster(1, 1);
    let mut reader = reader(&kafka, GroupProtocol::Eager).await;
    let entry = CommitEntry {
        topic: TOPIC,
        partition: 0,
        offset: 5,
        leader_epoch: None,
        metadata: "gaps",
    };
    reader.client.commit(entry).unwrap();
    assert!(kafka.committed(GROUP).is_empty(), "it is on its way");
    reader
        .until("the outcome", |it| !it.outcomes.is_empty())
        .await;
    let outcome = &reader.outcomes[0];
    assert_eq!((outcome.result, outcome.offset), (Ok(()), Some(5)));
    assert_eq!(outcome.metadata, "gaps");
    let committed = kafka.committed(GROUP);
    assert_eq!(committed[&(TOPIC.to_owned(), 0)], (5, "gaps".to_owned()));
    let log = kafka.commit_log(GROUP);
    assert_eq!(log.len(), 1);
    assert_eq!(
        (log[0].offset, log[0].generation, log[0].is_transactional),
        (5, 1, false)
    );
    assert!(log[0].member.starts_with("client-") && log[0].at > Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn metadata_has_a_limit() {
    let kafka = cluster(2, 1);
    let mut reader = reader(&kafka, GroupProtocol::Eager).await;
    let entry = CommitEntry {
        topic: TOPIC,
        partition: 0,
        offset: 5,
        leader_epoch: None,
        metadata: &"x".repeat(4097),
    };
    reader.client.commit(entry).unwrap();
    reader
        .until("the outcome", |it| !it.outcomes.is_empty())
        .await;
    assert_eq!(
        reader.outcomes[0].result,
        Err(RDKafkaErrorCode::OffsetMetadataTooLarge)
    );
}

#[tokio::test(start_paused = true)]
async fn the_classic_coordinator_takes_commits_until_the_group_has_a_new_generation() {
    let kafka = cluster(3, 2);
    let mut first = reader(&kafka, GroupProtocol::Eager).await;
    let mut second = Reader::join(&kafka, settings(GroupProtocol::Eager));
    first.is_silent = true;
    until("a revocation", &mut [&mut first, &mut second], |it| {
        !it[0].unanswered.is_empty()
    })
    .await;
    first.commit(0, 1);
    first
        .until("the outcome", |it| it.outcomes.len() == 1)
        .await;
    assert_eq!(
        first.outcomes[0].result,
        Ok(()),
        "the group prepares its rebalance"
    );
    assert!(matches!(
        &first.unanswered[0],
        Event::Revoke { lost: false, .. }
    ));
}

/// The broker reads no other request while one waits for the rebalance.
#[tokio::test(start_paused = true)]
async fn a_commit_behind_a_join_waits_and_comes_too_late() {
    let kafka = cluster(4, 2);
    let mut first = reader(&kafka, GroupProtocol::Cooperative).await;
    let mut second = Reader::join(&kafka, settings(GroupProtocol::Cooperative));
    until("a share each", &mut [&mut first, &mut second], |it| {
        it.iter().all(|it| it.owned.len() == 1)
    })
    .await;
    // Once the first has joined again, it waits for the second.
    second.client.freeze();
    let mut third = Reader::join(&kafka, settings(GroupProtocol::Cooperative));
    run_for(Duration::from_secs(5), &mut [&mut first, &mut third]).await;
    first.commit(first.numbers()[0], 1);
    run_for(Duration::from_secs(1), &mut [&mut first, &mut third]).await;
    assert!(first.outcomes.is_empty());
    until("the outcome", &mut [&mut first, &mut third], |it| {
        !it[0].outcomes.is_empty()
    })
    .await;
    assert_eq!(
        first.outcomes[0].result,
        Err(RDKafkaErrorCode::IllegalGeneration)
    );
    assert!(
        first.revoked.iter().all(|(_, lost)| !lost),
        "it takes part in the new generation"
    );
}

/// What the coordinator would say to a commit that arrived now.
fn verdict(kafka: &Kafka, reader: &Reader, older: i32) -> Result<(), RDKafkaErrorCode> {
    let membership = reader
        .client
        .membership()
        .ok_or(RDKafkaErrorCode::UnknownMemberId)?;
    let by = Committer {
        member: membership.member,
        generation: membership.generation - older,
    };
    kafka.cluster.lock().validate_commit(GROUP, &by, &[], false)
}

#[tokio::test(start_paused = true)]
async fn between_two_generations_commits_are_refused() {
    let kafka = cluster(5, 2);
    let mut first = reader(&kafka, GroupProtocol::Eager).await;
    assert_eq!(
        verdict(&kafka, &first, 1),
        Err(RDKafkaErrorCode::IllegalGeneration)
    );
    let mut second = Reader::join(&kafka, settings(GroupProtocol::Eager));
    let mut verdicts = Vec::new();
    while second.owned.is_empty() {
        first.serve().await;
        second.serve().await;
        let verdict = verdict(&kafka, &first, 0);
        if verdicts.last() != Some(&verdict) {
            verdicts.push(verdict);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The coordinator has the next generation before the member knows of it.
    let illegal = Err(RDKafkaErrorCode::IllegalGeneration);
    let rebalances = Err(RDKafkaErrorCode::RebalanceInProgress);
    assert_eq!(verdicts, [Ok(()), illegal, rebalances, Ok(())]);
}

#[tokio::test(start_paused = true)]
async fn a_commit_by_an_older_epoch_is_stale() {
    let kafka = cluster(6, 2);
    let mut first = reader(&kafka, GroupProtocol::Consumer).await;
    let mut second = Reader::join(&kafka, settings(GroupProtocol::Consumer));
    let mut verdicts = Vec::new();
    while second.owned.is_empty() {
        first.serve().await;
        second.serve().await;
        let verdict = verdict(&kafka, &first, 0);
        if verdicts.last() != Some(&verdict) {
            verdicts.push(verdict);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let stale = Err(RDKafkaErrorCode::StaleMemberEpoch);
    assert_eq!(
        verdicts,
        [Ok(()), stale, Ok(())],
        "until the answer to its heartbeat"
    );
    assert_eq!(verdict(&kafka, &first, 1), stale);
}

#[tokio::test(start_paused = true)]
async fn refusals_come_as_often_as_planned() {
    let kafka = cluster(6, 1);
    let mut reader = reader(&kafka, GroupProtocol::Eager).await;
    kafka.fail(Fault::CommitRefused(
        RDKafkaErrorCode::RebalanceInProgress,
        2,
    ));
    for offset in 1..=3 {
        reader.commit(0, offset);
    }
    reader
        .until("the outcomes", |it| it.outcomes.len() == 3)
        .await;
    let refused = Err(RDKafkaErrorCode::RebalanceInProgress);
    let results: Vec<_> = reader.outcomes.iter().map(|it| it.result).collect();
    assert_eq!(results, [refused, refused, Ok(())]);
}

#[tokio::test(start_paused = true)]
async fn faults_can_be_ended() {
    let kafka = cluster(13, 1);
    let mut reader = reader(&kafka, GroupProtocol::Eager).await;
    kafka.fail(Fault::Unreachable(Duration::from_secs(1000)));
    kafka.fail(Fault::CommitRefused(
        RDKafkaErrorCode::RebalanceInProgress,
        100,
    ));
    kafka.end_faults();
    reader.commit(0, 1);
    reader
        .until("the outcome", |it| !it.outcomes.is_empty())
        .await;
    assert_eq!(reader.outcomes[0].result, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_times_out_may_have_been_applied() {
    for applied in [true, false] {
        let kafka = cluster(7, 1);
        let mut reader = reader(&kafka, GroupProtocol::Eager).await;
        kafka.fail(Fault::CommitTimesOut { applied });
        reader.commit(0, 9);
        let began = Instant::now();
        reader
            .until("the outcome", |it| !it.outcomes.is_empty())
            .await;
        assert!(began.elapsed() >= Duration::from_secs(60));
        assert_eq!(
            reader.outcomes[0].result,
            Err(RDKafkaErrorCode::OperationTimedOut)
        );
        assert_eq!(!kafka.committed(GROUP).is_empty(), applied);
    }
}

#[tokio::test(start_paused = true)]
async fn without_brokers_a_commit_waits_for_the_session_and_fails() {
    let kafka = cluster(8, 1);
    let mut reader = reader(&kafka, GroupProtocol::Eager).await;
    kafka.fail(Fault::Unreachable(Duration::from_secs(5)));
    reader.commit(0, 1);
    reader
        .until("the outcome", |it| it.outcomes.len() == 1)
        .await;
    assert_eq!(
        reader.outcomes[0].result,
        Ok(()),
        "sent again when they are back"
    );
    kafka.fail(Fault::Unreachable(Duration::from_secs(60)));
    reader.commit(0, 2);
    reader
        .until("the outcome", |it| it.outcomes.len() == 2)
        .await;
    assert_eq!(
        reader.outcomes[1].result,
        Err(RDKafkaErrorCode::WaitingForCoordinator)
    );
    run_for(Duration::from_secs(5), &mut [&mut reader]).await;
    let lost = [(vec![0], true)];
    assert_eq!(
        reader.revoked, lost,
        "its session has timed out, as its own clock says"
    );
}

#[tokio::test(start_paused = true)]
async fn an_illegal_generation_loses_the_assignment() {
    let kafka = cluster(9, 1);
    let mut reader = reader(&kafka, GroupProtocol::Eager).await;
    kafka.fail(Fault::CommitRefused(RDKafkaErrorCode::IllegalGeneration, 1));
    reader.commit(0, 1);
    reader.until("a loss", |it| !it.revoked.is_empty()).await;
    assert_eq!(reader.revoked[0], (vec![0], true));
    assert_eq!(reader.outcomes.len(), 1, "the outcome came first");
    reader
        .until("an assignment", |it| it.owned.len() == 1)
        .await;
    assert!(!reader.client.is_assignment_lost());
}

#[tokio::test(start_paused = true)]
async fn a_member_rejoins_only_once_its_commits_are_answered() {
    let kafka = Kafka::new(
        10,
        KafkaSettings {
            request_timeout: Duration::from_secs(6),
            ..KafkaSettings::default()
        },
    );
    kafka.create_topic(TOPIC, 1, TopicKind::default());
    let mut first = reader(&kafka, GroupProtocol::Eager).await;
    kafka.fail(Fault::CommitTimesOut { applied: true });
    first.commit(0, 1);
    let mut second = Reader::join(&kafka, settings(GroupProtocol::Eager));
    run_for(Duration::from_millis(5500), &mut [&mut first, &mut second]).await;
    assert_eq!(first.revoked, [(vec![0], false)], "it has answered");
    assert!(first.outcomes.is_empty() && second.assigned.is_empty());
    until("the outcome", &mut [&mut first, &mut second], |it| {
        !it[0].outcomes.is_empty()
    })
    .await;
    assert_eq!(first.assigned.len(), 1, "it has not joined again before");
    until("an assignment each", &mut [&mut first, &mut second], |it| {
        it[0].assigned.len() == 2 && it[1].assigned.len() == 1
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn handed_out_messages_are_committed_automatically_and_at_a_revocation() {
    let kafka = cluster(11, 1);
    fill(&kafka, 0, 3);
    let automatic = MemberSettings {
        auto_commit: Some(Duration::from_secs(5)),
        ..settings(GroupProtocol::Eager)
    };
    let mut reader = Reader::join(&kafka, automatic);
    let committed = |kafka: &Kafka| {
        kafka
            .committed(GROUP)
            .values()
            .map(|it| it.0)
            .collect::<Vec<_>>()
    };
    reader
        .until("the commit", |it| !it.outcomes.is_empty())
        .await;
    assert_eq!(committed(&kafka), [3]);
    fill(&kafka, 0, 2);
    reader
        .until("the next messages", |it| it.records.len() == 5)
        .await;
    std::sync::Arc::clone(&reader.client).leave().await;
    assert_eq!(committed(&kafka), [5]);
    assert!(kafka.is_empty(GROUP));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "has members")]
async fn offsets_of_a_group_with_members_are_not_reset() {
    let kafka = cluster(12, 1);
    let _reader = reader(&kafka, GroupProtocol::Eager).await;
    kafka.reset_offsets(GROUP, TOPIC, 0, 3);
}
