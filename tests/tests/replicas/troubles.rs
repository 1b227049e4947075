//! Troubles that replicas are there for: none costs a message, or brings one twice.

use std::time::Instant;

use penstock_tests::kafka::Cluster;
use penstock_tests::oracle::Disruption;

use crate::run::Run;
use crate::{Outcome, cluster};

/// The topics that coordinators keep their state in.
const COORDINATORS: [&str; 2] = ["__consumer_offsets", "__transaction_state"];

/// Consumers of every mode go through all of it: their start is what takes long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_moves_nor_kills_nor_stops_of_brokers_cost_a_message() -> Outcome {
    let cluster = cluster().await?;
    let mut runs = Run::start_all(&cluster).await?;
    leaders_move_there_and_back(&cluster, &mut runs).await?;
    // The first leads what is read, the second coordinates.
    for topic in COORDINATORS {
        cluster.place(topic, &[2, 3, 1]).await?;
    }
    let mut kills = Vec::new();
    for id in [1, 2] {
        let killed = Instant::now();
        cluster.node(id).kill()?;
        leaders_are_elsewhere(&cluster, &runs, id).await?;
        Run::all_go_on(&mut runs).await?;
        come_back(&cluster, &runs, id).await?;
        // A coordinator that is away for longer than a session takes what was settled
        // since the last commit along.
        kills.push(Disruption::between(killed, Instant::now()));
    }
    // By now it is the third that leads most.
    cluster.node(3).stop().await?;
    leaders_are_elsewhere(&cluster, &runs, 3).await?;
    come_back(&cluster, &runs, 3).await?;
    Run::finish_all(runs, &kills).await?;
    // With a single replica a broker loses the end of a transaction when the only leader
    // of a partition is away.
    match cluster.lost_end_of_transaction() {
        None => Ok(()),
        Some(loss) => Err(format!("a broker lost the end of a transaction: {loss}").into()),
    }
}

async fn leaders_move_there_and_back(cluster: &Cluster, runs: &mut [Run]) -> Outcome {
    for replicas in [[2, 3, 1], [1, 2, 3]] {
        for topic in topics(runs) {
            cluster.place(topic, &replicas).await?;
        }
        Run::all_go_on(runs).await?;
    }
    Ok(())
}

async fn leaders_are_elsewhere(cluster: &Cluster, runs: &[Run], id: i32) -> Outcome {
    for topic in topics(runs) {
        let is_elsewhere = |leader| leader != id;
        cluster
            .wait_for(topic, "leaders elsewhere", |one| {
                one.leader.is_some_and(is_elsewhere)
            })
            .await?;
    }
    Ok(())
}

async fn come_back(cluster: &Cluster, runs: &[Run], id: i32) -> Outcome {
    cluster.node(id).start_again().await?;
    for topic in topics(runs) {
        cluster.wait_for_replicas(topic).await?;
    }
    Ok(())
}

/// What the consumers read, and what they depend on.
fn topics(runs: &[Run]) -> impl Iterator<Item = &str> {
    let read = runs.iter().map(|run| run.topic.as_str());
    read.chain(COORDINATORS)
}
