//! Reading manifests: documents, positions, kinds, and what is said of faults.

mod common;

use common::{base, document, validated, violations, with_spec};
use penstock_crds::manifest::{Content, Document, ManifestErrors, Problem, read, read_one};
use serde_json::json;

const ORDERS: &str = "\
apiVersion: penstock.dev/v1alpha1
kind: KafkaConsumer
metadata:
  name: orders
spec:
  group: billing.orders
  topics: [orders]
  mode: InOrder
  kafka:
    bootstrapServers: kafka:9092
  handler:
    image: registry.example/billing:1.4
";

const CONFIG_MAP: &str = "\
apiVersion: v1
kind: ConfigMap
metadata:
  name: settings
data:
  a: b
";

fn one(text: &str) -> Document {
    let mut documents = read(text);
    assert_eq!(documents.len(), 1, "{documents:#?}");
    documents.remove(0)
}

fn problem(text: &str) -> Problem {
    match one(text).content {
        Content::Refused(refusal) => refusal.problem,
        other => panic!("{other:#?}"),
    }
}

fn said(text: &str) -> Vec<String> {
    match problem(text) {
        Problem::Violations(violations) => violations.iter().map(ToString::to_string).collect(),
        problem => panic!("{problem}"),
    }
}

#[test]
fn documents_are_counted_and_know_their_lines() {
    let text = format!("# Consumers\n---\n{ORDERS}---\n# nothing\n---\n\n{CONFIG_MAP}...\n");
    let documents = read(&text);
    let places: Vec<(usize, usize)> = documents.iter().map(|it| (it.index, it.line)).collect();
    assert_eq!(places, [(1, 3), (2, 19)]);
    assert!(matches!(documents[0].content, Content::Consumer(_)));
    let Content::Other(other) = &documents[1].content else {
        panic!("{:?}", documents[1]);
    };
    assert_eq!(
        (other.kind.as_str(), other.api_version.as_str()),
        ("ConfigMap", "v1")
    );
    assert_eq!(other.name.as_deref(), Some("settings"));
}

#[test]
fn a_fault_in_one_document_does_not_hide_the_others() {
    let text = format!("a: [\n---\n{ORDERS}");
    let documents = read(&text);
    assert!(matches!(documents[0].content, Content::Refused(_)));
    assert!(matches!(documents[1].content, Content::Consumer(_)));
}

#[test]
fn a_syntax_error_has_its_position_in_the_whole_text() {
    let text = format!("{ORDERS}---\nkind: KafkaConsumer\nspec: {{ a: 1\nmode: x: y\n");
    let documents = read(&text);
    let Content::Refused(refusal) = &documents[1].content else {
        panic!("{documents:?}");
    };
    let Problem::Syntax { line, column, .. } = refusal.problem else {
        panic!("{refusal:?}");
    };
    assert_eq!((line, column), (16, 5));
}

#[test]
fn a_key_that_comes_twice_is_an_error() {
    let text = ORDERS.replace("  mode: InOrder\n", "  mode: InOrder\n  mode: Fast\n");
    let Problem::Syntax { line, message, .. } = problem(&text) else {
        panic!();
    };
    assert_eq!(message, "duplicate entry with key \"mode\"");
    assert_eq!(line, 9);
}

#[test]
fn nothing_but_comments_is_no_document() {
    assert_eq!(read(""), []);
    assert_eq!(read("# only\n---\n---\nnull\n"), []);
}

#[test]
fn what_is_no_object_is_refused() {
    let said = said("just text\n");
    assert!(
        said.contains(&"kind: is required: write kind: KafkaConsumer".to_owned()),
        "{said:?}"
    );
}

#[test]
fn objects_of_other_kinds_are_told_apart_from_misspelt_consumers() {
    let kinds = [
        ("apps/v1", "Deployment", false),
        ("kafka.strimzi.io/v1beta2", "KafkaTopic", false),
        ("penstock.dev/v1alpha1", "KafkaConsumers", true),
        ("penstock.dev/v1alpha1", "Consumer", true),
        ("penstok.dev/v1alpha1", "KafkaConsumer", true),
        ("v1", "KafkaConsumer", true),
    ];
    for (api_version, kind, ours) in kinds {
        let mut object = base();
        object["apiVersion"] = json!(api_version);
        object["kind"] = json!(kind);
        let refused = matches!(document(&object).content, Content::Refused(_));
        assert_eq!(refused, ours, "{api_version} {kind}");
    }
}

#[test]
fn anchors_and_merge_keys_are_followed() {
    let text = ORDERS.replace(
        "  handler:\n",
        "  handler:\n    <<: { path: /merged, timeout: 5s }\n",
    );
    let (consumer, _) = read_one(&text).unwrap();
    assert_eq!(consumer.spec.handler.path, "/merged");
}

#[test]
fn null_counts_as_absent() {
    let text = ORDERS.replace(
        "  mode: InOrder\n",
        "  mode: InOrder\n  replicas:\n  delivery: ~\n",
    );
    let (_, consumer) = read_one(&text).unwrap();
    assert_eq!(
        consumer,
        validated(&with_spec(json!({ "mode": "InOrder" })))
    );
}

#[test]
fn json_is_yaml_too() {
    assert!(read_one(&base().to_string()).is_ok());
}

#[test]
fn one_consumer_is_read_with_whatever_stands_beside_it() {
    let (resource, consumer) = read_one(&format!("{CONFIG_MAP}---\n{ORDERS}")).unwrap();
    assert_eq!(resource.metadata.name.as_deref(), Some("orders"));
    assert_eq!(consumer.group.as_str(), "billing.orders");
}

#[test]
fn no_consumer_is_refused_with_what_was_found_instead() {
    assert_eq!(
        read_one(CONFIG_MAP).unwrap_err().to_string(),
        "found no KafkaConsumer, but ConfigMap; give a file with one"
    );
    assert_eq!(
        read_one("").unwrap_err().to_string(),
        "found no KafkaConsumer, but nothing at all; give a file with one"
    );
}

#[test]
fn several_consumers_are_refused_by_name() {
    let returns = ORDERS.replace("name: orders", "name: returns");
    let error = read_one(&format!("{ORDERS}---\n{returns}")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "found 2 KafkaConsumers (orders, returns), and one can run here; give a file with one"
    );
}

#[test]
fn the_violations_of_the_one_consumer_are_all_told() {
    let error = read_one(
        &ORDERS
            .replace("billing.orders", "orders")
            .replace("orders]", "a b]"),
    );
    let Err(ManifestErrors::Refused(problem)) = error else {
        panic!("{error:?}");
    };
    assert_eq!(problem.to_string().lines().count(), 2, "{problem}");
}

#[test]
fn a_violation_serialises_with_path_value_and_message() {
    let violations = violations(&with_spec(json!({ "replicas": -1 })));
    assert_eq!(
        serde_json::to_value(&violations).unwrap(),
        json!([{
            "path": "spec.replicas",
            "value": -1,
            "message": "must be 0 to 1000; 0 pauses the consumer",
        }])
    );
}

#[test]
fn no_violation_shows_a_credential() {
    let secret = "hunter2-and-more";
    let manifests = [
        json!({ "kafka": { "config": { "sasl.password": secret } } }),
        json!({ "kafka": { "config": { "ssl.key.pem": [secret] } } }),
        json!({ "kafka": { "config": { "sasl.password": 424242 } } }),
        json!({ "kafka": { "config": { "sasl.passwrd": secret } } }),
        json!({ "kafka": { "password": secret } }),
        json!({ "kafka": { "authentication": { "type": "plain", "username": "me",
            "passwordSecret": { "secretName": "s", "password": format!("{secret}!") } } } }),
        json!({ "kafka": { "authentication": { "type": "plain", "username": "me",
            "passwordSecret": { "secretName": "s", "password": 424242 } } } }),
        json!({ "handler": { "env": [{ "name": "PIN", "value": 424242 }] } }),
        json!({ "kafka": { "authentication": { "type": "plain", "password": secret } } }),
    ];
    for spec in manifests {
        let said = serde_json::to_string(&violations(&with_spec(spec))).unwrap();
        assert!(
            said.len() > 2 && !said.contains(secret) && !said.contains("424242"),
            "{said}"
        );
    }
}

#[test]
fn numbers_that_no_field_can_hold_are_refused_and_do_not_panic() {
    let with = |field: &str, value: &str| {
        said(&ORDERS.replace(
            "  mode: InOrder\n",
            &format!("  mode: InOrder\n  {field}: {value}\n"),
        ))
    };
    assert_eq!(
        with("replicas", "3000000000"),
        ["spec.replicas: must be -2147483648 to 2147483647 (found 3000000000)"]
    );
    assert_eq!(
        with("maxConcurrency", "18446744073709551615"),
        ["spec.maxConcurrency: must be a whole number (found 18446744073709551615)"]
    );
    let text = ORDERS.replace("  mode: InOrder\n", "  mode: InOrder\n  replicas: .nan\n");
    let Problem::Syntax { line, message, .. } = problem(&text) else {
        panic!();
    };
    assert_eq!((line, message.as_str()), (9, "JSON has no number .nan"));
    assert_eq!(
        with("stopTimeout", "99999999999999999999999h"),
        [
            "spec.stopTimeout: is longer than 292 years; shorten it (found '99999999999999999999999h')"
        ]
    );
}

#[test]
fn quantities_that_are_no_quantities_are_refused() {
    let text = format!("{ORDERS}    resources: {{ limits: {{ cpu: true }} }}\n");
    assert_eq!(
        said(&text),
        ["spec.handler.resources.limits[cpu]: must be text or a whole number (found true)"]
    );
}
