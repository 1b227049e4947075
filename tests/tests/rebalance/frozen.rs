//! A member that is stopped for longer than its session lasts.

use std::fs::File;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use penstock_tests::groups::{self, CommitWatch};
use penstock_tests::kafka::Kafka;
use penstock_tests::lane::{Lane, Mode, Protocol};
use penstock_tests::oracle::{Disruption, Evidence, Rule};
use penstock_tests::produce::Produce;
use penstock_tests::recorder::{Gate, Recorder, Reply, Verdict};
use penstock_tests::{Consumer, topics, wait};
use tempfile::TempDir;

use crate::{BATCH, HANDLERS, Outcome, SOON, end_well};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_frozen_past_its_session_comes_back_as_a_member() -> Outcome {
    use Protocol::{BatchHttp, Embedded, Grpc, Http};
    for assignor in ["range", "cooperative-sticky"] {
        for protocol in [Http, BatchHttp, Grpc, Embedded] {
            let runs = Lane::all(&[protocol]).into_iter().map(async |lane| {
                let run = frozen_member(assignor, lane).await;
                run.map_err(|error| format!("{assignor}, {lane:?}: {error}"))
            });
            try_join_all(runs).await?;
        }
    }
    Ok(())
}

async fn frozen_member(assignor: &str, lane: Lane) -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "frozen", 2).await?;
    let group = topics::unique("test.frozen");
    let produced = Produce::to(&topic)
        .count(400)
        .partition(|seq| (seq % 2) as i32)
        .send(bootstrap)
        .await?;
    let watch = CommitWatch::start(bootstrap, &group, &topic).await?;
    // Each member has a handler of its own, so that it is known who does what.
    let (first, second) = (lane.recorder()?, lane.recorder()?);
    let gate = Gate::closed();
    let held = gate.clone();
    first.behave(move |_| Reply::ok().once(&held));
    second.behave(|_| Reply::ok().after(Duration::from_millis(5)));
    let dir = TempDir::new()?;
    let file = dir.path().join("gate");
    let manifest = |recorder: &Recorder| {
        lane.manifest(bootstrap, &group, &topic, HANDLERS, BATCH)
            .handler(recorder)
            .short_session()
            .set("/handler/timeout", "1m")
            .kafka("partition.assignment.strategy", assignor)
    };
    let one = Consumer::start(&manifest(&first).env("PENSTOCK_TEST_GATE", file.display()))?;
    let at_once = if lane.mode == Mode::InOrder { 1 } else { 4 };
    first.wait_for_in_flight(at_once, SOON).await?;

    let frozen = Instant::now();
    one.pause()?;
    let two = Consumer::start(&manifest(&second).env("PENSTOCK_TEST_LONGEST", 9))?;
    groups::wait_for_committed(bootstrap, &group, &topic, 400, SOON).await?;
    // The verdicts of the frozen one arrive after all was handled by the other.
    gate.open();
    File::create(&file)?;
    one.resume()?;
    let back = Produce::to(&topic)
        .count(400)
        .first_seq(400)
        .partition(|seq| (seq % 2) as i32);
    groups::wait_for_members(bootstrap, &group, 2, SOON).await?;
    let thawed = Instant::now();
    let before = first.handled();
    let more = back.send(bootstrap).await?;
    groups::wait_for_committed(bootstrap, &group, &topic, 800, SOON).await?;
    assert!(
        first.handled() > before,
        "the one that was frozen does nothing"
    );
    end_well(one).await?;
    end_well(two).await?;
    // An embedded handler that was dropped in the midst of a message leaves it open.
    let settled = async || first.in_flight() == 0;
    wait::until("a verdict on each delivery", SOON, settled).await?;

    let late = first.deliveries();
    let late = late.iter().filter(|delivery| delivery.start < frozen);
    assert!(late.clone().count() >= at_once);
    assert!(
        late.clone()
            .all(|delivery| delivery.verdict != Verdict::Open)
    );
    let produced = [produced, more].concat();
    let deliveries = [first.deliveries(), second.deliveries()].concat();
    let mut rules = vec![
        Rule::NothingLost,
        Rule::CommitsWithinSettled,
        Rule::CommitsNeverGoBack,
        Rule::DuplicatesExplained,
    ];
    let from_thaw = deliveries.iter().filter(|delivery| delivery.start > thawed);
    let after: Vec<_> = from_thaw.cloned().collect();
    Evidence::new(&produced, deliveries)
        .commits(watch.stop().await)
        .disruptions([Disruption::between(frozen, thawed)])
        .check(&rules)?;
    // Once it is back all is as ever.
    if let Some(order) = lane.mode.order() {
        rules = vec![order, Rule::DuplicatesExplained, Rule::NeverTwiceAtOnce];
        Evidence::new(&produced, after).check(&rules)?;
    }
    Ok(())
}
