//! What becomes of objects that somebody else changes, deletes, or made first.

use crate::{LIMIT, Outcome, Scene};

impl Scene {
    /// Has the operator look at the consumer, and waits until it has: it puts right a
    /// label of the Deployment, which makes no rollout.
    pub(crate) async fn wait_for_a_look(&self) -> Outcome {
        let label = "app.kubernetes.io/name=somebody";
        self.namespace
            .run_kubectl(["label", "--overwrite", "deployment/orders", label])?;
        let right = r"jsonpath={.metadata.labels.app\.kubernetes\.io/name}=kafka-consumer";
        self.namespace
            .wait_until("deployment/orders", right, LIMIT)
            .await?;
        Ok(())
    }
}

#[tokio::test]
async fn what_somebody_changes_or_deletes_is_put_right_and_what_is_theirs_is_kept() -> Outcome {
    let scene = Scene::new("drift").await?;
    let namespace = &scene.namespace;
    scene.run(&scene.fast(1)).await?;
    scene.wait_until_complete().await?;
    let generation = |object: &str| scene.field(object, "/metadata/generation");
    let before = generation("deployment/orders")?.as_u64().ok_or("none")?;

    let image = "runtime=registry.example/somebody-else:1";
    namespace.run_kubectl(["set", "image", "deployment/orders", image])?;
    let right =
        "jsonpath={.spec.template.spec.containers[0].image}=registry.example/penstock-runtime:test";
    namespace
        .wait_until("deployment/orders", right, LIMIT)
        .await?;
    // Their change and ours.
    assert_eq!(generation("deployment/orders")?, before + 2);

    namespace.run_kubectl(["label", "deployment/orders", "team=shop"])?;
    scene.wait_for_a_look().await?;
    assert_eq!(
        scene.field("deployment/orders", "/metadata/labels/team")?,
        "shop"
    );

    let config_map = scene.config_map("orders")?;
    let config_map = format!("configmap/{config_map}");
    let settings = scene.field(&config_map, "/data")?;
    let patch = r#"{"data": {"consumer.yaml": "nothing"}}"#;
    let refused = namespace.run_kubectl(["patch", &config_map, "-p", patch]);
    let refused = refused.expect_err("it is immutable").to_string();
    assert!(refused.contains("immutable"), "{refused}");
    namespace.run_kubectl(["delete", &config_map])?;
    let uid = scene.field("service/orders-metrics", "/metadata/uid")?;
    namespace.run_kubectl(["delete", "service", "orders-metrics"])?;
    namespace
        .wait_until("service/orders-metrics", "create", LIMIT)
        .await?;
    assert_ne!(scene.field("service/orders-metrics", "/metadata/uid")?, uid);
    penstock_tests::wait::value("the settings to be back", LIMIT, async || {
        let found = scene.field(&config_map, "/data");
        match found.map_err(|error| error.to_string())? {
            found if found == settings => Ok(()),
            found => Err(found.to_string()),
        }
    })
    .await?;

    scene.wait_until_complete().await?;
    assert_eq!(scene.pods()?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_object_of_somebody_else_with_a_name_that_is_needed_is_left_alone() -> Outcome {
    let scene = Scene::new("taken").await?;
    let namespace = &scene.namespace;
    namespace.run_kubectl([
        "create",
        "deployment",
        "orders",
        "--replicas=0",
        "--image=registry.example/orders-go:test",
    ])?;
    // Its own controller writes its status once.
    let observed = "jsonpath={.status.observedGeneration}=1";
    namespace
        .wait_until("deployment/orders", observed, LIMIT)
        .await?;
    let identity = || -> Result<_, Box<dyn std::error::Error>> {
        Ok((
            scene.field("deployment/orders", "/metadata/uid")?,
            scene.field("deployment/orders", "/metadata/generation")?,
            scene.field("deployment/orders", "/metadata/labels")?,
            scene.field("deployment/orders", "/metadata/ownerReferences")?,
        ))
    };
    let before = identity()?;

    namespace.apply(&scene.in_order().named("orders"))?;
    let progressing = scene.wait_for_reason("Progressing", "NameTaken").await?;
    assert_eq!(progressing.status, "False");
    let message = "a Deployment named 'orders' exists and does not belong to this KafkaConsumer; \
                   delete or rename it, or rename the KafkaConsumer";
    assert_eq!(progressing.message, message);
    scene.wait_for_warning("NameTaken", message).await?;
    assert_eq!(identity()?, before);

    let config_maps = scene.names("configmaps")?;
    namespace.run_kubectl(["delete", "kc", "orders"])?;
    for config_map in config_maps {
        let config_map = format!("configmap/{config_map}");
        namespace.wait_until(&config_map, "delete", LIMIT).await?;
    }
    assert_eq!(identity()?, before);
    Ok(())
}
