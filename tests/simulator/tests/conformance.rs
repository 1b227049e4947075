//! The simulated client against the real one: the same scripts, the same observations.
//!
//! Where they differ the model is wrong, and so is whatever the simulator says of the
//! engine there.

use std::error::Error;
use std::time::Duration;

use penstock_runtime::simulation::Protocol;
use penstock_runtime::simulation::conformance::{
    Brokers, Script, Step, Step::*, play_real, play_simulated,
};
use penstock_tests::kafka::Kafka;
use penstock_tests::produce;
use penstock_tests::topics;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tokio::task::spawn_blocking;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// The longest time for one request.
const LIMIT: Duration = Duration::from_secs(15);

/// The topic of a script, on a real Kafka.
struct Real {
    bootstrap: String,
    topic: String,
}

impl Brokers for Real {
    async fn change(&self, step: Step) -> Result<(), String> {
        let (bootstrap, topic) = (self.bootstrap.as_str(), self.topic.as_str());
        let done: Result<(), Box<dyn Error + Send + Sync>> = match step {
            Produce(partition, count) => {
                let messages = produce::Produce::to(topic).count(count.into());
                let sent = messages.partition(move |_| partition).send(bootstrap).await;
                sent.map(drop).map_err(Into::into)
            }
            Abort(partition, count) => self.abort(partition, count).await,
            DeleteBefore(partition, offset) => {
                let deleted = topics::delete_records(bootstrap, topic, partition, offset).await;
                deleted.map(drop).map_err(Into::into)
            }
            AddPartitions(to) => {
                let added = topics::add_partitions(bootstrap, topic, to).await;
                added.map(drop).map_err(Into::into)
            }
            other => Err(format!("{other:?} is a member's").into()),
        };
        done.map_err(|error| error.to_string())
    }
}

impl Real {
    async fn abort(&self, partition: i32, count: u32) -> Outcome {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("transactional.id", topics::unique("conformance"))
            .create()?;
        let topic = self.topic.clone();
        spawn_blocking(move || -> Outcome {
            producer.init_transactions(LIMIT)?;
            producer.begin_transaction()?;
            for _ in 0..count {
                let record = BaseRecord::<(), str>::to(&topic).partition(partition);
                let sent = producer.send(record.payload("{}"));
                sent.map_err(|(error, _)| error)?;
            }
            producer.flush(LIMIT)?;
            producer.abort_transaction(LIMIT)?;
            Ok(())
        })
        .await?
    }
}

/// Plays a script on both clients.
async fn conforms(script: Script) -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap().to_owned();
    let topic = topics::create(&bootstrap, "conformance", script.partitions).await?;
    let group = topics::unique("test.conformance");
    let brokers = Real {
        bootstrap: bootstrap.clone(),
        topic: topic.clone(),
    };
    let mut real = play_real(script, &bootstrap, &topic, &group, &brokers).await?;
    let mut simulated = spawn_blocking(move || play_simulated(script, 1)).await??;
    if script.steps.iter().filter(|it| **it == Join).count() > 1 {
        // Who gets which partition is decided by the ids of members, which are random.
        for observed in [&mut real, &mut simulated] {
            observed.retain(|of, _| !of.contains("partition"));
            // A member that is slow to ask for its share misses a generation without one.
            for events in observed.values_mut() {
                events.retain(|it| it != "assigned 0");
            }
        }
    }
    assert_eq!(simulated, real, "the simulated client is on the left");
    Ok(())
}

/// A test of a script.
macro_rules! scripts {
    ($($name:ident: $protocol:ident, $partitions:literal, [$($step:expr),* $(,)?];)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() -> Outcome {
            conforms(Script {
                protocol: Protocol::$protocol,
                partitions: $partitions,
                steps: &[$($step),*],
            })
            .await
        }
    )*};
}

scripts! {
    a_second_member_joins_an_eager_group: Eager, 4, [
        Join,
        UntilAssigned(0, 4),
        Join,
        UntilAssigned(1, 2),
        UntilAssigned(0, 2),
    ];
    a_second_member_joins_a_cooperative_group: Cooperative, 4, [
        Join,
        UntilAssigned(0, 4),
        Join,
        UntilAssigned(1, 2),
        UntilAssigned(0, 2),
    ];
    a_second_member_joins_a_group_of_the_new_protocol: Consumer, 4, [
        Join,
        UntilAssigned(0, 4),
        Join,
        UntilAssigned(1, 2),
        UntilAssigned(0, 2),
    ];
    a_commit_by_a_member_that_the_group_left_behind_is_refused: Eager, 1, [
        Produce(0, 3),
        Join,
        UntilEnd(0, 0, 3),
        Commit(0, 0, 2),
        UntilAnswered(0, 1),
        FallSilent(0),
        Join,
        UntilRevoked(0),
        UntilAssigned(1, 1),
        Commit(0, 0, 3),
        UntilAnswered(0, 2),
    ];
    an_aborted_transaction_is_passed_in_a_batch: Eager, 1, [
        Produce(0, 3),
        Abort(0, 2),
        Produce(0, 2),
        Join,
        UntilEnd(0, 0, 8),
    ];
    the_end_is_reported_each_time_it_is_reached: Cooperative, 1, [
        Produce(0, 3),
        Join,
        UntilEnd(0, 0, 3),
        Abort(0, 1),
        UntilEnd(0, 0, 5),
        Produce(0, 1),
        UntilEnd(0, 0, 6),
    ];
    an_offset_that_was_deleted_is_refused: Cooperative, 1, [
        Produce(0, 9),
        DeleteBefore(0, 4),
        Join,
        UntilRefused(0, 0),
    ];
    partitions_that_are_added_are_assigned: Cooperative, 1, [
        Join,
        UntilAssigned(0, 1),
        AddPartitions(3),
        UntilEnd(0, 1, 0),
        UntilEnd(0, 2, 0),
        Produce(2, 2),
        UntilEnd(0, 2, 2),
    ];
    a_pause_behind_a_reported_end_passes_a_message: Cooperative, 1, [
        Produce(0, 3),
        Join,
        UntilEnd(0, 0, 3),
        Pause(0, 0),
        Produce(0, 2),
        Resume(0, 0),
        UntilEnd(0, 0, 5),
    ];
    a_seek_before_the_resumption_passes_none: Cooperative, 1, [
        Produce(0, 3),
        Join,
        UntilEnd(0, 0, 3),
        Pause(0, 0),
        Produce(0, 2),
        Seek(0, 0, 3),
        Resume(0, 0),
        UntilEnd(0, 0, 5),
    ];
    a_seek_back_brings_messages_again: Consumer, 1, [
        Produce(0, 3),
        Join,
        UntilEnd(0, 0, 3),
        Pause(0, 0),
        Produce(0, 1),
        Seek(0, 0, 1),
        Resume(0, 0),
        UntilEnd(0, 0, 4),
    ];
}
