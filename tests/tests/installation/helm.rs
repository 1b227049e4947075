//! Upgrade, uninstall and install again, with consumers at work.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use penstock_tests::kubernetes::{Installation, Scene};
use penstock_tests::load::Load;
use tempfile::TempDir;

use crate::{LIMIT, NAMESPACE, Outcome, Turn, VALUES, all_handled, goes_on};

const CRD: &str = "crd/kafkaconsumers.penstock.dev";

/// How each column of `kubectl get kc` begins in the resource, and how that of the lag.
const COLUMN: &str = "    - description: ";
const LAG: &str = "Messages not yet committed";

#[tokio::test]
async fn an_upgrade_brings_the_resource_and_leaves_consumers_alone() -> Outcome {
    let turn = Turn::wait().await?;
    let scene = Scene::new("upgrade").await?;
    let older = older_chart()?;
    Installation::install_chart(scene.cluster, older.path(), NAMESPACE, &VALUES)?;
    let columns = || scene.namespace.run_kubectl(["get", "kc"]);
    scene.run(&scene.fast(4)).await?;
    assert!(!columns()?.contains("LAG"), "{}", columns()?);
    let load = Load::start(&scene.kafka, &scene.topic, 20);
    goes_on(&scene).await?;
    let pods = scene.namespace.pods("orders")?;
    let generation = scene.namespace.generation("orders")?;
    let leader = turn.installation.leader()?;

    let values = [VALUES[0], "log.level=debug", "podLabels.version=newer"];
    Installation::install(scene.cluster, NAMESPACE, &values)?;
    assert!(columns()?.contains("LAG"), "{}", columns()?);
    turn.wait_for_other_leader(&leader).await?;
    goes_on(&scene).await?;
    assert_eq!(scene.namespace.generation("orders")?, generation);
    assert_eq!(scene.namespace.pods("orders")?, pods);
    all_handled(&scene, load, None).await
}

#[tokio::test]
async fn an_uninstall_keeps_consumers_at_work_and_a_new_install_takes_them_over() -> Outcome {
    let turn = Turn::wait().await?;
    let scene = Scene::new("uninstall").await?;
    let namespace = &scene.namespace;
    scene.run(&scene.fast(4)).await?;
    let load = Load::start(&scene.kafka, &scene.topic, 20);
    goes_on(&scene).await?;
    let pods = namespace.pods("orders")?;
    let generation = namespace.generation("orders")?;

    turn.installation.uninstall()?;
    let left = turn
        .installation
        .run_kubectl(["get", "all", "-o", "name"])?;
    assert_eq!(left, "");
    scene.cluster.run_kubectl(["get", CRD])?;
    namespace.run_kubectl(["get", "kc", "orders"])?;
    goes_on(&scene).await?;
    // Asked for while nobody listens.
    namespace.apply(&scene.fast(4).set("/replicas", 2).named("orders"))?;

    Installation::install(scene.cluster, NAMESPACE, &VALUES)?;
    namespace
        .wait_until("kc/orders", "condition=Progressing=False", LIMIT)
        .await?;
    let now = namespace.pods("orders")?;
    assert_eq!(now.len(), 2);
    assert!(now.contains(&pods[0]), "{now:?} without {pods:?}");
    assert_eq!(namespace.generation("orders")?, generation + 1);
    goes_on(&scene).await?;
    all_handled(&scene, load, None).await
}

/// The chart as it might have been before its resource had one of its columns.
fn older_chart() -> Result<TempDir, Box<dyn std::error::Error>> {
    let dir = TempDir::with_prefix("penstock-chart-")?;
    let source = format!("{}/.", Installation::chart().display());
    let copied = Command::new("cp")
        .arg("-r")
        .arg(source)
        .arg(dir.path())
        .status()?;
    assert!(copied.success(), "cp: {copied}");
    edit(dir.path(), "files/kafkaconsumers.yaml", |text| {
        let (before, after) = text.split_once(&format!("{COLUMN}{LAG}"))?;
        let (_, after) = after.split_once(COLUMN)?;
        Some(format!("{before}{COLUMN}{after}"))
    })?;
    edit(dir.path(), "Chart.yaml", |text| {
        let (before, after) = text.split_once("\nversion: ")?;
        let (_, after) = after.split_once('\n')?;
        Some(format!("{before}\nversion: 0.0.1\n{after}"))
    })?;
    Ok(dir)
}

fn edit(dir: &Path, name: &str, edit: impl FnOnce(&str) -> Option<String>) -> Outcome {
    let path: PathBuf = dir.join(name);
    let text = fs::read_to_string(&path)?;
    fs::write(
        &path,
        edit(&text).ok_or(format!("{name} is not as expected"))?,
    )?;
    Ok(())
}
