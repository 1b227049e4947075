//! The tables of good and bad manifests: Rust and the CRD must agree on each.

mod common;

use common::{By, crd_schema, table, violations, with_spec};
use kube::core::cel::{ErrorKind, ValidationError, Validator, compile_schema};
use penstock_crds::rules::{self, Cel};
use penstock_crds::violation::Violation;
use serde_json::{Value, json};

const BAD: &str = include_str!("bad_manifests.yaml");
const GOOD: &str = include_str!("good_manifests.yaml");

/// What the CRD's rules have against an object, as the API server would apply
/// them: after the defaults.
fn cel_errors(schema: &Value, object: &Value) -> Vec<ValidationError> {
    match Validator::new().validate_with_defaults(schema, object, None) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.into_vec(),
    }
}

/// The API server shows the field path `.config['a.b']` as `config[a.b]`.
fn path_of(error: &ValidationError) -> String {
    let path = error.field_path.replace("['", "[").replace("']", "]");
    // Rules about the whole object name their field in the message.
    if path.is_empty() {
        "metadata.name".into()
    } else {
        path
    }
}

/// Whether the CRD and Rust speak of the same fault. A CRD's rule about a list
/// can't name the item, nor can its message hold a number.
fn same(error: &ValidationError, violation: &Violation) -> bool {
    let path = path_of(error);
    let same_path = violation.path == path || violation.path.starts_with(&format!("{path}["));
    let message = error.message.trim_start_matches("metadata.name ");
    same_path && (message == violation.message || message == violation.explain())
}

#[test]
fn every_bad_manifest_is_refused_with_the_expected_violations() {
    for case in table(BAD) {
        let mut found: Vec<String> = violations(&case.object())
            .iter()
            .map(ToString::to_string)
            .collect();
        let mut expected = case.expect.clone();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{}", case.name);
        assert!(!expected.is_empty(), "{}", case.name);
    }
}

#[test]
fn the_crds_rules_refuse_what_rust_refuses_with_the_same_paths_and_messages() {
    let schema = crd_schema();
    for case in table(BAD) {
        let errors = cel_errors(&schema, &case.object());
        let violations = violations(&case.object());
        match case.by {
            Some(By::Rule) => {
                for error in &errors {
                    assert_eq!(
                        error.kind,
                        ErrorKind::ValidationFailure,
                        "{}: {error}",
                        case.name
                    );
                    assert!(
                        violations.iter().any(|violation| same(error, violation)),
                        "{}: only the CRD says: {error}",
                        case.name
                    );
                }
                for violation in &violations {
                    assert!(
                        errors.iter().any(|error| same(error, violation)),
                        "{}: only Rust says: {violation}\nthe CRD: {errors:#?}",
                        case.name
                    );
                }
            }
            // The API server runs no rules on these.
            Some(By::Schema | By::Api) => {}
            Some(By::Rust) => assert!(errors.is_empty(), "{}: {errors:#?}", case.name),
            None => panic!("{}: says not who refuses it", case.name),
        }
    }
}

#[test]
fn every_good_manifest_is_accepted_by_rust_and_by_the_crds_rules() {
    let schema = crd_schema();
    for case in table(GOOD) {
        assert_eq!(violations(&case.object()), [], "{}", case.name);
        let errors = cel_errors(&schema, &case.object());
        assert!(errors.is_empty(), "{}: {errors:#?}", case.name);
    }
}

#[test]
fn the_tables_are_large_and_no_case_comes_twice() {
    for (text, least) in [(BAD, 70), (GOOD, 15)] {
        let mut names: Vec<String> = table(text).into_iter().map(|case| case.name).collect();
        assert!(names.len() >= least);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), table(text).len());
    }
}

#[test]
fn every_rule_is_broken_by_a_bad_manifest() {
    let broken: Vec<Violation> = table(BAD)
        .iter()
        .flat_map(|case| violations(&case.object()))
        .collect();
    // One rule each for many properties, all made by the same function.
    let alike = |id: &str| {
        let tested = broken.iter().any(|violation| {
            violation.path == format!("spec.kafka.config[{}]", id.trim_start_matches("config-"))
        });
        id.starts_with("config-") && !tested
    };
    let untested: Vec<&str> = rules::all()
        .iter()
        .filter(|rule| !alike(&rule.id))
        .filter(|rule| {
            !broken.iter().any(|violation| {
                violation.message == rule.message
                    || matches!(
                        rule.id.as_str(),
                        "name" | "config-property" | "config-value"
                    )
            })
        })
        .map(|rule| rule.id.as_str())
        .collect();
    assert_eq!(untested, Vec::<&str>::new());
}

#[test]
fn every_rule_in_the_crd_compiles() {
    fn validations(schema: &Value) -> Vec<&Value> {
        match schema {
            Value::Object(node) => {
                let own = node.get("x-kubernetes-validations").map(|_| schema);
                own.into_iter()
                    .chain(node.values().flat_map(validations))
                    .collect()
            }
            Value::Array(items) => items.iter().flat_map(validations).collect(),
            _ => Vec::new(),
        }
    }
    let schema = crd_schema();
    let nodes = validations(&schema);
    assert!(nodes.len() > 20);
    for node in nodes {
        let compiled = compile_schema(node);
        let errors: Vec<String> = compiled
            .compilation_errors()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(errors, Vec::<String>::new());
    }
}

#[test]
fn a_rule_that_the_crd_lacks_says_why() {
    let reasons: Vec<&str> = rules::all()
        .iter()
        .filter_map(|rule| match rule.cel {
            Cel::RustOnly(reason) => Some(reason),
            Cel::At { .. } => None,
        })
        .collect();
    assert_eq!(reasons.len(), 6);
    assert!(reasons.iter().all(|reason| reason.len() > 20));
}

/// Texts that may be numbers, for a property with a rule that compares it.
const NUMBERS: [&str; 20] = [
    "0", "00", "-0", "+0", "1", "5", "6", "05", "+5", "06", "+6", "-6", "0x6", " 6", "6 ", "6e3",
    "10200", "010200", "314999", "",
];

/// Rust and the CRD compare numbers alike. A text that is no plain number is for one rule
/// alone, that of the property's values, which CEL can't have.
#[test]
fn numbers_as_text_are_read_by_one_rule() {
    let schema = crd_schema();
    for (property, spec) in [
        ("max.poll.interval.ms", json!({ "stopTimeout": "45s" })),
        ("max.in.flight", json!({ "commit": "Transactional" })),
        (
            "max.in.flight.requests.per.connection",
            json!({ "commit": "Transactional" }),
        ),
        ("socket.timeout.ms", json!({ "commit": "Transactional" })),
        ("auto.commit.interval.ms", json!({ "commit": "Handled" })),
    ] {
        for number in NUMBERS {
            let mut object = with_spec(spec.clone());
            object["spec"]["kafka"]["config"] = json!({ property: number });
            let path = format!("spec.kafka.config[{property}]");
            let by_value = |violation: &&Violation| {
                violation.path == path && violation.message.starts_with("must be a whole number")
                    || violation
                        .message
                        .starts_with("max.poll.interval.ms must be at least")
            };
            let found = violations(&object);
            let (values, compared): (Vec<_>, Vec<_>) = found.iter().partition(by_value);
            let errors = cel_errors(&schema, &object);
            let context = format!("{property}={number:?}: {found:?} {errors:?}");
            assert_eq!(errors.len(), compared.len(), "{context}");
            for violation in compared {
                assert!(
                    errors.iter().any(|error| same(error, violation)),
                    "{context}"
                );
            }
            let is_plain = number
                .parse::<i64>()
                .is_ok_and(|it| it.to_string() == number);
            if !is_plain {
                assert!(errors.is_empty(), "{context}");
                assert!(!values.is_empty(), "{context}");
            }
        }
    }
}
