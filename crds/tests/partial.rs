//! What is told of a manifest with wrong fields besides them.
#![allow(clippy::unwrap_used)]

mod common;

use common::{base, table, violations, with_spec};
use serde_json::{Value, json};

#[test]
fn rules_are_told_beside_wrong_fields() {
    let object = with_spec(json!({
        "mode": "Fsat",
        "replica": 2,
        "handler": { "port": 80800, "timeout": "fast", "protocol": "Http" },
        "delivery": { "maxAttempts": 0 },
        "topics": ["orders", "or ders"],
    }));
    let mut paths: Vec<String> = violations(&object).into_iter().map(|it| it.path).collect();
    paths.sort();
    assert_eq!(
        paths,
        [
            "spec.delivery.maxAttempts",
            "spec.handler.port",
            "spec.handler.timeout",
            "spec.mode",
            "spec.replica",
            "spec.topics[1]",
        ]
    );
}

/// Puts a wrong value at a place, or another name.
#[derive(Clone, Copy)]
enum Fault {
    Type,
    Name,
}

fn places(value: &Value, place: &str, found: &mut Vec<String>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let place = format!("{place}/{}", name.replace('~', "~0").replace('/', "~1"));
        found.push(place.clone());
        places(value, &place, found);
    }
}

fn spoil(object: &mut Value, place: &str, fault: Fault) {
    let (parent, name) = place.rsplit_once('/').unwrap();
    let name = name.replace("~1", "/").replace("~0", "~");
    let parent = object.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    let value = parent.remove(&name).unwrap();
    match fault {
        Fault::Type if value.is_array() => parent.insert(name, json!(7)),
        Fault::Type => parent.insert(name, json!([[true]])),
        Fault::Name => parent.insert(format!("{name}x"), value),
    };
}

/// One fault in a manifest that is right otherwise: nothing else may be told.
#[test]
fn no_rule_is_told_that_may_be_kept_once_the_wrong_field_is_corrected() {
    let mut tried = 0;
    for case in table(include_str!("good_manifests.yaml")) {
        let good = case.object();
        let mut found = Vec::new();
        places(&good["spec"], "/spec", &mut found);
        for place in found {
            // Whether a property is one of librdkafka's is a rule, which hides no other.
            let is_property = place.starts_with("/spec/kafka/config/");
            for fault in [Fault::Type, Fault::Name] {
                if is_property && matches!(fault, Fault::Name) {
                    continue;
                }
                let mut object = good.clone();
                spoil(&mut object, &place, fault);
                let path = place.replace('/', ".");
                let path = path.trim_start_matches('.');
                for violation in violations(&object) {
                    tried += 1;
                    let told = violation.path.replace('[', ".").replace(']', "");
                    let place = path.replace("~1", "/").replace("~0", "~");
                    assert!(
                        told == place
                            || told == format!("{place}x")
                            || told.starts_with(&format!("{place}.")),
                        "{}: {place} is wrong, and told is {violation}",
                        case.name
                    );
                }
            }
        }
    }
    assert!(tried > 1000, "{tried}");
}

#[test]
fn a_manifest_of_nothing_but_faults_ends_with_them() {
    for spec in [
        json!(null),
        json!(7),
        json!([]),
        json!({}),
        json!({ "x": 1 }),
    ] {
        let mut object = base();
        object["spec"] = spec;
        assert!(!violations(&object).is_empty());
    }
}
