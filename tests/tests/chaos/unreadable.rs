//! Objects that were stored under another version of the resource.

use penstock_tests::kubernetes::{Cluster, ClusterError, Scene};
use serde_json::{Value, json};

use crate::{LIMIT, Outcome};

const CRD: &str = "crd/kafkaconsumers.penstock.dev";

/// Where the resource's schema is.
const SCHEMA: &str = "/spec/versions/0/schema/openAPIV3Schema";

/// The resource with a schema that lets everything through; restored when dropped.
struct Loosened {
    cluster: &'static Cluster,
    schema: Value,
}

impl Loosened {
    fn new(cluster: &'static Cluster) -> Result<Self, Box<dyn std::error::Error>> {
        let text = cluster.run_kubectl(["get", CRD, "-o", "json"])?;
        let crd: Value = serde_json::from_str(&text)?;
        let schema = crd.pointer(SCHEMA).cloned().ok_or("it has a schema")?;
        let loose = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let loosened = Self { cluster, schema };
        loosened.set(&loose)?;
        Ok(loosened)
    }

    fn set(&self, schema: &Value) -> Result<(), ClusterError> {
        let patch = json!([{"op": "replace", "path": SCHEMA, "value": schema}]).to_string();
        self.cluster
            .run_kubectl(["patch", CRD, "--type=json", "--patch", &patch])
            .map(drop)
    }
}

impl Drop for Loosened {
    fn drop(&mut self) {
        if let Err(error) = self.set(&self.schema) {
            eprintln!("the resource's schema was not restored: {error:?}");
        }
    }
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_told_of_and_others_go_on() -> Outcome {
    let scene = Scene::new("unreadable").await?;
    let namespace = &scene.namespace;
    {
        let _loosened = Loosened::new(scene.cluster)?;
        let strange = scene
            .in_order()
            .set("/group", 5)
            .set("/handler/timeout", json!({"seconds": 10}));
        // The API server takes a moment to go by the new schema.
        penstock_tests::wait::value("the object to be taken", LIMIT, async || {
            namespace.apply(&strange.named("strange"))
        })
        .await?;
    }
    let condition = namespace
        .wait_for_reason(
            "strange",
            "Accepted",
            "Unreadable",
            &["spec.group", "spec.handler.timeout", "correct the manifest"],
            LIMIT,
        )
        .await?;
    assert_eq!(condition.status, "False");

    scene.run(&scene.in_order()).await?;
    // Corrected, it is a consumer as any other.
    namespace.apply(&scene.fast(2).named("strange"))?;
    namespace
        .wait_until("kc/strange", "condition=Available", LIMIT)
        .await?;
    Ok(())
}
