//! Where partitions begin, by what the group has committed elsewhere.

use penstock_crds::spec::OnOffsetLost;

use super::*;
use crate::kafka::scripted::{Scripted, named};

/// Two topics of four partitions with a history; the group has committed these.
fn client(generation: Option<i32>, committed: &[(&str, i32, i64)]) -> Arc<Scripted> {
    let client = Scripted {
        generation,
        partitions: 4,
        ..Scripted::default()
    };
    for topic in ["orders", "returns"] {
        for partition in 0..4 {
            let log = (100, 200);
            client.logs.lock().insert(named(topic, partition), log);
        }
    }
    for (topic, partition, offset) in committed {
        let partition = named(topic, *partition);
        client.committed.lock().insert(partition, *offset);
    }
    Arc::new(client)
}

async fn begin(
    client: &Arc<Scripted>,
    reset: Option<Edge>,
    partitions: &[(&str, i32)],
) -> Beginning {
    let policy = Policy {
        reset,
        lost: OnOffsetLost::Earliest,
    };
    let partitions: Vec<_> = partitions.iter().map(|(t, p)| named(t, *p)).collect();
    look_up(client, &partitions, policy, true).await.unwrap()
}

fn offsets(beginning: &Beginning) -> Vec<Option<i64>> {
    beginning.starts.iter().map(|start| start.offset).collect()
}

const LATEST: Option<Edge> = Some(Edge::End);

#[tokio::test]
async fn a_group_without_offsets_begins_at_the_end_and_commits_that() {
    for generation in [None, Some(1), Some(7)] {
        let client = client(generation, &[]);
        let beginning = begin(&client, LATEST, &[("orders", 0), ("orders", 1)]).await;
        assert_eq!(offsets(&beginning), [Some(200), Some(200)]);
        assert_eq!(beginning.uncommitted.len(), 2);
    }
}

#[tokio::test]
async fn a_partition_that_is_new_to_a_group_with_offsets_begins_at_the_log_start() {
    // The offset may be in the assignment, or in that of another member.
    for committed in [("orders", 0, 150), ("orders", 3, 150)] {
        for generation in [None, Some(2)] {
            let client = client(generation, &[committed]);
            let beginning = begin(&client, LATEST, &[("orders", 0), ("orders", 1)]).await;
            assert_eq!(offsets(&beginning)[1], Some(100), "{committed:?}");
            assert!(beginning.uncommitted.contains(&named("orders", 1)));
        }
    }
}

#[tokio::test]
async fn in_the_first_generation_what_another_member_committed_makes_nothing_new() {
    let client = client(Some(1), &[("orders", 3, 200)]);
    let beginning = begin(&client, LATEST, &[("orders", 0), ("orders", 1)]).await;
    assert_eq!(offsets(&beginning), [Some(200), Some(200)]);
}

#[tokio::test]
async fn a_topic_that_is_new_to_the_group_begins_by_its_policy() {
    let client = client(Some(5), &[("orders", 0, 150)]);
    let partitions = [("orders", 0), ("returns", 0)];
    let beginning = begin(&client, LATEST, &partitions).await;
    assert_eq!(offsets(&beginning), [Some(150), Some(200)]);
    let only_new = [named("returns", 0)];
    assert!(beginning.uncommitted.iter().eq(&only_new));
}

#[tokio::test]
async fn earliest_begins_at_the_log_start_and_needs_no_commit() {
    let client = client(Some(5), &[("orders", 0, 150)]);
    let partitions = [("orders", 0), ("orders", 1), ("returns", 0)];
    let beginning = begin(&client, Some(Edge::Start), &partitions).await;
    assert_eq!(offsets(&beginning), [Some(150), Some(100), Some(100)]);
    assert!(beginning.uncommitted.is_empty());
}

#[tokio::test]
async fn fail_refuses_a_group_without_offsets_and_no_new_partition() {
    let client = client(Some(5), &[("orders", 0, 150)]);
    let beginning = begin(&client, None, &[("orders", 0), ("orders", 1)]).await;
    assert_eq!(beginning.refused, None);
    assert_eq!(offsets(&beginning), [Some(150), Some(100)]);
    let beginning = begin(&client, None, &[("returns", 2)]).await;
    let refused = beginning.refused.unwrap();
    assert!(refused.contains("returns/2"), "{refused}");
}

#[tokio::test]
async fn a_log_that_cannot_be_looked_up_is_an_error_and_no_guess() {
    let client = client(Some(5), &[]);
    client.logs.lock().remove(&named("orders", 1));
    let policy = Policy {
        reset: LATEST,
        lost: OnOffsetLost::Earliest,
    };
    let partitions = [named("orders", 0), named("orders", 1)];
    let error = look_up(&client, &partitions, policy, true)
        .await
        .err()
        .unwrap();
    assert_eq!(error.code, RDKafkaErrorCode::LeaderNotAvailable);
}
