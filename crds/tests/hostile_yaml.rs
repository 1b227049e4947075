//! The reader of YAML against texts that people write by mistake, and against texts that are
//! meant to exhaust it. The tables in tests/agreement send most of these to kubectl too.

use std::time::Duration;

use penstock_crds::manifest::{Content, Document, Problem, read, read_one, write};
use penstock_crds::spec::KafkaConsumer;
use rustix::time::{ClockId, Timespec, clock_gettime};
use serde_json::{Value, json};

/// The maximum CPU time for a text in an unoptimised build. It takes one to two seconds, and
/// minutes where the work grows with the square of the text.
const LIMIT: Duration = Duration::from_secs(15);

/// The CPU time of this thread: other work on the machine does not count.
struct Spent(Timespec);

impl Spent {
    fn begin() -> Self {
        Self(clock_gettime(ClockId::ThreadCPUTime))
    }

    fn assert_within_limit(&self) {
        let spent = clock_gettime(ClockId::ThreadCPUTime) - self.0;
        let spent = Duration::try_from(spent).expect("time goes forward");
        assert!(spent < LIMIT, "{spent:?}");
    }
}

/// The begin of a consumer; lines of its spec can follow.
const CONSUMER: &str = "\
apiVersion: penstock.dev/v1alpha1
kind: KafkaConsumer
metadata: { name: orders }
spec:
  group: billing.orders
  topics: [orders]
  mode: Fast
  kafka: { bootstrapServers: kafka:9092 }
  handler: { image: 'registry.example/billing:1.4' }
";

fn with(line: &str) -> String {
    format!("{CONSUMER}  {line}\n")
}

fn accepted(text: &str) -> KafkaConsumer {
    match read_one(text) {
        Ok((resource, _)) => resource,
        Err(error) => panic!("{error}\n{text}"),
    }
}

/// The refusal of the only document.
fn refused(text: &str) -> String {
    match read(text).as_slice() {
        [
            Document {
                content: Content::Refused(refusal),
                ..
            },
        ] => refusal.problem.to_string(),
        other => panic!("{other:#?}\n{text}"),
    }
}

/// The refusal of a text that must not take long.
fn refused_soon(text: &str) -> String {
    let begin = Spent::begin();
    let refusal = refused(text);
    begin.assert_within_limit();
    refusal
}

/// The value of a label as YAML reads it, without quotes.
fn label(text: &str) -> Result<String, String> {
    let text = with(&format!("pod: {{ labels: {{ a: {text} }} }}"));
    match read_one(&text) {
        Ok((resource, _)) => {
            let pod = resource.spec.pod.expect("it has a pod");
            Ok(pod.labels.get("a").cloned().unwrap_or_default())
        }
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn an_alias_is_the_value_of_its_anchor() {
    let text = with("pod: { labels: { a: &it one, b: *it }, annotations: { c: *it } }");
    let pod = accepted(&text).spec.pod.expect("it has a pod");
    assert_eq!(pod.labels["b"], "one");
    assert_eq!(pod.annotations["c"], "one");
}

#[test]
fn the_nearest_anchor_above_counts() {
    let text = with("pod: { labels: { a: &it one, b: &it two, c: *it } }");
    let pod = accepted(&text).spec.pod.expect("it has a pod");
    assert_eq!(pod.labels["c"], "two");
}

#[test]
fn an_anchor_ends_with_its_document() {
    let text = format!(
        "{}---\n{}",
        with("replicas: &n 2"),
        with("replicas: *n").replace("name: orders", "name: returns")
    );
    let documents = read(&text);
    assert!(matches!(documents[0].content, Content::Consumer(_)));
    let Content::Refused(refusal) = &documents[1].content else {
        panic!("{documents:#?}");
    };
    let Problem::Syntax { line, message, .. } = &refusal.problem else {
        panic!("{refusal:?}");
    };
    assert_eq!((*line, message.as_str()), (21, "unknown anchor"));
}

#[test]
fn a_merge_is_below_a_field_that_follows_and_above_one_that_precedes() {
    for (delivery, attempts) in [
        ("{ <<: { maxAttempts: 5 }, onFailure: Skip }", 5),
        ("{ <<: { maxAttempts: 5 }, maxAttempts: 3 }", 3),
        ("{ maxAttempts: 3, <<: { maxAttempts: 5 } }", 5),
        ("{ <<: [{ maxAttempts: 5 }, { maxAttempts: 7 }] }", 5),
        ("{ <<: { <<: { maxAttempts: 9 } } }", 9),
    ] {
        let text = with(&format!("delivery: {delivery}"));
        let delivery = serde_json::to_value(accepted(&text).spec.delivery).unwrap();
        assert_eq!(delivery["maxAttempts"], attempts, "{text}");
    }
    for wrong in ["5", "[5]", "text", "[[{ maxAttempts: 5 }]]"] {
        let refusal = refused(&with(&format!("delivery: {{ <<: {wrong} }}")));
        assert!(refusal.contains("'<<' merges a mapping"), "{refusal}");
    }
}

#[test]
fn numbers_without_quotes_have_the_bases_of_yaml_1_1() {
    for (text, replicas) in [
        ("010", 8),
        ("0o10", 8),
        ("0x10", 16),
        ("0b10", 2),
        ("1_0", 10),
        ("+3", 3),
        ("08", 8),
        ("1e1", 10),
        ("2.0", 2),
    ] {
        let replicas_read = accepted(&with(&format!("replicas: {text}"))).spec.replicas;
        assert_eq!(replicas_read, replicas, "{text}");
    }
}

#[test]
fn words_and_numbers_without_quotes_are_no_text() {
    for text in [
        "yes", "Yes", "YES", "no", "on", "On", "off", "OFF", "y", "N", "true", "False", "1", "010",
        "1_000", "0x1F", "1e3", "1.5",
    ] {
        let refusal = label(text).expect_err(text);
        assert!(
            refusal.contains("must be text; put it in quotes"),
            "{text}: {refusal}"
        );
        let text = text.to_owned();
        assert_eq!(label(&format!("'{text}'")), Ok(text.clone()));
        assert_eq!(label(&format!("!!str {text}")), Ok(text));
    }
    for text in ["yEs", "oN", "2024-01-02", "1.2.3", "0x", "1e"] {
        assert_eq!(label(text), Ok(text.to_owned()));
    }
}

#[test]
fn timestamps_are_text() {
    let text =
        with("pod: { annotations: { a: 2024-01-02T03:04:05Z, b: 2024-01-02, c: 12:30:45 } }");
    let pod = accepted(&text).spec.pod.expect("it has a pod");
    let values: Vec<&str> = pod.annotations.values().map(String::as_str).collect();
    assert_eq!(values, ["2024-01-02T03:04:05Z", "2024-01-02", "12:30:45"]);
}

#[test]
fn every_spelling_of_null_is_an_absent_field() {
    for null in ["~", "null", "Null", "NULL", "", "!!null ''"] {
        let spec = accepted(&with(&format!("replicas: {null}"))).spec;
        assert_eq!(spec.replicas, accepted(CONSUMER).spec.replicas, "{null}");
    }
    assert_eq!(
        label("'~'").map_err(|it| it.contains("spec.pod.labels")),
        Err(true)
    );
}

#[test]
fn duplicate_keys_are_refused_wherever_they_stand() {
    for (line, key) in [
        ("replicas: 1\n  replicas: 1", "replicas"),
        ("pod: { labels: { a: b, a: b } }", "a"),
        ("pod: { labels: { a: b, 'a': c } }", "a"),
        ("pod: { labels: { true: b, yes: c } }", "true"),
        ("handler: { image: i }", "handler"),
    ] {
        let refusal = refused(&with(line));
        assert!(
            refusal.ends_with(&format!("duplicate entry with key {key:?}")),
            "{refusal}"
        );
    }
    let json = r#"{ "kind": "KafkaConsumer", "kind": "KafkaConsumer" }"#;
    assert!(refused(json).ends_with(r#"duplicate entry with key "kind""#));
}

#[test]
fn a_tab_is_no_indentation_but_a_space_elsewhere() {
    let refusal = refused(&CONSUMER.replace("  mode: Fast", "\tmode: Fast"));
    assert!(refusal.starts_with("line 7, column 1: "), "{refusal}");
    assert_eq!(accepted(&with("replicas:\t2\t# two")).spec.replicas, 2);
    assert_eq!(accepted(&with("replicas: 2\t")).spec.replicas, 2);
}

#[test]
fn line_ends_and_a_byte_order_mark_change_nothing() {
    let expected = accepted(&with("replicas: 2"));
    let text = with("replicas: 2");
    for other in [
        text.replace('\n', "\r\n"),
        text.replace('\n', "\r"),
        format!("\u{feff}{text}"),
        format!("\u{feff}{}", text.replace('\n', "\r\n")),
        format!("\u{feff}---\r\n{}", text.replace('\n', "\r\n")),
        text.trim_end().to_owned(),
    ] {
        assert_eq!(accepted(&other), expected, "{other:?}");
    }
}

#[test]
fn documents_are_split_by_markers_with_any_line_end() {
    let returns = CONSUMER.replace("name: orders", "name: returns");
    for text in [
        format!("---\n{CONSUMER}---\n{returns}"),
        format!("--- # first\n{CONSUMER}...\n---\n{returns}...\n"),
        format!("{CONSUMER}---\n---\n# none\n---\n{returns}---\n"),
        format!("---\n{CONSUMER}---\n{returns}").replace('\n', "\r\n"),
    ] {
        let documents = read(&text);
        let is_consumer = |it: &Document| matches!(it.content, Content::Consumer(_));
        assert_eq!(documents.len(), 2, "{documents:#?}");
        assert!(documents.iter().all(is_consumer), "{documents:#?}");
    }
}

#[test]
fn text_that_kubectl_would_drop_is_refused() {
    let refusal = refused(&format!("{CONSUMER}...\n{CONSUMER}"));
    assert_eq!(
        refusal,
        "line 10, column 1: kubectl ignores all that follows '...'; begin the next document with '---'"
    );
}

#[test]
fn a_file_of_a_megabyte_is_read() {
    let value = "x".repeat(1000);
    let annotations: String = (0..100)
        .map(|number| format!("      a{number}: {value}\n"))
        .collect();
    let one = format!("{CONSUMER}  pod:\n    annotations:\n{annotations}");
    let text: String = (0..10)
        .map(|number| one.replace("name: orders", &format!("name: orders{number}")) + "---\n")
        .collect();
    assert!(text.len() > 1_000_000);
    let begin = Spent::begin();
    let documents = read(&text);
    begin.assert_within_limit();
    assert_eq!(documents.len(), 10);
    for document in documents {
        let Content::Consumer(consumer) = document.content else {
            panic!("{:?}", document.content);
        };
        let pod = consumer.resource.spec.pod.expect("it has a pod");
        assert_eq!(pod.annotations.len(), 100);
    }
}

#[test]
fn a_megabyte_in_one_value_or_of_comments_is_decided_soon() {
    let refusal = refused_soon(&with(&format!(
        "prometheusClientName: {}",
        "x".repeat(1 << 20)
    )));
    assert_eq!(
        refusal,
        "spec.prometheusClientName: has 1048576 characters; at most 249 are allowed"
    );
    let refusal = refused_soon(&with(&format!("topics2: [{}]", "a, ".repeat(350_000))));
    assert!(refusal.contains("spec.topics2: unknown field"), "{refusal}");
    let begin = Spent::begin();
    accepted(&format!("{}{CONSUMER}", "# a comment\n".repeat(90_000)));
    begin.assert_within_limit();
}

/// A block that is commented out.
#[test]
fn comments_may_stand_anywhere() {
    let comments = |indent: &str| format!("{indent}# more: 1\n").repeat(200);
    let mut text = String::new();
    for line in CONSUMER.lines() {
        text += &format!("{line}\n{}", comments("  "));
    }
    accepted(&format!(
        "{text}  pod:\n{}    imagePullSecrets:\n{}      -\n{}        name: a\n",
        comments("  "),
        comments("    "),
        comments("      "),
    ));
}

#[test]
fn many_items_names_and_documents_are_decided_soon() {
    let variables: String = (0..20_000).map(|n| format!("{{name: a{n}}}, ")).collect();
    let refusal = refused_soon(&with(&format!("pod: {{ env: [{variables}] }}")));
    assert_eq!(
        refusal,
        "spec.pod.env: has 20000 items; at most 1000 are allowed"
    );
    let secrets: String = (0..20_000).map(|n| format!("{{name: a{n}}}, ")).collect();
    let begin = Spent::begin();
    accepted(&with(&format!("pod: {{ imagePullSecrets: [{secrets}] }}")));
    begin.assert_within_limit();
    let labels: String = (0..20_000).map(|n| format!("a {n}: x, ")).collect();
    let text = CONSUMER.replace(
        "name: orders",
        &format!("name: orders, labels: {{ {labels} }}"),
    );
    assert!(refused_soon(&text).contains("a name that Kubernetes does not take"));
    let ones = "1,".repeat(20_000);
    let refusal = refused_soon(&with(&format!("pod: {{ imagePullSecrets: [{ones}] }}")));
    assert!(refusal.contains("spec.pod.imagePullSecrets[19999]: must be an object"));
    let name = "x".repeat(1 << 20);
    let refusal = refused_soon(&format!(r#"{{ "kind": "KafkaConsumer", "{name}": 1 }}"#));
    assert!(refusal.contains("unknown field"), "{refusal}");
    let begin = Spent::begin();
    assert_eq!(read(&"{\"a\":1}\n".repeat(30_000)).len(), 30_000);
    begin.assert_within_limit();
}

#[test]
fn deep_nesting_is_refused_and_does_not_end_the_process() {
    const TIMES: usize = 50_000;
    for (open, close) in [("[", "]"), ("{ a: ", "}"), ("[{ a: ", "}]"), ("{? ", "}")] {
        for close in ["", close] {
            let text = with(&format!(
                "pod: {}{}",
                open.repeat(TIMES),
                close.repeat(TIMES)
            ));
            refused_soon(&text);
        }
    }
    let blocks: String = (0..1000)
        .map(|depth| format!("{}a:\n", " ".repeat(depth)))
        .collect();
    refused_soon(&blocks);
    refused_soon(&"- ".repeat(TIMES));
    refused_soon(&format!("{CONSUMER}...\n{}", "[".repeat(TIMES)));
    let json = |open: &str, close: &str| {
        let deep = format!("{}{}", open.repeat(TIMES), close.repeat(TIMES));
        format!(r#"{{ "kind": "KafkaConsumer", "spec": {deep} }}"#)
    };
    refused_soon(&json("[", "]"));
    refused_soon(&json(r#"{"a":"#, "}"));
}

#[test]
fn the_deepest_nesting_that_is_read_has_a_hundred_levels() {
    let text = |depth: usize| with(&format!("pod: {}{}", "[".repeat(depth), "]".repeat(depth)));
    // The document, its spec and the list are three.
    let refusal = refused(&text(99));
    assert_eq!(
        refusal,
        "spec.pod: must be an object, with its fields, not a list"
    );
    let refusal = refused(&text(100));
    assert!(
        refusal.ends_with("is nested deeper than 100 levels"),
        "{refusal}"
    );
}

/// Lines in which each is a list of ten aliases to the line above.
fn laughs(first: &str) -> String {
    let mut text = format!("  a0: &a0 {first}\n");
    for number in 1..20 {
        let aliases = vec![format!("*a{}", number - 1); 10].join(", ");
        text += &format!("  a{number}: &a{number} [{aliases}]\n");
    }
    format!("{CONSUMER}{text}")
}

#[test]
fn aliases_of_aliases_are_bounded_in_number_and_in_bytes() {
    let long = "x".repeat(100_000);
    for text in [
        laughs("lol"),
        laughs(&format!("[{long}]")),
        // One level, with a long text.
        with(&format!("a: &a {long}\n  b: [{}]", "*a, ".repeat(100_000))),
        // As keys, in merges, and as anchors in anchors.
        with(&format!(
            "a: &a {{ k: {long} }}\n  b: [{}]",
            "{ <<: *a }, ".repeat(10_000)
        )),
        with(&format!("a: {}{long}{}", "&a [".repeat(90), "]".repeat(90))),
    ] {
        let refusal = refused_soon(&text);
        assert!(refusal.contains("too many aliases"), "{refusal}");
    }
}

#[test]
fn an_alias_to_a_value_that_contains_it_is_refused() {
    for text in ["a: &a [*a]", "a: &a { b: *a }", "a: &a { <<: *a }"] {
        let refusal = refused(&with(text));
        assert!(
            refusal.ends_with("an anchor's value contains itself"),
            "{refusal}"
        );
    }
}

#[test]
fn a_manifest_is_written_as_yaml_unless_a_text_needs_quotes() {
    let is_yaml = |value: Value| write(&json!({ "a": value })).starts_with("a: ");
    for value in [
        json!("one"),
        json!("5"),
        json!("true"),
        json!(2.0),
        json!(0.5),
        json!(null),
    ] {
        assert!(is_yaml(value.clone()), "{value}");
    }
    for value in [json!("yes"), json!("1_000"), json!("\u{2028}")] {
        assert!(!is_yaml(value.clone()), "{value}");
    }
}

#[test]
fn a_manifest_that_is_written_is_read_with_the_same_values() {
    for text in [
        "yes",
        "No",
        "on",
        "y",
        "~",
        "null",
        "0123",
        "0o17",
        "1_000",
        "1e3",
        ".5",
        "0x1F",
        "1:30",
        "2024-01-02",
        "",
        " a ",
        "a: b",
        "# a",
        "- a",
        "<<",
        "&a",
        "*a",
        "!a",
        "%a",
        "@a",
        "'",
        "\"",
        "a\nb\n",
        "a\r\nb",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "\u{1d11e}",
        "\t",
        "{",
        "---",
        "...",
        "a\n---\nb",
    ] {
        let mut object = json!({ "apiVersion": "penstock.dev/v1alpha1", "kind": "KafkaConsumer" });
        object["metadata"] = json!({ "name": "orders", "annotations": { "a": text } });
        object["spec"] = json!({
            "group": "billing.orders",
            "topics": ["orders"],
            "mode": "Fast",
            "kafka": { "bootstrapServers": "kafka:9092" },
            "handler": { "image": "i", "env": [{ "name": "A", "value": text }] },
        });
        let written = write(&object);
        let read: Value = serde_json::to_value(accepted(&written)).unwrap();
        assert_eq!(read["metadata"]["annotations"]["a"], text, "{written}");
        assert_eq!(
            read["spec"]["handler"]["env"][0]["value"], text,
            "{written}"
        );
    }
}
