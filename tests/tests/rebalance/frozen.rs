//! A member that is stopped for longer than its session lasts.

use std::fs::File;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use penstock_tests::groups::{self, CommitWatch, SessionLimits};
use penstock_tests::kafka::Kafka;
use penstock_tests::lane::{Behaviour, Combination, Mode, recipe};
use penstock_tests::oracle::{Disruption, Evidence, Rule};
use penstock_tests::produce::Produce;
use penstock_tests::recorder::{Gate, Recorder, Reply, Verdict};
use penstock_tests::{Consumer, topics, variable, wait};
use tempfile::TempDir;

use crate::{BATCH, HANDLERS, Outcome, SOON, end_well};

/// Groups at a time.
const AT_ONCE: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_frozen_past_its_session_comes_back_as_a_member() -> Outcome {
    let seed = variable::seed()?;
    let recipe = recipe(seed);
    let combinations = Combination::chosen(seed, BATCH, |_| true)?;
    println!("{recipe}, {} groups", combinations.len());
    let runs = combinations.into_iter().map(async |combination| {
        let run = frozen_member(combination).await;
        run.map_err(|error| format!("{combination}: {error}"))
    });
    // Some at a time: each has a member that is watched for a second of silence.
    let runs = stream::iter(runs).buffer_unordered(AT_ONCE);
    let outcomes: Vec<_> = runs.collect().await;
    let failures: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    match failures.is_empty() {
        true => Ok(()),
        false => Err(format!("{recipe}\n{}", failures.join("\n")).into()),
    }
}

async fn frozen_member(combination: Combination) -> Outcome {
    let lane = combination.lane;
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
    second.behave(move |delivery| {
        let usual = Reply::ok().after(Duration::from_millis(5));
        combination.behaviour.reply(delivery, usual)
    });
    let dir = TempDir::new()?;
    let file = dir.path().join("gate");
    let limits = SessionLimits {
        session: Duration::from_millis(1000),
        heartbeat: Duration::from_millis(250),
    };
    let assignor = combination.assignor;
    assignor.limit_session(bootstrap, &group, limits).await?;
    let manifest = |combination: Combination, recorder: &Recorder| {
        let manifest = combination
            .manifest(bootstrap, &group, &topic, HANDLERS)
            .handler(recorder)
            .short_session();
        assignor.apply(manifest)
    };
    // The frozen one keeps its messages for longer than any limit.
    let steady = Combination {
        behaviour: Behaviour::Steady,
        ..combination
    };
    let frozen_manifest = manifest(steady, &first)
        .set("/handler/timeout", "1m")
        .env("PENSTOCK_TEST_GATE", file.display());
    let one = Consumer::start(&frozen_manifest)?;
    let at_once = if lane.mode == Mode::InOrder { 1 } else { 4 };
    first.wait_for_in_flight(at_once, SOON).await?;

    let frozen = Instant::now();
    one.pause()?;
    let two = Consumer::start(&manifest(combination, &second).env("PENSTOCK_TEST_LONGEST", 9))?;
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
    let rules = [
        Rule::NothingLost,
        Rule::CommitsWithinSettled,
        Rule::CommitsNeverGoBack,
        Rule::DuplicatesExplained,
    ];
    let from_thaw = deliveries.iter().filter(|delivery| delivery.start > thawed);
    let after: Vec<_> = from_thaw.cloned().collect();
    // Its late work overlaps that of the other, so nothing is promised of the order.
    let evidence = Evidence::new(&produced, deliveries)
        .commits(watch.stop().await)
        .disruptions([Disruption::between(frozen, thawed)]);
    combination.check_only(evidence, &rules)?;
    // Once it is back all is as ever.
    let rules = [Rule::DuplicatesExplained, Rule::NeverTwiceAtOnce];
    Ok(combination.check(Evidence::new(&produced, after), &rules)?)
}
