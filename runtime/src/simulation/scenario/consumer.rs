//! The consumer of a scenario.

use std::num::NonZeroU32;
use std::sync::OnceLock;
use std::time::Duration;

use penstock_crds::manifest;
use penstock_crds::names::TopicName;
use penstock_crds::spec::HumanDuration;
use penstock_crds::validate::{Concurrency, ConsumeMode, FailureAction, ValidatedConsumer};

use super::{DEAD_LETTERS, GROUP, Mode, OnFailure, Scenario, TOPIC};

impl Scenario {
    /// The consumer that a manifest with these settings comes to.
    pub(crate) fn consumer(&self) -> ValidatedConsumer {
        let millis = |millis: u32| Duration::from_millis(millis.into());
        let mut consumer = template().clone();
        let replicas = 1;
        let handlers = |number: u16| Concurrency::new(number.into()).expect("a small number");
        consumer.mode = match self.mode {
            Mode::InOrder => ConsumeMode::InOrder,
            Mode::KeyOrdered(number) => ConsumeMode::KeyOrdered {
                handlers: handlers(number),
                replicas,
            },
            Mode::Fast(number) => ConsumeMode::Fast {
                handlers: handlers(number),
                replicas,
            },
        };
        consumer.commit = self.commit;
        consumer.consume_batch_size = NonZeroU32::new(self.batch_size).unwrap_or(NonZeroU32::MIN);
        consumer.stop_timeout = millis(self.stop_timeout);
        consumer.handler.timeout = human(self.timeout);
        consumer.delivery.max_attempts =
            NonZeroU32::new(self.max_attempts).unwrap_or(NonZeroU32::MIN);
        consumer.delivery.initial = millis(self.backoff);
        consumer.delivery.max = millis(self.backoff * 8);
        consumer.delivery.factor = 2.0;
        // Drawn from the thread's own generator, which no seed decides.
        consumer.delivery.jitter = 0.0;
        consumer.delivery.on_failure = match self.on_failure {
            OnFailure::Stop => FailureAction::Stop,
            OnFailure::Skip => FailureAction::Skip,
            OnFailure::DeadLetter => FailureAction::DeadLetter(dead_letter_topic()),
        };
        consumer
    }
}

/// A consumer in which everything that a scenario does not set has its default.
fn template() -> &'static ValidatedConsumer {
    static TEMPLATE: OnceLock<ValidatedConsumer> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let text = format!(
            "apiVersion: penstock.dev/v1alpha1\nkind: KafkaConsumer\nmetadata:\n  name: orders\nspec:\n  group: {GROUP}\n  topics: [{TOPIC}]\n  mode: InOrder\n  kafka:\n    bootstrapServers: simulated:9092\n  handler:\n    protocol: Embedded\n    image: registry.example/orders:1\n"
        );
        match manifest::read_one(&text) {
            Ok((_, consumer)) => consumer,
            Err(errors) => panic!("the simulation's manifest is refused: {errors}"),
        }
    })
}

fn human(millis: u32) -> HumanDuration {
    let parsed = format!("{millis}ms").parse();
    parsed.unwrap_or(HumanDuration::from_secs(1))
}

pub(in crate::simulation) fn dead_letter_topic() -> TopicName {
    TopicName::parse(DEAD_LETTERS).expect("the name is a topic's")
}
