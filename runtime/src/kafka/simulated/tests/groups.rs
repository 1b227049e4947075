//! Membership and assignment, in each protocol.

use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;

use super::reader::{GROUP, Reader, TOPIC, cluster, fill, run_for, settings, share_all, until};
use crate::kafka::seam::Client as _;
use crate::kafka::simulated::{GroupProtocol, MemberSettings};

const ALL: [GroupProtocol; 3] = [
    GroupProtocol::Eager,
    GroupProtocol::Cooperative,
    GroupProtocol::Consumer,
];

#[tokio::test(start_paused = true)]
async fn a_member_gets_all_partitions_and_two_share_them() {
    for protocol in ALL {
        let kafka = cluster(1, 4);
        let mut first = Reader::join(&kafka, settings(protocol));
        first
            .until("all partitions", |it| it.owned.len() == 4)
            .await;
        let mut second = Reader::join(&kafka, settings(protocol));
        until("half of them each", &mut [&mut first, &mut second], |it| {
            share_all(it, 4) && it.iter().all(|it| it.owned.len() == 2)
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn eager_revokes_everything_in_each_rebalance() {
    let kafka = cluster(2, 4);
    let mut first = Reader::join(&kafka, settings(GroupProtocol::Eager));
    first
        .until("all partitions", |it| it.owned.len() == 4)
        .await;
    let generation = first.client.membership().unwrap().generation;
    let mut second = Reader::join(&kafka, settings(GroupProtocol::Eager));
    until("a share each", &mut [&mut first, &mut second], |it| {
        share_all(it, 4) && it[1].owned.len() == 2
    })
    .await;
    assert_eq!(first.revoked, [(vec![0, 1, 2, 3], false)]);
    assert_eq!(
        first.client.membership().unwrap().generation,
        generation + 1
    );
    // By range: the ids of members are sorted.
    assert_eq!(first.numbers(), [0, 1]);
    assert_eq!(second.numbers(), [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn incremental_protocols_revoke_only_what_moves() {
    for protocol in [GroupProtocol::Cooperative, GroupProtocol::Consumer] {
        let kafka = cluster(3, 4);
        let mut first = Reader::join(&kafka, settings(protocol));
        first
            .until("all partitions", |it| it.owned.len() == 4)
            .await;
        let mut second = Reader::join(&kafka, settings(protocol));
        until("a share each", &mut [&mut first, &mut second], |it| {
            share_all(it, 4) && it[1].owned.len() == 2
        })
        .await;
        let revoked: Vec<_> = first
            .revoked
            .iter()
            .flat_map(|(it, _)| it.clone())
            .collect();
        assert_eq!(revoked, second.numbers(), "{protocol:?}");
        assert!(first.revoked.iter().all(|(_, lost)| !lost));
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_member_is_noticed_by_its_session() {
    for protocol in ALL {
        let kafka = cluster(4, 4);
        let mut first = Reader::join(&kafka, settings(protocol));
        let mut second = Reader::join(&kafka, settings(protocol));
        until("a share each", &mut [&mut first, &mut second], |it| {
            share_all(it, 4) && it.iter().all(|it| it.owned.len() == 2)
        })
        .await;
        first.client.kill();
        run_for(Duration::from_secs(5), &mut [&mut second]).await;
        assert_eq!(
            second.owned.len(),
            2,
            "its session has not timed out: {protocol:?}"
        );
        second
            .until("the dead one's partitions", |it| it.owned.len() == 4)
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_leaves_is_gone_at_once() {
    for protocol in ALL {
        let kafka = cluster(5, 4);
        let mut first = Reader::join(&kafka, settings(protocol));
        let mut second = Reader::join(&kafka, settings(protocol));
        until("a share each", &mut [&mut first, &mut second], |it| {
            share_all(it, 4) && it.iter().all(|it| it.owned.len() == 2)
        })
        .await;
        let began = tokio::time::Instant::now();
        let leaver = std::sync::Arc::clone(&first.client);
        leaver.leave().await;
        assert!(began.elapsed() < Duration::from_secs(1), "{protocol:?}");
        second
            .until("its partitions", |it| it.owned.len() == 4)
            .await;
        assert!(
            began.elapsed() < Duration::from_secs(9),
            "before its session: {protocol:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_frozen_member_is_fenced_and_learns_that_its_partitions_are_lost() {
    for (protocol, refusals) in [
        (GroupProtocol::Eager, RDKafkaErrorCode::UnknownMemberId),
        (
            GroupProtocol::Cooperative,
            RDKafkaErrorCode::UnknownMemberId,
        ),
        (GroupProtocol::Consumer, RDKafkaErrorCode::UnknownMemberId),
    ] {
        let kafka = cluster(6, 2);
        fill(&kafka, 0, 10);
        let mut first = Reader::join(&kafka, settings(protocol));
        first
            .until("all partitions", |it| it.owned.len() == 2)
            .await;
        first.client.freeze();
        let mut second = Reader::join(&kafka, settings(protocol));
        second
            .until("all partitions", |it| it.owned.len() == 2)
            .await;
        first.client.thaw();
        // Before it hears anything.
        first.commit(0, 5);
        first
            .until("the outcome", |it| !it.outcomes.is_empty())
            .await;
        assert_eq!(first.outcomes[0].result, Err(refusals), "{protocol:?}");
        first.until("a loss", |it| !it.revoked.is_empty()).await;
        assert_eq!(first.revoked[0], (vec![0, 1], true), "{protocol:?}");
        assert!(kafka.committed(GROUP).is_empty());
        until("a share each", &mut [&mut first, &mut second], |it| {
            share_all(it, 2) && it.iter().all(|it| it.owned.len() == 1)
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_coordinator_notes_whose_partitions_were_and_who_was_evicted() {
    for protocol in ALL {
        let kafka = cluster(6, 1);
        let mut first = Reader::join(&kafka, settings(protocol));
        first.until("the partition", |it| it.owned.len() == 1).await;
        first.client.freeze();
        let mut second = Reader::join(&kafka, settings(protocol));
        second
            .until("the partition", |it| it.owned.len() == 1)
            .await;
        first.client.thaw();
        first.commit(0, 5);
        first
            .until("the outcome", |it| !it.outcomes.is_empty())
            .await;
        first.until("a loss", |it| !it.revoked.is_empty()).await;
        let refused = kafka.refused_commits(GROUP);
        assert_eq!(refused.len(), 1, "{protocol:?}");
        assert_eq!(refused[0].1, first.client.id(), "{protocol:?}");
        std::sync::Arc::clone(&second.client).leave().await;
        first.until("the partition", |it| it.owned.len() == 1).await;
        let tenures = kafka.tenures(GROUP);
        let owners: Vec<_> = tenures
            .iter()
            .map(|it| (it.client, it.is_evicted, it.until.is_some()))
            .collect();
        let (one, other) = (first.client.id(), second.client.id());
        let expected = [(one, true, true), (other, false, true), (one, false, false)];
        assert_eq!(owners, expected, "{protocol:?}");
        for two in tenures.windows(2) {
            assert!(two[0].until <= Some(two[1].from), "{protocol:?}: {two:?}");
        }
    }
}

/// In `Cooperative` it has joined again before it is asked to revoke anything, so nothing
/// evicts it.
#[tokio::test(start_paused = true)]
async fn a_member_that_does_not_answer_a_rebalance_is_evicted() {
    for protocol in [GroupProtocol::Eager, GroupProtocol::Consumer] {
        let kafka = cluster(7, 4);
        let slow = MemberSettings {
            max_poll_interval: Duration::from_secs(20),
            ..settings(protocol)
        };
        let mut first = Reader::join(&kafka, slow.clone());
        first
            .until("all partitions", |it| it.owned.len() == 4)
            .await;
        first.is_silent = true;
        let mut second = Reader::join(&kafka, slow);
        // It polls, but does not give its partitions up.
        until("all partitions", &mut [&mut first, &mut second], |it| {
            it[1].owned.len() == 4
        })
        .await;
        first.commit(0, 1);
        first
            .until("the outcome", |it| !it.outcomes.is_empty())
            .await;
        assert!(first.outcomes[0].result.is_err(), "{protocol:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_not_polled_leaves_and_comes_back() {
    for protocol in ALL {
        let kafka = cluster(8, 2);
        let impatient = MemberSettings {
            max_poll_interval: Duration::from_secs(15),
            ..settings(protocol)
        };
        let mut first = Reader::join(&kafka, impatient);
        first
            .until("all partitions", |it| it.owned.len() == 2)
            .await;
        let mut second = Reader::join(&kafka, settings(protocol));
        second
            .until("all partitions", |it| it.owned.len() == 2)
            .await;
        first.until("a loss", |it| !it.revoked.is_empty()).await;
        if protocol == GroupProtocol::Consumer {
            first
                .until("a loss", |it| it.revoked.iter().any(|(_, lost)| *lost))
                .await;
        }
        until("a share each", &mut [&mut first, &mut second], |it| {
            share_all(it, 2) && it.iter().all(|it| it.owned.len() == 1)
        })
        .await;
        assert_eq!(first.poll_errors, [RDKafkaErrorCode::PollExceeded]);
    }
}

#[tokio::test(start_paused = true)]
async fn new_partitions_are_assigned() {
    for protocol in ALL {
        let kafka = cluster(9, 1);
        let mut reader = Reader::join(&kafka, settings(protocol));
        reader
            .until("the partition", |it| it.owned.len() == 1)
            .await;
        kafka.add_partitions(TOPIC, 3);
        reader.until("all of them", |it| it.owned.len() == 3).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_moves_keeps_the_group() {
    for protocol in ALL {
        let kafka = cluster(10, 2);
        let mut reader = Reader::join(&kafka, settings(protocol));
        reader
            .until("all partitions", |it| it.owned.len() == 2)
            .await;
        let before = reader.client.membership();
        kafka.move_coordinator(GROUP);
        reader.commit(0, 0);
        reader
            .until("the outcome", |it| !it.outcomes.is_empty())
            .await;
        assert_eq!(reader.outcomes[0].result, Ok(()), "{protocol:?}");
        run_for(Duration::from_secs(30), &mut [&mut reader]).await;
        assert_eq!(reader.client.membership(), before);
        assert!(reader.revoked.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() {
    async fn run(seed: u64) -> Vec<String> {
        let kafka = cluster(seed, 4);
        fill(&kafka, 0, 50);
        let mut first = Reader::join(&kafka, settings(GroupProtocol::Cooperative));
        first
            .until("all partitions", |it| it.owned.len() == 4)
            .await;
        let mut second = Reader::join(&kafka, settings(GroupProtocol::Cooperative));
        first.commit(0, 7);
        until("a share each", &mut [&mut first, &mut second], |it| {
            share_all(it, 4) && it[1].owned.len() == 2
        })
        .await;
        first.client.kill();
        second
            .until("the dead one's", |it| it.owned.len() == 4)
            .await;
        kafka.events()
    }
    let events = run(11).await;
    assert!(events.len() > 10, "{events:?}");
    assert_eq!(run(11).await, events);
    assert_ne!(run(12).await, events);
}
