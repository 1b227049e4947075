//! `kubectl scale`, up, down, to nothing and back.

use std::collections::BTreeSet;
use std::time::Duration;

use penstock_tests::groups;
use penstock_tests::kubernetes::ClusterError;
use penstock_tests::oracle::Rule;
use penstock_tests::produce::Produce;
use penstock_tests::recorder::Reply;

use crate::{LIMIT, Outcome, Scene};

impl Scene {
    fn scale(&self, replicas: usize) -> Result<String, ClusterError> {
        let replicas = format!("--replicas={replicas}");
        self.namespace
            .run_kubectl(["scale", "kc/orders", &replicas])
    }

    /// Uids of its pods, none of which was ever restarted.
    fn pods_that_stayed(&self) -> Result<BTreeSet<String>, Box<dyn std::error::Error>> {
        let pods = self.pods()?;
        assert!(pods.iter().all(|pod| pod.restarts == 0), "{pods:?}");
        Ok(pods.into_iter().map(|pod| pod.uid).collect())
    }
}

#[tokio::test]
async fn scaling_fast_adds_and_removes_pods_and_replaces_none() -> Outcome {
    let scene = Scene::new("scale").await?;
    scene.run(&scene.fast(2)).await?;
    scene.wait_until_complete().await?;
    let first = scene.pods_that_stayed()?;
    assert_eq!(first.len(), 1);
    let nothing: [String; 0] = [];
    assert_eq!(scene.names("poddisruptionbudgets")?, nothing);

    scene.scale(3)?;
    scene
        .namespace
        .wait_until("kc/orders", "jsonpath={.status.ready}=3/3", LIMIT)
        .await?;
    scene
        .namespace
        .wait_until("pdb/orders", "create", LIMIT)
        .await?;
    let three = scene.pods_that_stayed()?;
    assert_eq!(three.len(), 3);
    assert!(three.is_superset(&first), "{three:?} without {first:?}");
    assert_eq!(scene.field("kc/orders", "/status/handlers")?, 6);

    scene.scale(1)?;
    scene
        .namespace
        .wait_until("kc/orders", "jsonpath={.status.ready}=1/1", LIMIT)
        .await?;
    scene
        .namespace
        .wait_until("pdb/orders", "delete", LIMIT)
        .await?;
    let last = scene.pods_that_stayed()?;
    assert_eq!(last.len(), 1);
    assert!(last.is_subset(&three), "{last:?} is not of {three:?}");
    assert_eq!(scene.names("replicasets")?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn scaling_in_order_beyond_one_is_refused_with_the_reason() -> Outcome {
    let scene = Scene::new("scale-in-order").await?;
    scene
        .namespace
        .apply(&scene.in_order().set("/replicas", 0).named("orders"))?;
    let refusal = match scene.scale(2) {
        Ok(said) => panic!("scaled: {said}"),
        Err(refusal) => refusal.to_string(),
    };
    let words = "an InOrder consumer runs in 1 replica, or in 0 to pause it; set replicas to 1, \
                 or choose mode: KeyOrdered or Fast";
    assert!(refusal.contains(words), "{refusal}");
    assert_eq!(scene.field("kc/orders", "/spec/replicas")?, 0);
    Ok(())
}

#[tokio::test]
async fn a_paused_consumer_goes_on_where_it_was() -> Outcome {
    let scene = Scene::new("pause").await?;
    let bootstrap = scene.cluster.kafka();
    let mut produced = Produce::to(&scene.topic).count(500).send(bootstrap).await?;
    scene
        .recorder
        .behave(|_| Reply::ok().after(Duration::from_millis(50)));
    scene.run(&scene.in_order()).await?;
    scene.recorder.wait_for_handled(20, LIMIT).await?;

    scene.scale(0)?;
    let available = scene.wait_for_reason("Available", "Paused").await?;
    assert_eq!(available.status, "False");
    groups::wait_for_members(bootstrap, &scene.group(), 0, LIMIT).await?;
    let handled = scene.recorder.handled();
    assert!(handled < 500, "all was handled before the pause");
    scene.recorder.behave(|_| Reply::ok());
    let more = Produce::to(&scene.topic).first_seq(500).count(100);
    produced.extend(more.send(bootstrap).await?);

    scene.scale(1)?;
    scene
        .all_handled(
            &produced,
            [],
            &[Rule::NothingLost, Rule::InOrder, Rule::DuplicatesExplained],
        )
        .await?;
    Ok(())
}
