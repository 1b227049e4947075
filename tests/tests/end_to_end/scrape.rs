//! A real Prometheus finds the pods and reads their figures.

use std::io::{Seek, Write};
use std::process::Command;

use penstock_tests::kubernetes::Cluster;
use penstock_tests::produce::Produce;
use penstock_tests::prometheus::Prometheus;
use penstock_tests::recorder::Reply;
use penstock_tests::wait;
use serde_json::{Value, json};

use crate::look::{operator_page, runtime_page};
use crate::{LIMIT, Outcome, Scene};

const PROCESSED: &str = "kafka_consumer_messages_processed_total";

/// Finds targets of a namespace through the API server.
fn discover(scene: &Scene, namespace: &str, role: &str) -> Value {
    json!([{
        "role": role,
        "kubeconfig_file": scene.cluster.kubeconfig(),
        "namespaces": {"names": [namespace]},
    }])
}

/// The targets behind a Service.
fn by_service(scene: &Scene, job: &str, namespace: &str, service: &str) -> Value {
    json!({
        "job_name": job,
        "kubernetes_sd_configs": discover(scene, namespace, "endpointslice"),
        "relabel_configs": [
            {
                "source_labels": ["__meta_kubernetes_service_name"],
                "regex": service,
                "action": "keep",
            },
            {
                "source_labels": ["__meta_kubernetes_endpointslice_port_name"],
                "regex": "metrics",
                "action": "keep",
            },
        ],
    })
}

/// The pods that ask for it by the usual annotations.
fn by_annotations(scene: &Scene, job: &str, namespace: &str) -> Value {
    let annotation = |name: &str| format!("__meta_kubernetes_pod_annotation_prometheus_io_{name}");
    json!({
        "job_name": job,
        "kubernetes_sd_configs": discover(scene, namespace, "pod"),
        "relabel_configs": [
            {"source_labels": [annotation("scrape")], "regex": "true", "action": "keep"},
            {"source_labels": [annotation("path")], "target_label": "__metrics_path__"},
            {
                "source_labels": ["__meta_kubernetes_pod_ip", annotation("port")],
                "separator": ":",
                "target_label": "__address__",
            },
        ],
    })
}

/// Waits until an expression has these values, in any order.
async fn wait_for_values(prometheus: &Prometheus, expression: &str, wanted: &[f64]) -> Outcome {
    wait::value(format!("{expression} = {wanted:?}"), LIMIT, async || {
        let samples = prometheus
            .query(expression)
            .await
            .map_err(|error| error.to_string())?;
        let mut values: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
        values.sort_by(f64::total_cmp);
        match values == wanted {
            true => Ok(()),
            false => Err(format!("{samples:?}")),
        }
    })
    .await?;
    Ok(())
}

/// Holds a page against the linter of Prometheus' authors.
fn check(cluster: &Cluster, page: &str) -> Outcome {
    let mut file = tempfile::tempfile()?;
    file.write_all(page.as_bytes())?;
    file.rewind()?;
    let output = Command::new(cluster.binaries().path("promtool"))
        .args(["check", "metrics"])
        .stdin(file)
        .output()?;
    let said = String::from_utf8([output.stdout, output.stderr].concat())?;
    match output.status.success() && said.is_empty() {
        true => Ok(()),
        false => Err(format!("{}: {said}\n{page}", output.status).into()),
    }
}

#[tokio::test]
async fn prometheus_finds_the_pods_and_counts_what_was_produced() -> Outcome {
    let scene = Scene::new("scrape").await?;
    scene.recorder.behave(|delivery| {
        match delivery.json()["seq"]
            .as_u64()
            .is_some_and(|seq| seq % 100 == 0)
        {
            true => Reply::status(422),
            false => Reply::ok(),
        }
    });
    let manifest = scene
        .fast(4)
        .set("/replicas", 2)
        .set("/prometheusClientName", "shop")
        .set("/delivery/onFailure", "Skip");
    scene.run(&manifest).await?;
    // A pod tells the lag of a partition of which it has read something.
    scene.wait_until_complete().await?;
    Produce::to(&scene.topic)
        .count(1_000)
        .send(scene.cluster.kafka())
        .await?;

    let own = scene.namespace.name();
    let operators = scene.installation.namespace();
    let configuration = json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            by_service(&scene, "service", own, "orders-metrics"),
            by_annotations(&scene, "pods", own),
            by_service(&scene, "operator", operators, "penstock-operator-metrics"),
        ],
    });
    let prometheus = Prometheus::start(&scene.cluster.binaries(), &configuration).await?;
    for job in ["service", "pods"] {
        wait_for_values(&prometheus, &format!(r#"up{{job="{job}"}}"#), &[1.0, 1.0]).await?;
        for (success, expected) in [("true", 990.0), ("false", 10.0)] {
            let series = format!(
                r#"sum({PROCESSED}{{job="{job}", kafka_topic="{}", kafka_client_name="shop", kafka_success="{success}"}})"#,
                scene.topic
            );
            wait_for_values(&prometheus, &series, &[expected]).await?;
        }
        let lag = format!(
            r#"sum(penstock_lag{{job="{job}", kafka_topic="{}"}})"#,
            scene.topic
        );
        wait_for_values(&prometheus, &lag, &[0.0]).await?;
    }
    wait_for_values(&prometheus, r#"up{job="operator"}"#, &[1.0, 1.0]).await?;
    wait_for_values(&prometheus, "penstock_operator_leader", &[0.0, 1.0]).await?;
    Ok(())
}

#[tokio::test]
async fn the_pages_pass_prometheus_own_linter() -> Outcome {
    let scene = Scene::new("linter").await?;
    Produce::to(&scene.topic)
        .count(10)
        .endpoint_timestamp()
        .send(scene.cluster.kafka())
        .await?;
    scene.run(&scene.in_order()).await?;
    scene.recorder.wait_for_handled(10, LIMIT).await?;
    let pods = scene.pods()?;
    let pod = pods.first().ok_or("no pod")?;
    check(scene.cluster, &runtime_page(pod).await?)?;
    check(scene.cluster, &operator_page(scene.installation).await?)
}
