//! From the bytes of a file to the operator's decision: read, validate, build. Whatever the
//! bytes are, there is a decision, soon, and it is the same for `penstock check` and for the
//! operator. The corpus is the table of manifests in tests/agreement, changed at random.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use penstock_crds::manifest::{self, Consumer, Content, Document, Problem};
use penstock_operator::build::{self, Blueprint, Kind, RuntimeImage};
use penstock_operator::key::Key;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::manifest::{NAMESPACE, UID, body};

#[path = "../../../tests/agreement/rows.rs"]
mod rows;

use rows::Manifest;

/// The longest text, in bytes.
const MAX_TEXT: usize = 64 * 1024;

/// The maximum CPU time for a decision: other work on the machine does not count.
const LIMIT: Duration = Duration::from_secs(10);

static CORPUS: LazyLock<Vec<Manifest>> = LazyLock::new(|| {
    let rows = rows::rows().expect("the tables can be read");
    rows.iter().map(rows::Row::manifest).collect()
});

/// Pieces of text that mean something to a parser or a rule.
const PIECES: &[&str] = &[
    "\n",
    "\t",
    "\r",
    "\0",
    "\u{feff}",
    "---\n",
    "...\n",
    "- ",
    ": ",
    ":",
    "?",
    "&a ",
    "*a",
    "<<: *a\n",
    "!!int ",
    "!!binary ",
    "!own ",
    "%YAML 1.1\n",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "|\n",
    ">-\n",
    "#",
    ",",
    "~",
    "yes",
    "0777",
    "1_0",
    "1e999",
    ".nan",
    "-1",
    "99999999999999999999",
    "1h",
    "99999999999h",
    "ä",
    "\u{2028}",
    "\u{d7ff}",
    "  ",
    "\\u0000",
    "\\x",
    "spec",
    "null",
    "kind: List\nitems:\n- ",
    "KafkaConsumer",
    "{{{{{{{{{{{{{{{{",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[",
];

/// One change of a text.
#[derive(Clone, Debug)]
enum Edit {
    Insert(Index, &'static str),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    Splice(Index, Index),
    Byte(Index, u8),
}

fn edit() -> impl Strategy<Value = Edit> {
    let place = any::<Index>;
    prop_oneof![
        4 => (place(), select(PIECES)).prop_map(|(place, piece)| Edit::Insert(place, piece)),
        2 => (place(), 1_usize..40).prop_map(|(place, length)| Edit::Remove(place, length)),
        1 => (place(), 1_usize..60, 1_usize..50)
            .prop_map(|(place, length, times)| Edit::Repeat(place, length, times)),
        1 => (place(), place()).prop_map(|(other, place)| Edit::Splice(other, place)),
        2 => (place(), any::<u8>()).prop_map(|(place, byte)| Edit::Byte(place, byte)),
    ]
}

fn apply(text: &mut Vec<u8>, edit: &Edit) {
    let place = |index: &Index, text: &[u8]| index.index(text.len() + 1);
    match edit {
        Edit::Insert(at, piece) => {
            let at = place(at, text);
            text.splice(at..at, piece.bytes());
        }
        Edit::Remove(at, length) => {
            let at = place(at, text);
            let end = (at + length).min(text.len());
            text.drain(at..end);
        }
        Edit::Repeat(at, length, times) => {
            let at = place(at, text);
            let end = (at + length).min(text.len());
            let part = text[at..end].repeat(*times);
            text.splice(end..end, part);
        }
        Edit::Splice(other, at) => {
            let other = CORPUS[other.index(CORPUS.len())].text().into_bytes();
            let from = at.index(other.len() + 1);
            let at = place(at, text);
            text.splice(at.., other[from..].iter().copied());
        }
        Edit::Byte(at, byte) => {
            let at = place(at, text);
            if let Some(found) = text.get_mut(at) {
                *found = *byte;
            }
        }
    }
    text.truncate(MAX_TEXT);
}

/// One change of an object: the value at a place becomes another, or goes.
#[derive(Clone, Debug)]
enum Change {
    Put(Index, Value),
    Remove(Index),
    Copy(Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<Index>;
    let values = vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(""),
        json!("a"),
        json!("a.b"),
        json!("30s"),
        json!("9999999999h"),
        json!("1Gi"),
        json!("1e3"),
        json!("yes"),
        json!("0644"),
        json!("1_000"),
        json!("~"),
        json!("\u{0}"),
        json!("a\nb"),
        json!([]),
        json!({}),
        json!([null]),
        json!(["a", "a"]),
        json!({ "a": null }),
        json!([{ "name": "a" }, { "name": "a" }]),
        json!("Grpc"),
        json!("Transactional"),
        json!("InOrder"),
        json!("DeadLetter"),
        json!(9090),
        json!(10_001),
    ];
    prop_oneof![
        4 => (place(), select(values)).prop_map(|(place, value)| Change::Put(place, value)),
        2 => place().prop_map(Change::Remove),
        2 => (place(), place()).prop_map(|(from, to)| Change::Copy(from, to)),
    ]
}

/// The JSON pointers of everything in an object but itself.
fn places(value: &Value) -> Vec<String> {
    fn walk(value: &Value, path: &str, places: &mut Vec<String>) {
        let mut visit = |name: String, child: &Value| {
            let escaped = name.replace('~', "~0").replace('/', "~1");
            let path = format!("{path}/{escaped}");
            walk(child, &path, places);
            places.push(path);
        };
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate().take(5) {
                    visit(index.to_string(), item);
                }
            }
            Value::Object(fields) => {
                for (name, field) in fields.iter().take(40) {
                    visit(name.clone(), field);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(value, "", &mut found);
    found
}

fn alter(object: &mut Value, change: &Change) {
    let places = places(object);
    if places.is_empty() {
        return;
    }
    let pick = |index: &Index| places[index.index(places.len())].clone();
    match change {
        Change::Put(at, value) => {
            if let Some(found) = object.pointer_mut(&pick(at)) {
                *found = value.clone();
            }
        }
        Change::Copy(from, to) => {
            let value = object.pointer(&pick(from)).cloned().unwrap_or_default();
            if let Some(found) = object.pointer_mut(&pick(to)) {
                *found = value;
            }
        }
        Change::Remove(at) => {
            let path = pick(at);
            let (parent, name) = path.rsplit_once('/').unwrap_or_default();
            if let Some(fields) = object.pointer_mut(parent).and_then(Value::as_object_mut) {
                fields.remove(name);
            }
        }
    }
}

/// What the operator builds for an accepted consumer is what Kubernetes has types for, and
/// the runtime reads the same consumer from it.
fn assert_builds(consumer: &Consumer) {
    let name = consumer.resource.metadata.name.clone().unwrap_or_default();
    let objects = build::objects(&Blueprint {
        key: &Key::new(NAMESPACE, &name),
        uid: UID,
        resource: &consumer.resource,
        consumer: &consumer.validated,
        secrets: "s",
        runtime: &RuntimeImage {
            image: "images.example.com/penstock-runtime:0.1.0".into(),
            pull_policy: "IfNotPresent".into(),
            pull_secrets: Vec::new(),
        },
        running: None,
        protocols: None,
    });
    let names: BTreeSet<_> = objects
        .iter()
        .map(|it| (it.kind.name(), &it.name))
        .collect();
    assert_eq!(names.len(), objects.len());
    let deployment = body(&objects, Kind::Deployment).clone();
    let deployment: Deployment = serde_json::from_value(deployment).expect("a Deployment");
    assert!(deployment.spec.is_some());
    let config = &body(&objects, Kind::ConfigMap)["data"]["consumer.yaml"];
    let text = config.as_str().expect("the file is text");
    let (_, read) = manifest::read_one(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let validated = &consumer.validated;
    assert_eq!(read.group, validated.group);
    assert_eq!(read.topics, validated.topics);
    assert_eq!(read.kafka, validated.kafka);
    assert_eq!(read.endpoint, validated.endpoint);
    assert_eq!(read.delivery, validated.delivery);
    assert_eq!(
        read.prometheus_client_name,
        validated.prometheus_client_name
    );
}

/// Decides about a text, as `penstock check` does, and asks the operator about what it
/// accepts.
fn decide(text: &str) -> Vec<Document> {
    let begin = clock_gettime(ClockId::ThreadCPUTime);
    let documents = manifest::read(text);
    for document in &documents {
        match &document.content {
            Content::Consumer(consumer) => {
                let object = serde_json::to_value(&consumer.resource).expect("JSON");
                let read = manifest::read_object(object).expect("the operator accepts it too");
                assert_eq!(read.validated, consumer.validated);
                assert_builds(consumer);
            }
            Content::Refused(refusal) => {
                assert!(!refusal.problem.to_string().is_empty());
                if let Problem::Violations(violations) = &refusal.problem {
                    assert!(!violations.0.is_empty());
                }
            }
            Content::Other(_) => {}
        }
    }
    let spent = clock_gettime(ClockId::ThreadCPUTime) - begin;
    let spent = Duration::try_from(spent).expect("time goes forward");
    assert!(spent < LIMIT, "{spent:?} for {text:?}");
    documents
}

#[test]
fn every_row_of_the_tables_comes_to_a_decision() {
    assert!(CORPUS.len() >= 500);
    for manifest in CORPUS.iter() {
        decide(&manifest.text());
    }
}

#[test]
fn deep_and_wide_texts_come_to_a_decision() {
    let deep = |open: &str| open.repeat(MAX_TEXT / open.len());
    for text in [
        deep("["),
        deep("{"),
        deep("[{"),
        deep("- "),
        deep("a: {"),
        deep("{a: "),
        deep("? "),
        deep("&a "),
        deep("!!int "),
        deep("*a "),
        deep("--- "),
        deep("---\n"),
        deep("\n "),
        deep("{\"a\":"),
        deep("a:\n "),
        deep("\"a\" "),
        deep("'"),
        deep("|\n"),
        deep("%a\n"),
        (0..2000)
            .map(|n| format!("{}a:\n", " ".repeat(n % 300)))
            .collect(),
        (0..200).map(|n| format!("{}a:\n", " ".repeat(n))).collect(),
        (0..5000)
            .map(|n| format!("a{n}: &a{n} [*a{n}]\n"))
            .collect(),
        format!(
            "a: &a [{}]\n{}",
            "x, ".repeat(1000),
            "b: [*a, *a, *a]\n".repeat(1000)
        ),
    ] {
        decide(&text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_come_to_a_decision(
        row in any::<Index>(), edits in prop::collection::vec(edit(), 1..6),
    ) {
        let mut text = CORPUS[row.index(CORPUS.len())].text().into_bytes();
        for edit in &edits {
            apply(&mut text, edit);
        }
        decide(&String::from_utf8_lossy(&text));
    }

    #[test]
    fn check_refuses_exactly_what_the_operator_refuses(
        row in any::<Index>(), changes in prop::collection::vec(change(), 1..4),
    ) {
        let objects: Vec<&Value> = CORPUS.iter().filter_map(|it| match it {
            Manifest::Object(object) => Some(object),
            Manifest::Text(_) => None,
        }).collect();
        let mut object = objects[row.index(objects.len())].clone();
        for change in &changes {
            alter(&mut object, change);
        }
        let documents = decide(&object.to_string());
        let by_operator = manifest::read_object(object.clone());
        match documents.as_slice() {
            [Document { content: Content::Consumer(_), .. }] => {
                prop_assert!(by_operator.is_ok(), "{object}: {by_operator:?}");
            }
            [Document { content: Content::Refused(_), .. }] => {
                // kubectl writes 2.0 as 2, and the API server refuses 2.0.
                prop_assert!(by_operator.is_err(), "{object}");
            }
            // Of another kind, or empty: it never gets to the operator.
            _ => {}
        }
    }
}
