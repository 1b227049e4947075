//! The ConfigMaps of a consumer whose manifest changes, with Kubernetes' own controllers.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Patch, PatchParams};
use penstock_crds::spec::KafkaConsumer;
use penstock_tests::kubernetes::ControlPlane;
use penstock_tests::operator::Operator;
use penstock_tests::wait;
use serde_json::json;

use crate::Outcome;
use crate::rights::{assert_nothing_forbidden, grant};
use crate::scene::{LIMIT, Scene};

/// The ConfigMap that the newest pods read.
fn config_map(deployment: &Deployment) -> Option<&str> {
    let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
    let volume = pod.volumes.as_ref()?.first()?;
    Some(volume.config_map.as_ref()?.name.as_str())
}

/// The Deployment's controller has made the ReplicaSet of the newest template.
fn is_observed(deployment: &Deployment) -> bool {
    let status = deployment.status.as_ref();
    let observed = status.and_then(|status| status.observed_generation);
    observed.is_some() && observed == deployment.metadata.generation
}

#[tokio::test]
async fn a_config_map_stays_for_as_long_as_a_rollback_could_need_it() -> Outcome {
    let control_plane = ControlPlane::builder().controllers().start().await?;
    control_plane.install_crd().await?;
    let home = Scene::on(&control_plane, "home").await?;
    let scene = Scene::on(&control_plane, "versions").await?;
    let kubeconfig = grant(&control_plane, &home.namespace, &[]).await?;
    let operator = Operator::with(kubeconfig).namespace(&home.namespace);
    let operator = operator.start().await?;
    // Without pods, each rollout is complete at once.
    let manifest = scene.fast().set("/replicas", 0);
    scene.create(&manifest, "orders").await?;
    let mut names = Vec::new();
    for seconds in 31..=35 {
        let patch = Patch::Merge(json!({ "spec": { "stopTimeout": format!("{seconds}s") } }));
        let consumers = scene.api::<KafkaConsumer>();
        consumers
            .patch("orders", &PatchParams::default(), &patch)
            .await?;
        let grace = Some(seconds + 10);
        let deployment = scene
            .wait_for("orders", "the next template", |now: &Deployment| {
                let spec = now.spec.as_ref();
                let pod = spec.and_then(|spec| spec.template.spec.as_ref());
                let is_next = pod.is_some_and(|pod| pod.termination_grace_period_seconds == grace);
                is_next && is_observed(now)
            })
            .await?;
        names.push(config_map(&deployment).ok_or("no ConfigMap")?.to_owned());
    }
    // The newest, and those of the two old ReplicaSets that are kept.
    let mut kept = names.split_off(2);
    kept.sort();
    wait::value("unused ConfigMaps to go", LIMIT, async || {
        let found = scene.config_maps("orders").await;
        match found.map_err(|error| error.to_string())? {
            found if found == kept => Ok(()),
            found => Err(format!("{found:?}, not {kept:?}")),
        }
    })
    .await?;
    assert_nothing_forbidden(&operator);
    Ok(())
}
