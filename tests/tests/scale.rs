//! Very many consumers: what the operator asks of the API server, and that it leaves
//! it alone when there is nothing to do.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use penstock_tests::fleet::{self, Fleet};
use penstock_tests::kafka_mock::MockKafka;
use penstock_tests::kubernetes::ControlPlane;
use penstock_tests::operator::{Operator, Requests};
use penstock_tests::{usage, wait};

/// Any failure of a test.
type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Consumers.
const COUNT: usize = 1_000;

/// Longest time for all of them; a minute on a quiet machine.
const LIMIT: Duration = Duration::from_secs(600);

/// How long the operator is watched with nothing to do. Longer than it takes to look
/// at the Lease a few times, and for the topics to be listed again.
const IDLE: Duration = Duration::from_secs(20);

/// How often the topics are listed again.
const RECHECK: &str = "5s";

/// Passes that have ended.
const PASSES: &str = "penstock_operator_reconcile_duration_seconds_count";

async fn wait_for_passes(operator: &Operator, count: usize) -> Outcome {
    wait::value(
        "a pass over each consumer",
        LIMIT,
        async || match operator.metric(PASSES).await {
            Ok(passes) if passes >= count as f64 => Ok(()),
            Ok(passes) => Err(format!("{passes} passes")),
            Err(error) => Err(error.to_string()),
        },
    )
    .await?;
    Ok(())
}

/// What was asked for each consumer, to be read by people.
fn show(what: &str, requests: &Requests) {
    println!("{what}:");
    for (request, count) in &requests.0 {
        let each = *count as f64 / COUNT as f64;
        println!(
            "  {:<7} {:<28} {count:>6} {each:>7.2} for each consumer",
            request.verb, request.resource
        );
    }
}

fn memory(operator: &Operator) -> String {
    usage::memory(&operator.process().id().to_string()).map_or_else(String::new, |memory| {
        let mb = |kib: u64| kib as f64 * 1024.0 / 1e6;
        format!(
            "{:.1} MB RSS, {:.1} MB at most",
            mb(memory.now_kib),
            mb(memory.peak_kib)
        )
    })
}

#[tokio::test]
async fn a_thousand_consumers_are_reconciled_with_few_requests_and_then_left_alone() -> Outcome {
    let topics: Vec<String> = fleet::topics().collect();
    let kafka = MockKafka::start(topics.iter().map(String::as_str))?;
    let control_plane = ControlPlane::start().await?;
    control_plane.install_crd().await?;
    let fleet = Fleet::create(control_plane.client().await?, &kafka.bootstrap(), COUNT).await?;
    let settings = Operator::with(control_plane.kubeconfig()).flag("--recheck-interval", RECHECK);

    let began = Instant::now();
    let operator = settings.start().await?;
    wait_for_passes(&operator, COUNT).await?;
    wait::value("a status of each consumer", LIMIT, async || {
        match fleet.reconciled().await {
            Ok(COUNT) => Ok(()),
            Ok(some) => Err(format!("{some} of {COUNT}")),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    println!(
        "{COUNT} consumers reconciled in {:?}; {}",
        began.elapsed(),
        memory(&operator)
    );
    // Passes that the operator's own writes caused may be under way.
    let first = settled(&operator).await?;
    show("requests", &first);
    let versions = fleet.versions().await?;
    assert_eq!(versions.consumers.len(), COUNT);
    assert_eq!(versions.objects.len(), fleet.objects());
    // One for each object and one or, after what the watch brought, two for the status.
    let writes = first.writes();
    let statuses = writes
        .only(|request| request.resource == "kafkaconsumers/status")
        .count();
    let applied = writes.count() - statuses;
    assert_eq!(applied, fleet.objects() as u64, "{writes:?}");
    assert!(statuses <= 2 * COUNT as u64, "{writes:?}");

    operator.process().terminate()?;
    assert!(operator.process().wait(LIMIT).await?.success());
    let again = settings.start().await?;
    wait_for_passes(&again, COUNT).await?;
    let second = settled(&again).await?;
    show("requests after a restart", &second);
    assert_eq!(second.writes(), Requests::default());
    assert_eq!(fleet.versions().await?, versions);

    let id = again.process().id().to_string();
    let cpu = usage::cpu(&id).unwrap_or_default();
    let began = Instant::now();
    // Not a wait for anything: the time is what is looked at.
    tokio::time::sleep(IDLE).await;
    let used = usage::cpu(&id).unwrap_or_default().saturating_sub(cpu);
    let share = used.as_secs_f64() / began.elapsed().as_secs_f64();
    println!("idle: {:.2} % of a core; {}", share * 100.0, memory(&again));
    let idle = again.requests().await?.since(&second);
    show("requests while idle", &idle);
    assert!(idle.count() > 0, "the Lease is kept");
    // Watches are begun again now and then.
    let other = idle.only(|request| !request.is_of_lease() && request.verb != "watch");
    assert_eq!(other, Requests::default());
    assert_eq!(fleet.versions().await?, versions);
    Ok(())
}

/// The requests so far, once no more come but those for the Lease.
async fn settled(operator: &Operator) -> Result<Requests, Box<dyn std::error::Error>> {
    let mut before = operator.requests().await?;
    let mut unchanged_since = Instant::now();
    Ok(wait::value("no more requests", LIMIT, async || {
        let now = operator
            .requests()
            .await
            .map_err(|error| error.to_string())?;
        let new = now.since(&before).only(|request| !request.is_of_lease());
        if new.count() > 0 {
            unchanged_since = Instant::now();
            before = now;
            return Err(format!("{new:?}"));
        }
        match unchanged_since.elapsed() > Duration::from_secs(3) {
            true => Ok(now),
            false => Err("not for long".to_owned()),
        }
    })
    .await?)
}
