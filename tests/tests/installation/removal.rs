//! Consumers that are deleted, with and without an operator.

use penstock_tests::kubernetes::Scene;

use crate::{LIMIT, Outcome, Turn};

/// Every kind that a consumer has objects of.
const KINDS: &str = "deployment,replicaset,pod,configmap,service,endpointslice,poddisruptionbudget";

#[tokio::test]
async fn a_consumer_that_is_deleted_takes_all_its_objects_with_it() -> Outcome {
    let _turn = Turn::wait().await?;
    let scene = Scene::new("removal").await?;
    let namespace = &scene.namespace;
    scene.run(&scene.fast(2).set("/replicas", 2)).await?;
    let label = ["get", KINDS, "-o", "name", "-l", "penstock.dev/consumer"];
    let before = namespace.run_kubectl(label)?;
    for kind in KINDS.split(',') {
        assert!(before.contains(kind), "no {kind} among\n{before}");
    }

    namespace.run_kubectl(["delete", "kc", "orders"])?;
    for object in before.lines() {
        namespace.wait_until(object, "delete", LIMIT).await?;
    }
    assert_eq!(namespace.run_kubectl(label)?, "");
    Ok(())
}

#[tokio::test]
async fn a_namespace_with_consumers_is_deleted_fully_without_an_operator() -> Outcome {
    let turn = Turn::wait().await?;
    let scene = Scene::new("abandoned").await?;
    scene.run(&scene.fast(2).set("/replicas", 2)).await?;
    turn.installation.uninstall()?;
    let namespace = scene.namespace.name();
    scene
        .cluster
        .run_kubectl(["delete", "namespace", namespace, "--timeout=90s"])?;
    let gone = scene.cluster.run_kubectl(["get", "namespace", namespace]);
    assert!(gone.is_err(), "{gone:?}");
    Ok(())
}
