//! The resource against that of the last release: a manifest that was valid stays valid, with
//! the same meaning. docs/contributing/release.md has the policy.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

/// Limits above which a value is rejected.
const MOST: [&str; 4] = ["maximum", "maxLength", "maxItems", "maxProperties"];

/// Limits below which a value is rejected.
const LEAST: [&str; 4] = ["minimum", "minLength", "minItems", "minProperties"];

/// Whatever else a value or its meaning depends on.
const SAME: [&str; 18] = [
    "type",
    "format",
    "pattern",
    "default",
    "nullable",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "multipleOf",
    "uniqueItems",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
];

/// A change that manifests of the last release may not survive, and that users are told.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Accepted {
    /// As the test reports it.
    change: String,
    /// A part of CHANGELOG.md.
    changelog: String,
}

#[test]
fn a_manifest_of_the_last_release_stays_valid_or_the_changelog_says_why_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let released = read(&root.join("released.yaml"));
    let accepted: Vec<Accepted> =
        serde_json::from_value(read(&root.join("tests/accepted_changes.yaml"))).unwrap();
    let changelog = fs::read_to_string(root.join("../CHANGELOG.md")).unwrap();
    let unreleased = changelog.split("\n## ").nth(1).unwrap();
    let now = serde_json::to_value(penstock_crds::crd::crd()).unwrap();
    let found: BTreeSet<_> = changes(&released, &now).into_iter().collect();
    let known: BTreeSet<_> = accepted.iter().map(|it| it.change.clone()).collect();
    assert_eq!(
        found, known,
        "left: what manifests of the last release may not survive; right: what \
         crds/tests/accepted_changes.yaml accepts"
    );
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for Accepted { change, changelog } in accepted {
        assert!(
            words(unreleased).contains(&words(&changelog)),
            "{change}: CHANGELOG.md lacks {changelog:?} in its first section"
        );
    }
}

fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    serde_yaml::from_str(&text).expect("a YAML document")
}

/// All that a manifest of the old resource may not survive.
fn changes(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for part in ["group", "scope", "names"] {
        if old["spec"][part] != new["spec"][part] {
            found.push(format!("{part} is another"));
        }
    }
    let versions = |crd: &Value| {
        crd["spec"]["versions"]
            .as_array()
            .cloned()
            .expect("a list of versions")
    };
    for old in versions(old) {
        let name = old["name"].as_str().expect("a version has a name");
        match versions(new).iter().find(|new| new["name"] == name) {
            Some(new) if new["served"] == true => {
                let spec = |version: &Value| {
                    version["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
                };
                compare("spec", &spec(&old), &spec(new), &mut found);
            }
            _ => found.push(format!("version {name} is not served any more")),
        }
    }
    found
}

fn compare(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    for key in SAME {
        if old[key] != new[key] {
            found.push(format!("{path}: {key} was {}, is {}", old[key], new[key]));
        }
    }
    for (keys, tighter) in [
        (MOST, (|old, new| new < old) as fn(f64, f64) -> bool),
        (LEAST, |old, new| new > old),
    ] {
        for key in keys {
            let is_tighter = match (old[key].as_f64(), new[key].as_f64()) {
                (Some(old), Some(new)) => tighter(old, new),
                (old, new) => old.is_none() && new.is_some(),
            };
            if is_tighter {
                found.push(format!("{path}: {key} was {}, is {}", old[key], new[key]));
            }
        }
    }
    compare_enum(path, old, new, found);
    for field in more(&old["required"], &new["required"]) {
        found.push(format!("{path}.{field}: must be set now"));
    }
    let rules = |schema: &Value| match schema["x-kubernetes-validations"].as_array() {
        Some(rules) => rules.iter().map(|rule| rule["rule"].clone()).collect(),
        None => Value::Array(Vec::new()),
    };
    for rule in more(&rules(old), &rules(new)) {
        found.push(format!("{path}: has the rule {rule}"));
    }
    if let Some(fields) = old["properties"].as_object() {
        for (field, old) in fields {
            let path = format!("{path}.{field}");
            match &new["properties"][field] {
                Value::Null => found.push(format!("{path}: is gone")),
                new => compare(&path, old, new, found),
            }
        }
    }
    for (key, name) in [("items", "[]"), ("additionalProperties", ".*")] {
        match (&old[key], &new[key]) {
            (Value::Null, _) => {}
            (_, Value::Null) => found.push(format!("{path}{name}: is gone")),
            (old, new) => compare(&format!("{path}{name}"), old, new, found),
        }
    }
}

fn compare_enum(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    match (&old["enum"], &new["enum"]) {
        (_, Value::Null) => {}
        (Value::Null, _) => found.push(format!("{path}: takes some values only")),
        (old, new) => {
            for value in more(new, old) {
                found.push(format!("{path}: does not take {value} any more"));
            }
        }
    }
}

/// The texts of the second list that the first has not.
fn more(than: &Value, list: &Value) -> Vec<String> {
    let texts = |list: &Value| {
        let list = list.as_array().into_iter().flatten();
        list.filter_map(|it| it.as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let than = texts(than);
    let list = texts(list).into_iter();
    list.filter(|text| !than.contains(text)).collect()
}

/// A resource with one field, with this schema.
fn resource(field: Value) -> Value {
    let spec = json!({ "type": "object", "properties": { "field": field } });
    let schema = json!({ "openAPIV3Schema": { "properties": { "spec": spec } } });
    let version = json!({ "name": "v1", "served": true, "schema": schema });
    json!({ "spec": { "group": "example.dev", "versions": [version] } })
}

#[test]
fn each_change_that_rejects_a_manifest_or_gives_it_another_meaning_is_found() {
    let text = json!({ "type": "string" });
    let list = json!({ "type": "array", "items": text });
    let object = json!({ "type": "object", "properties": { "a": text, "b": text } });
    for (old, new, change) in [
        (
            text.clone(),
            json!({ "type": "integer" }),
            r#"type was "string", is "integer""#,
        ),
        (
            text.clone(),
            json!({ "type": "string", "pattern": "^a" }),
            r#"pattern was null, is "^a""#,
        ),
        (
            json!({ "type": "string", "default": "a" }),
            json!({ "type": "string", "default": "b" }),
            r#"default was "a", is "b""#,
        ),
        (
            json!({ "type": "string", "maxLength": 9 }),
            json!({ "type": "string", "maxLength": 8 }),
            "maxLength was 9, is 8",
        ),
        (
            text.clone(),
            json!({ "type": "string", "maxLength": 8 }),
            "maxLength was null, is 8",
        ),
        (
            json!({ "type": "integer", "minimum": 0 }),
            json!({ "type": "integer", "minimum": 1 }),
            "minimum was 0, is 1",
        ),
        (
            json!({ "type": "string", "enum": ["a", "b"] }),
            json!({ "type": "string", "enum": ["b", "c"] }),
            "does not take a any more",
        ),
        (
            text.clone(),
            json!({ "type": "string", "enum": ["a"] }),
            "takes some values only",
        ),
        (
            text.clone(),
            json!({ "type": "string", "x-kubernetes-validations": [{ "rule": "self != ''" }] }),
            "has the rule self != ''",
        ),
    ] {
        let found = changes(&resource(old), &resource(new));
        assert_eq!(found, [format!("spec.field: {change}")]);
    }
    let mut required = object.clone();
    required["required"] = json!(["a"]);
    let found = changes(&resource(object.clone()), &resource(required));
    assert_eq!(found, ["spec.field.a: must be set now"]);
    let mut removed = object.clone();
    removed["properties"].as_object_mut().unwrap().remove("b");
    let found = changes(&resource(object), &resource(removed));
    assert_eq!(found, ["spec.field.b: is gone"]);
    let mut tighter = list.clone();
    tighter["items"]["maxLength"] = json!(3);
    let found = changes(&resource(list), &resource(tighter));
    assert_eq!(found, ["spec.field[]: maxLength was null, is 3"]);
    let mut retired = resource(text.clone());
    retired["spec"]["versions"][0]["served"] = json!(false);
    let found = changes(&resource(text), &retired);
    assert_eq!(found, ["version v1 is not served any more"]);
}

#[test]
fn more_fields_more_values_and_wider_limits_are_no_change() {
    let old = json!({
        "type": "object",
        "required": ["a"],
        "properties": {
            "a": { "type": "string", "enum": ["x"], "description": "before" },
            "b": { "type": "integer", "minimum": 3, "maximum": 5 },
        },
        "x-kubernetes-validations": [{ "rule": "self.a != self.b" }],
    });
    let new = json!({
        "type": "object",
        "properties": {
            "a": { "type": "string", "enum": ["x", "y"], "description": "after" },
            "b": { "type": "integer", "minimum": 2 },
            "c": { "type": "object", "required": ["d"], "properties": { "d": { "type": "string" } } },
        },
    });
    assert_eq!(changes(&resource(old), &resource(new)), [""; 0]);
}
