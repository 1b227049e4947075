//! What pods need of the node: images, native sidecars, services, names, Kafka, and
//! logs and exec for those who look.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use penstock_tests::kubernetes::{Cluster, NODE, Namespace};
use penstock_tests::process::Signal;
use penstock_tests::produce::Produce;
use penstock_tests::{Manifest, page, promtext, topics, wait};
use serde_json::{Value, json};

use super::Outcome;

const SOON: Duration = Duration::from_secs(90);

/// The Go example says how far it is each time it has handled this many.
const ORDERS: u64 = 10_000;

/// A runtime and, as its native sidecar, a handler.
fn pod(manifest: &Manifest) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": { "name": "consumer" },
                "data": { "consumer.yaml": manifest.text() },
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": { "name": "metrics" },
                "spec": { "selector": { "app": "consumer" }, "ports": [{ "port": 80, "targetPort": 6060 }] },
            },
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": { "name": "consumer", "labels": { "app": "consumer" } },
                "spec": {
                    "terminationGracePeriodSeconds": 5,
                    "initContainers": [{
                        "name": "handler",
                        "image": "registry.example/orders-go:test",
                        "restartPolicy": "Always",
                        "env": [{ "name": "PORT", "value": "8080" }],
                    }],
                    "containers": [{
                        "name": "runtime",
                        "image": "registry.example/penstock-runtime:test",
                        "readinessProbe": {
                            "httpGet": { "path": "/readyz", "port": 9090 },
                            "periodSeconds": 1,
                        },
                        "volumeMounts": [{ "name": "consumer", "mountPath": "/etc/penstock" }],
                    }],
                    "volumes": [{ "name": "consumer", "configMap": { "name": "consumer" } }],
                },
            },
        ],
    })
}

/// A service `kafka` that stands for the cluster's Kafka outside of it.
fn kafka_service(cluster: &Cluster) -> Result<Value, Box<dyn std::error::Error>> {
    let address: SocketAddr = cluster.kafka().parse()?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": { "name": "kafka" },
                "spec": { "ports": [{ "port": 9092, "targetPort": address.port() }] },
            },
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": "kafka",
                    "labels": { "kubernetes.io/service-name": "kafka" },
                },
                "addressType": "IPv4",
                "ports": [{ "port": address.port() }],
                "endpoints": [{ "addresses": [address.ip()] }],
            },
        ],
    }))
}

async fn service_address(namespace: &Namespace) -> Result<SocketAddr, Box<dyn std::error::Error>> {
    let output = "jsonpath={.spec.clusterIP}";
    let address = namespace.run_kubectl(["get", "service", "metrics", "-o", output])?;
    Ok((address.parse::<IpAddr>()?, 80).into())
}

#[tokio::test]
async fn the_node_is_ready_and_of_the_version_that_is_asked_for() -> Outcome {
    let cluster = Cluster::shared().await?;
    let node = cluster.run_kubectl(["get", "node", NODE, "-o", "json"])?;
    let node: Value = serde_json::from_str(&node)?;
    assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], "v1.34.2");
    let conditions = node["status"]["conditions"].as_array().ok_or("none")?;
    let ready = conditions.iter().find(|one| one["type"] == "Ready");
    assert_eq!(ready.ok_or("not told")?["status"], "True", "{conditions:?}");
    Ok(())
}

#[tokio::test]
async fn a_pod_with_a_native_sidecar_consumes_and_is_seen_from_outside() -> Outcome {
    let cluster = Cluster::shared().await?;
    let topic = topics::create(cluster.kafka(), "orders", 1).await?;
    Produce::to(&topic)
        .count(ORDERS)
        .send(cluster.kafka())
        .await?;

    let namespace = cluster.namespace("harness").await?;
    namespace.apply(&kafka_service(cluster)?.to_string())?;
    // Found by name, through the service, in the namespace that resolv.conf adds.
    let manifest =
        Manifest::fast("kafka:9092", "harness.orders", &topic, 16).set("/handler/port", 8080);
    namespace.apply(&pod(&manifest).to_string())?;
    namespace
        .wait_until("pod/consumer", "condition=Ready", SOON)
        .await?;

    let address = service_address(&namespace).await?;
    let handled = wait::value("all orders to be handled", SOON, async || {
        let page = page::get_at(address, "/metrics").await;
        let page = page.map_err(|error| error.to_string())?;
        let page = promtext::parse(&page.body).map_err(|error| error.to_string())?;
        let samples = page.samples("kafka_consumer_messages_processed_total", &[]);
        let handled = samples.map(|sample| sample.value).sum::<f64>();
        match handled >= ORDERS as f64 {
            true => Ok(handled),
            false => Err(format!("{handled}")),
        }
    })
    .await?;
    assert_eq!(handled, ORDERS as f64);

    let handler = namespace.run_kubectl(["logs", "consumer", "-c", "handler"])?;
    assert!(handler.contains("10000 orders"), "{handler}");
    let exec = [
        "exec",
        "consumer",
        "-c",
        "runtime",
        "--",
        "/penstock-runtime",
        "--version",
    ];
    let version = namespace.run_kubectl(exec)?;
    assert!(version.starts_with("penstock-runtime "), "{version}");
    Ok(())
}

#[tokio::test]
async fn a_pod_that_ends_is_restarted_by_its_deployment() -> Outcome {
    let cluster = Cluster::shared().await?;
    let namespace = cluster.namespace("harness").await?;
    let image = "--image=registry.example/orders-go:test";
    namespace.run_kubectl(["create", "deployment", "web", image])?;
    namespace
        .wait_until("deployment/web", "condition=Available", SOON)
        .await?;
    let names = || namespace.run_kubectl(["get", "pods", "-o", "name"]);
    let first = names()?;
    namespace.run_kubectl(["delete", first.trim(), "--grace-period=1"])?;
    namespace
        .wait_until("deployment/web", "jsonpath={.status.readyReplicas}=1", SOON)
        .await?;
    assert_ne!(names()?, first);
    Ok(())
}

#[tokio::test]
async fn a_container_can_be_killed_from_outside() -> Outcome {
    let cluster = Cluster::shared().await?;
    let namespace = cluster.namespace("harness").await?;
    let image = "--image=registry.example/orders-go:test";
    namespace.run_kubectl(["run", "web", image])?;
    namespace
        .wait_until("pod/web", "condition=Ready", SOON)
        .await?;
    assert_eq!(namespace.processes("web", "web")?.len(), 1);
    assert!(namespace.processes("web", "other").is_err());

    namespace.signal("web", "web", Signal::KILL)?;
    let status = ".status.containerStatuses[0]";
    let killed = format!("jsonpath={{{status}.lastState.terminated.exitCode}}=137");
    namespace.wait_until("pod/web", &killed, SOON).await?;
    let restarted = format!("jsonpath={{{status}.restartCount}}=1");
    namespace.wait_until("pod/web", &restarted, SOON).await?;
    Ok(())
}

#[tokio::test]
async fn helm_and_the_rest_are_of_their_own_versions() -> Outcome {
    let cluster = Cluster::shared().await?;
    for (name, argument, expected) in [
        ("helm", "version", "v3.19.0"),
        ("prometheus", "--version", "version 3.7.3"),
        ("promtool", "--version", "version 3.7.3"),
    ] {
        let output = std::process::Command::new(cluster.binaries().path(name))
            .arg(argument)
            .output()?;
        let text = String::from_utf8([output.stdout, output.stderr].concat())?;
        assert!(text.contains(expected), "{name}: {text}");
    }
    Ok(())
}
