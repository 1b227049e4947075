//! Two consumers that read the same topics as the same group.

use crate::{LIMIT, Outcome, Scene};

#[tokio::test]
async fn consumers_that_share_a_group_are_warned_until_one_is_deleted() -> Outcome {
    let scene = Scene::new("shared").await?;
    let manifest = scene.fast(1);
    scene.run(&manifest).await?;
    assert_eq!(scene.condition("Accepted")?.reason, "Valid");

    scene.namespace.apply(&manifest.named("orders-copy"))?;
    let accepted = scene.wait_for_reason("Accepted", "GroupShared").await?;
    assert_eq!(accepted.status, "True");
    let begin = format!(
        "group '{}' reads some of these topics for {}/orders-copy too",
        scene.group(),
        scene.namespace.name()
    );
    assert!(accepted.message.starts_with(&begin), "{accepted:?}");
    scene.wait_for_warning("GroupShared", &begin).await?;
    let copy = r#"jsonpath={.status.conditions[?(@.type=="Accepted")].reason}=GroupShared"#;
    scene
        .namespace
        .wait_until("kc/orders-copy", copy, LIMIT)
        .await?;
    scene
        .namespace
        .wait_until("deployment/orders-copy", "create", LIMIT)
        .await?;

    let config_map = format!("configmap/{}", scene.config_map("orders-copy")?);
    scene
        .namespace
        .run_kubectl(["delete", "kc", "orders-copy"])?;
    scene.wait_for_reason("Accepted", "Valid").await?;
    for object in [
        "deployment/orders-copy",
        config_map.as_str(),
        "service/orders-copy-metrics",
    ] {
        scene.namespace.wait_until(object, "delete", LIMIT).await?;
    }
    assert_eq!(scene.names("deployments")?, ["orders"]);
    Ok(())
}
