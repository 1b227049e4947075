//! Members of one group come and go, under each way of assigning partitions: what
//! moves between them is neither lost nor doubled, and no process ends by it.

#![forbid(unsafe_code)]

mod between;
mod frozen;
mod members;

use std::error::Error;
use std::time::Duration;

use penstock_tests::groups::{self, CommitWatch};
use penstock_tests::kafka::Kafka;
use penstock_tests::lane::Assignor;
use penstock_tests::oracle::{Evidence, Rule};
use penstock_tests::produce::Produce;
use penstock_tests::recorder::{Gate, Recorder, Reply};
use penstock_tests::{Consumer, Manifest, topics};

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);

const PARTITIONS: i32 = 6;

/// Handlers of a member, where there may be several.
const HANDLERS: usize = 4;

/// Messages of a batch, where there are batches.
const BATCH: usize = 8;

async fn end_well(member: Consumer) -> Outcome {
    let status = member.stop(SOON).await?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("a member ended with {status}:\n{}", member.tail()).into()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_client_held_at_a_revocation_does_not_come_again_at_the_next_assignment() -> Outcome
{
    for assignor in [
        Assignor::Range,
        Assignor::CooperativeSticky,
        Assignor::Consumer,
    ] {
        held_by_the_client(assignor)
            .await
            .map_err(|error| format!("{assignor:?}: {error}"))?;
    }
    Ok(())
}

/// One member has all partitions, with messages of each in its client. Another
/// takes some, handles all of theirs, and leaves.
async fn held_by_the_client(assignor: Assignor) -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "held", PARTITIONS).await?;
    let group = topics::unique("test.held");
    let produced = Produce::to(&topic)
        .count(1200)
        .partition(|seq| (seq % 6) as i32)
        .send(bootstrap)
        .await?;
    let watch = CommitWatch::start(bootstrap, &group, &topic).await?;
    let recorder = Recorder::start()?;
    let gate = Gate::closed();
    let held = gate.clone();
    recorder.behave(move |_| Reply::ok().once(&held));
    let manifest = Manifest::fast(bootstrap, &group, &topic, 4)
        .handler(&recorder)
        .kafka("heartbeat.interval.ms", "200");
    let manifest = assignor.apply(manifest);
    let one = Consumer::start(&manifest)?;
    recorder.wait_for_in_flight(4, SOON).await?;
    let two = Consumer::start(&manifest)?;
    let joining = async || {
        let group = groups::describe(bootstrap, &group).await;
        group.is_ok_and(|group| group.members.len() == 2)
    };
    two.wait_until("the other to join", SOON, joining).await?;
    gate.open();
    groups::wait_for_members(bootstrap, &group, 2, SOON).await?;
    groups::wait_for_committed(bootstrap, &group, &topic, 1200, SOON).await?;
    end_well(two).await?;
    groups::wait_for_members(bootstrap, &group, 1, SOON).await?;
    let more = Produce::to(&topic)
        .count(60)
        .first_seq(1200)
        .partition(|seq| (seq % 6) as i32)
        .send(bootstrap)
        .await?;
    groups::wait_for_committed(bootstrap, &group, &topic, 1260, SOON).await?;
    end_well(one).await?;
    Evidence::new(&[produced, more].concat(), recorder.deliveries())
        .commits(watch.stop().await)
        .check(&[
            Rule::NothingLost,
            Rule::CommitsWithinSettled,
            Rule::CommitsNeverGoBack,
            Rule::DuplicatesExplained,
        ])?;
    Ok(())
}
