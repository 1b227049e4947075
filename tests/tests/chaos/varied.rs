//! Consumers that differ from run to run: in mode, protocol, assignor, batch, and in what
//! their handler does.

use std::error::Error;
use std::time::Duration;

use penstock_tests::Manifest;
use penstock_tests::groups::SessionLimits;
use penstock_tests::kubernetes::Scene;
use penstock_tests::lane::{Assignor, Combination, Protocol, recipe};
use penstock_tests::oracle::{Disruption, Evidence};
use penstock_tests::produce::Produced;
use penstock_tests::recorder::Reply;
use penstock_tests::variable;

use crate::{LIMIT, Outcome};

/// The maximum number of messages in a batch.
const BATCH: usize = 8;

/// Handlers of a consumer that may have several.
const HANDLERS: usize = 4;

/// The session of a killed member is short, so that its partitions move soon.
const SESSION: SessionLimits = SessionLimits {
    session: Duration::from_millis(1000),
    heartbeat: Duration::from_millis(250),
};

/// A consumer in a scene.
pub struct Varied {
    pub scene: Scene,
    pub manifest: Manifest,
}

impl Varied {
    /// A consumer of this kind whose handler usually takes `time` for a message.
    pub async fn new(
        stem: &str,
        combination: Combination,
        time: Duration,
    ) -> Result<Self, Box<dyn Error>> {
        let scene = Scene::new(stem).await?;
        let scene = match combination.lane.protocol {
            Protocol::Grpc => scene.with_grpc()?,
            Protocol::Http | Protocol::BatchHttp | Protocol::Embedded => scene,
        };
        if combination.is_in_order() {
            scene.recorder.handle_one_by_one();
        }
        let behaviour = combination.behaviour;
        scene
            .recorder
            .behave(move |delivery| behaviour.reply(delivery, Reply::ok().after(time)));
        let group = scene.group();
        let manifest = combination
            .manifest(&scene.kafka, &group, &scene.topic, HANDLERS)
            .handler_in_pod(scene.cluster.host(), &scene.recorder)
            .short_session();
        let assignor = combination.assignor;
        assignor
            .limit_session(&scene.kafka, &group, SESSION)
            .await?;
        Ok(Self {
            manifest: assignor.apply(manifest),
            scene,
        })
    }

    /// Returns what was seen, once as many messages are handled as were produced.
    pub async fn evidence(
        &self,
        produced: &[Produced],
        disruptions: impl IntoIterator<Item = Disruption>,
    ) -> Result<Evidence, Box<dyn Error>> {
        let recorder = &self.scene.recorder;
        recorder.wait_for_handled(produced.len(), LIMIT).await?;
        Ok(Evidence::new(produced, recorder.deliveries()).disruptions(disruptions))
    }
}

/// Runs a test with two combinations at once: one with a classic assignor and one with
/// KIP-848. The seed picks them among those that `is_wanted`.
pub async fn with_each_protocol<F>(
    is_wanted: impl Fn(&Combination) -> bool,
    test: impl Fn(Combination) -> F,
) -> Outcome
where
    F: Future<Output = Outcome>,
{
    let seed = variable::seed()?;
    let pick = |is_consumer: bool| {
        let can = |one: &Combination| {
            one.lane.protocol != Protocol::Embedded
                && (one.assignor == Assignor::Consumer) == is_consumer
                && is_wanted(one)
        };
        let few = Combination::chosen(seed, BATCH, can)?;
        let index = usize::try_from(seed % few.len().max(1) as u64).map_err(|_| "too many")?;
        few.get(index)
            .copied()
            .ok_or("no combination is wanted")
            .map_err(String::from)
    };
    let (classic, consumer) = (pick(false)?, pick(true)?);
    println!("{}: {classic}; {consumer}", recipe(seed));
    let named = async |combination| {
        let outcome = test(combination).await;
        outcome.map_err(|error| format!("{}, {combination}: {error}", recipe(seed)))
    };
    tokio::try_join!(named(classic), named(consumer))?;
    Ok(())
}
