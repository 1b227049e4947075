//! A consumer that runs and is left alone costs no requests.

use std::collections::BTreeMap;
use std::error::Error;

use penstock_tests::kubernetes::Installation;
use penstock_tests::produce::Produce;
use penstock_tests::{promtext, wait};

use crate::look::{SELECTOR, items, operator_page, text};
use crate::{LIMIT, Outcome, Scene};

/// Verb and resource of the renewal of the Lease, every 5 s.
const RENEWAL: &str = "update leases";

/// For how many renewals nothing may happen: 20 s, in which topics and lag are read
/// ten times.
const RENEWALS: u64 = 4;

/// Requests of the operator that leads, by verb and resource. Watches are renewed
/// periodically and change nothing, so they do not count.
type Requests = BTreeMap<String, u64>;

async fn requests(installation: &Installation) -> Result<Requests, Box<dyn Error>> {
    let page = promtext::parse(&operator_page(installation).await?)?;
    let samples = page.samples("penstock_operator_api_requests_total", &[]);
    Ok(samples
        .filter(|sample| !sample.has(&[("verb", "watch")]))
        .map(|sample| {
            let name = format!("{} {}", sample.labels["verb"], sample.labels["resource"]);
            (name, sample.value as u64)
        })
        .collect())
}

/// Waits until the Lease has been renewed so often since `before`, and gives the
/// requests without these renewals.
async fn after_renewals(
    installation: &Installation,
    before: &Requests,
    renewals: u64,
) -> Result<Requests, Box<dyn Error>> {
    let enough = before[RENEWAL] + renewals;
    let what = format!("{renewals} renewals of the Lease");
    let mut after = wait::value(what, LIMIT, async || {
        let seen = requests(installation)
            .await
            .map_err(|error| error.to_string())?;
        match seen[RENEWAL] >= enough {
            true => Ok(seen),
            false => Err(format!("{seen:?}")),
        }
    })
    .await?;
    after.insert(RENEWAL.to_owned(), before[RENEWAL]);
    Ok(after)
}

/// Waits until no consumer but this one is left, and a renewal passes without
/// another request: what earlier tests made is gone, and this consumer has settled.
async fn settle(installation: &Installation) -> Outcome {
    wait::value("the operator to have nothing to do", LIMIT, async || {
        let looked = async || -> Result<_, Box<dyn Error>> {
            let page = promtext::parse(&operator_page(installation).await?)?;
            let before = requests(installation).await?;
            let after = after_renewals(installation, &before, 1).await?;
            Ok((
                page.value("penstock_operator_consumers", &[]),
                before,
                after,
            ))
        };
        match looked().await.map_err(|error| error.to_string())? {
            (Some(1.0), before, after) if before == after => Ok(()),
            (consumers, before, after) => Err(format!("{consumers:?}, {before:?}, {after:?}")),
        }
    })
    .await?;
    Ok(())
}

impl Scene {
    /// Version and generation of the consumer and of everything made for it.
    fn versions(&self) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
        let mut all = BTreeMap::new();
        let kinds = "deployments,replicasets,pods,configmaps,services,endpointslices,pdb";
        let made = self.namespace.json(&["get", kinds, "-l", SELECTOR])?;
        let consumers = self.namespace.json(&["get", "kc"])?;
        for object in items(&made).chain(items(&consumers)) {
            let metadata = &object["metadata"];
            let name = format!("{} {}", text(&object["kind"]), text(&metadata["name"]));
            let version = text(&metadata["resourceVersion"]);
            all.insert(name, format!("{version} {}", metadata["generation"]));
        }
        Ok(all)
    }
}

#[tokio::test]
async fn while_nothing_changes_nothing_is_written() -> Outcome {
    let scene = Scene::alone("steady").await?;
    Produce::to(&scene.topic)
        .count(10)
        .send(scene.cluster.kafka())
        .await?;
    scene.run(&scene.fast(2).set("/replicas", 2)).await?;
    scene.recorder.wait_for_handled(10, LIMIT).await?;
    scene.wait_until_complete().await?;
    scene
        .namespace
        .wait_until("kc/orders", "jsonpath={.status.lag}=0", LIMIT)
        .await?;
    settle(scene.installation).await?;
    // It was rolled out once.
    assert_eq!(scene.field("deployment/orders", "/metadata/generation")?, 1);
    assert_eq!(scene.field("kc/orders", "/metadata/generation")?, 1);

    let leader = scene.installation.leader()?;
    let versions = scene.versions()?;
    let config_map = format!("ConfigMap {}", scene.config_map("orders")?);
    for kind in [
        "KafkaConsumer orders",
        "Deployment orders",
        &config_map,
        "Service orders-metrics",
        "PodDisruptionBudget orders",
    ] {
        assert!(versions.contains_key(kind), "{kind}: {versions:?}");
    }
    let before = requests(scene.installation).await?;
    let after = after_renewals(scene.installation, &before, RENEWALS).await?;
    assert_eq!(after, before);
    assert_eq!(scene.versions()?, versions);
    assert_eq!(scene.installation.leader()?, leader);
    Ok(())
}
