//! Two operators: one works, the other stands by and takes over.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use penstock_crds::spec::KafkaConsumer;
use penstock_tests::operator::Operator;
use penstock_tests::wait;
use serde_json::json;

use crate::Outcome;
use crate::scene::{LIMIT, Scene, shared, version};

const LEASE: &str = "penstock-operator";

async fn lease(scene: &Scene) -> Result<LeaseSpec, Box<dyn std::error::Error>> {
    let lease = scene.api::<Lease>().get(LEASE).await?;
    lease.spec.ok_or_else(|| "the Lease is empty".into())
}

async fn wait_until_it_says(operator: &Operator, words: &str) -> Outcome {
    wait::value(words, LIMIT, async || match operator.says().await {
        Ok(said) if said == words => Ok(()),
        Ok(said) => Err(said),
        Err(error) => Err(error.to_string()),
    })
    .await?;
    Ok(())
}

/// The versions of all that the operators made.
async fn versions(scene: &Scene) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    async fn of<K>(scene: &Scene, into: &mut Vec<String>) -> kube::Result<()>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        for object in scene.api::<K>().list(&ListParams::default()).await? {
            into.push(format!("{} {:?}", object.name_any(), version(&object)));
        }
        Ok(())
    }
    let mut versions = Vec::new();
    of::<KafkaConsumer>(scene, &mut versions).await?;
    of::<ConfigMap>(scene, &mut versions).await?;
    of::<Service>(scene, &mut versions).await?;
    of::<Deployment>(scene, &mut versions).await?;
    Ok(versions)
}

#[tokio::test]
async fn the_holder_of_the_lease_works_and_another_takes_over_without_a_doubled_action() -> Outcome
{
    let (control_plane, scene) = (shared().await?, Scene::new("leader").await?);
    let settings = |identity: &str| scene.operator(control_plane).identity(identity);
    let first = settings("first").start().await?;
    wait_until_it_says(&first, "leading").await?;
    let second = settings("second").start().await?;
    wait_until_it_says(&second, "standing by for first").await?;
    scene.create(&scene.fast(), "orders").await?;
    scene.wait_until_reconciled("orders").await?;
    let before = versions(&scene).await?;
    assert_eq!(before.len(), 4);
    let transitions = lease(&scene).await?.lease_transitions.unwrap_or_default();

    // Told to stop, it gives the Lease back.
    first.process().terminate()?;
    assert!(first.process().wait(LIMIT).await?.success());
    let given_back = lease(&scene).await?.holder_identity.unwrap_or_default();
    assert_ne!(given_back, "first");
    wait_until_it_says(&second, "leading").await?;
    let taken = lease(&scene).await?;
    assert_eq!(taken.lease_transitions, Some(transitions + 1));
    assert_eq!(second.requests().await?.writes().count(), 0);
    assert_eq!(versions(&scene).await?, before);

    // Killed, it can't; its Lease runs out. What is asked for meanwhile is done once.
    let third = settings("third").start().await?;
    wait_until_it_says(&third, "standing by for second").await?;
    second.process().kill()?;
    second.process().wait(LIMIT).await?;
    let last = lease(&scene).await?;
    assert_eq!(last.holder_identity.as_deref(), Some("second"));
    let more = json!({ "spec": { "replicas": 3 } });
    scene
        .api::<KafkaConsumer>()
        .patch("orders", &PatchParams::default(), &Patch::Merge(&more))
        .await?;
    wait_until_it_says(&third, "leading").await?;
    let taken = lease(&scene).await?;
    let renewed = last.renew_time.ok_or("never renewed")?.0;
    let acquired = taken.acquire_time.ok_or("never acquired")?.0;
    let seconds = last.lease_duration_seconds.ok_or("no duration")?;
    assert!(acquired.duration_since(renewed).as_secs() >= i64::from(seconds));
    scene.wait_until_reconciled("orders").await?;
    let deployment = scene.api::<Deployment>().get("orders").await?;
    assert_eq!(deployment.metadata.generation, Some(2));
    let writes = third.requests().await?.writes();
    let applied = writes.only(|request| request.resource == "deployments");
    assert_eq!(applied.count(), 1, "{writes:?}");
    Ok(())
}
