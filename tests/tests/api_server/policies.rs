//! The policies of examples/policies, on an API server that no other test uses.

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::client::Client;
use penstock_crds::spec::KafkaConsumer;
use penstock_tests::wait;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Outcome;
use crate::scene::{LIMIT, with_crd};

/// The policies that Kubernetes evaluates itself.
const POLICIES: [(&str, &str); 3] = [
    (
        "brokers",
        include_str!("../../../examples/policies/brokers.yaml"),
    ),
    (
        "groups",
        include_str!("../../../examples/policies/groups.yaml"),
    ),
    (
        "images",
        include_str!("../../../examples/policies/images.yaml"),
    ),
];

const KYVERNO: &str = include_str!("../../../examples/policies/kyverno.yaml");

/// A consumer in a namespace, and the words of its refusal.
struct Row {
    namespace: &'static str,
    brokers: &'static str,
    group: &'static str,
    image: &'static str,
    refused: Option<&'static str>,
}

/// A row of the namespace with annotations that every policy accepts.
const GOOD: Row = Row {
    namespace: "shop",
    brokers: "kafka.example.com:9092",
    group: "billing.orders",
    image: "images.example.com/billing:1.4",
    refused: None,
};

const ROWS: [Row; 14] = [
    GOOD,
    Row {
        brokers: "kafka.example.com:9092, b-1.kafka.example.com:9093",
        ..GOOD
    },
    Row {
        group: "shipping.parcels.v2",
        ..GOOD
    },
    Row {
        brokers: "kafka.attacker.example:9092",
        refused: Some(
            "spec.kafka.bootstrapServers: this namespace may not connect to kafka.attacker.example:9092; use one of: kafka.example.com:9092, .kafka.example.com:9093",
        ),
        ..GOOD
    },
    Row {
        brokers: "kafka.example.com:9092,kafka.attacker.example:9092",
        refused: Some("may not connect to kafka.attacker.example:9092;"),
        ..GOOD
    },
    Row {
        brokers: "kafka.example.com:9094",
        refused: Some("may not connect to kafka.example.com:9094;"),
        ..GOOD
    },
    Row {
        brokers: "evilkafka.example.com:9093",
        refused: Some("may not connect to evilkafka.example.com:9093;"),
        ..GOOD
    },
    Row {
        group: "orders.billing",
        refused: Some(
            "spec.group: the service orders does not belong to this namespace; use one of: billing, shipping",
        ),
        ..GOOD
    },
    Row {
        group: "billing2.orders",
        refused: Some("the service billing2 does not belong to this namespace"),
        ..GOOD
    },
    Row {
        image: "registry.example/billing:1.4",
        refused: Some(
            "spec.handler.image: registry.example/billing:1.4 is not from images.example.com/; push the image there",
        ),
        ..GOOD
    },
    Row {
        image: "images.example.com.attacker.example/billing:1.4",
        refused: Some("is not from images.example.com/"),
        ..GOOD
    },
    Row {
        image: "billing:1.4",
        refused: Some("is not from images.example.com/"),
        ..GOOD
    },
    Row {
        namespace: "brokerless",
        refused: Some("this namespace may not connect to kafka.example.com:9092"),
        ..GOOD
    },
    Row {
        namespace: "groupless",
        refused: Some("the service billing does not belong to this namespace"),
        ..GOOD
    },
];

async fn create_namespace(client: &Client, name: &str, annotations: Value) -> kube::Result<()> {
    let metadata = json!({ "name": name, "annotations": annotations });
    let namespace = serde_json::from_value(json!({ "metadata": metadata }));
    let namespace: Namespace = namespace.map_err(kube::Error::SerdeError)?;
    let api = Api::all(client.clone());
    api.create(&PostParams::default(), &namespace).await?;
    Ok(())
}

/// The refusal of a row's consumer.
async fn refusal(client: &Client, row: &Row) -> Result<Option<String>, String> {
    let object = json!({
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "KafkaConsumer",
        "metadata": { "name": "orders" },
        "spec": {
            "group": row.group,
            "topics": ["orders"],
            "mode": "Fast",
            "kafka": { "bootstrapServers": row.brokers },
            "handler": { "image": row.image },
        },
    });
    let object: DynamicObject = serde_json::from_value(object).map_err(|it| it.to_string())?;
    let kind = ApiResource::erase::<KafkaConsumer>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), row.namespace, &kind);
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    match api.create(&params, &object).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) => Ok(Some(status.message)),
        Err(error) => Err(error.to_string()),
    }
}

#[tokio::test]
async fn the_policies_refuse_with_field_value_and_remedy_and_accept_the_rest() -> Outcome {
    let control_plane = with_crd().await?;
    let client = control_plane.client().await?;
    let brokers = "kafka.example.com:9092, .kafka.example.com:9093";
    let annotations = json!({
        "policies.example.com/brokers": brokers,
        "policies.example.com/services": "billing, shipping",
    });
    create_namespace(&client, "shop", annotations).await?;
    let annotations = json!({ "policies.example.com/services": "billing" });
    create_namespace(&client, "brokerless", annotations).await?;
    let annotations = json!({ "policies.example.com/brokers": brokers });
    create_namespace(&client, "groupless", annotations).await?;
    let old = create_old(&client).await?;
    for (_, policy) in POLICIES {
        control_plane.apply(policy)?;
    }
    // A policy takes effect a moment after it is applied.
    for policy in ["penstock-brokers", "penstock-groups", "penstock-images"] {
        let refused = |row: &&Row| row.refused.is_some();
        wait::until(policy, LIMIT, async || {
            for row in ROWS.iter().filter(refused) {
                let said = refusal(&client, row).await.ok().flatten();
                if said.is_some_and(|said| said.contains(policy)) {
                    return true;
                }
            }
            false
        })
        .await?;
    }
    for (number, row) in ROWS.iter().enumerate() {
        let said = refusal(&client, row).await?;
        match (row.refused, said) {
            (None, said) => assert_eq!(said, None, "row {number}"),
            (Some(words), said) => {
                let said = said.unwrap_or_default();
                assert!(said.contains(words), "row {number}: {said:?}");
            }
        }
    }
    let set = |finalizers: Value| {
        let patch = Patch::Merge(json!({ "metadata": { "finalizers": finalizers } }));
        let old = &old;
        async move { old.patch("old", &PatchParams::default(), &patch).await }
    };
    let kept = set(json!([FINALIZER, "test.example.com/other"])).await;
    assert!(kept.is_err(), "it is not being deleted");
    old.delete("old", &DeleteParams::default()).await?;
    set(Value::Null).await?;
    assert!(old.get_opt("old").await?.is_none());
    Ok(())
}

const FINALIZER: &str = "test.example.com/finalizer";

/// Creates a consumer that no policy would accept.
async fn create_old(client: &Client) -> kube::Result<Api<KafkaConsumer>> {
    let object = json!({
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "KafkaConsumer",
        "metadata": { "name": "old", "finalizers": [FINALIZER] },
        "spec": {
            "group": "foreign.orders",
            "topics": ["orders"],
            "mode": "Fast",
            "kafka": { "bootstrapServers": "kafka.attacker.example:9092" },
            "handler": { "image": "registry.example/handler:1" },
        },
    });
    let object: KafkaConsumer = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
    let api: Api<KafkaConsumer> = Api::namespaced(client.clone(), "shop");
    api.create(&PostParams::default(), &object).await?;
    Ok(api)
}

fn documents(text: &str) -> Result<Vec<Value>, serde_yaml::Error> {
    serde_yaml::Deserializer::from_str(text)
        .map(Value::deserialize)
        .collect()
}

#[test]
fn the_kyverno_policies_have_the_tested_rules_and_expressions() -> Outcome {
    let kyverno = documents(KYVERNO)?;
    assert_eq!(kyverno.len(), POLICIES.len());
    for ((name, text), theirs) in POLICIES.into_iter().zip(kyverno) {
        let documents = documents(text)?;
        let [policy, binding] = documents.as_slice() else {
            return Err(format!("{name}: not a policy and its binding").into());
        };
        assert_eq!(theirs["apiVersion"], "policies.kyverno.io/v1");
        assert_eq!(theirs["kind"], "ValidatingPolicy");
        assert_eq!(theirs["metadata"], policy["metadata"]);
        for field in [
            "matchConstraints",
            "matchConditions",
            "variables",
            "validations",
            "failurePolicy",
        ] {
            assert_eq!(
                theirs["spec"][field], policy["spec"][field],
                "{name} {field}"
            );
        }
        assert_eq!(
            theirs["spec"]["validationActions"],
            binding["spec"]["validationActions"]
        );
        assert!(policy["spec"]["validations"].is_array(), "{name}");
    }
    Ok(())
}
