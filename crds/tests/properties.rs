//! Properties that hold for any input.

mod common;

use common::{base, crd_schema, violations};
use kube::core::cel::{CompiledSchema, Validator, apply_defaults, compile_schema};
use penstock_crds::manifest::read;
use penstock_crds::names::{ConsumerName, GroupId, TopicName};
use penstock_crds::spec::HumanDuration;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Text near the edges of the rules: dots, signs, line ends, letters.
fn tricky() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9._ \\-\n/:,\\[\\]ä]{0,12}"
}

fn refused_by_crd(object: &Value) -> bool {
    thread_local! {
        static SCHEMA: Value = crd_schema();
        static COMPILED: CompiledSchema = compile_schema(&crd_schema());
    }
    let object = SCHEMA.with(|schema| apply_defaults(schema, object));
    COMPILED.with(|schema| {
        Validator::new()
            .validate_compiled(schema, &object, None)
            .is_err()
    })
}

proptest! {
    #[test]
    fn a_group_is_its_service_a_dot_and_its_name(service in "[^.]{1,20}", name in "(?s).{1,20}") {
        let id = format!("{service}.{name}");
        let group = GroupId::parse(&id).unwrap();
        prop_assert_eq!(group.service(), service);
        prop_assert_eq!(group.group_name(), name.as_str());
        prop_assert_eq!(group.as_str(), id);
    }

    #[test]
    fn a_group_without_both_parts_is_refused(part in "[^.]{0,20}", rest in "(?s).{0,20}") {
        prop_assert!(GroupId::parse(&part).is_err());
        let (nameless, headless) = (format!("{part}."), format!(".{rest}"));
        prop_assert!(GroupId::parse(&nameless).is_err());
        prop_assert!(GroupId::parse(&headless).is_err());
    }

    #[test]
    fn only_the_derived_name_is_taken(id in "[a-z]{1,8}[.][a-z.]{1,8}", name in "[a-z_.]{0,24}") {
        let group = GroupId::parse(&id).unwrap();
        let derived = ConsumerName::derive(&group);
        let taken = ConsumerName::parse(derived.as_str(), &group);
        prop_assert_eq!(taken, Ok(derived.clone()));
        prop_assert_eq!(ConsumerName::parse(&name, &group).is_ok(), name == derived.as_str());
    }

    #[test]
    fn topic_names_of_the_right_characters_and_length_are_taken(name in "[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,248}") {
        let topic = TopicName::parse(&name).unwrap();
        prop_assert_eq!(topic.as_str(), name);
    }

    #[test]
    fn topic_names_with_another_character_are_refused(before in "[a-z]{0,5}", other in "[^a-zA-Z0-9._-]", after in "[a-z]{0,5}") {
        let name = format!("{before}{other}{after}");
        prop_assert!(TopicName::parse(&name).is_err());
    }

    #[test]
    fn reading_never_panics(text in "(?s).{0,200}") {
        read(&text);
    }

    #[test]
    fn a_duration_survives_printing(millis in 0_u64..1_000_000_000_000) {
        let duration = HumanDuration::from_millis(millis);
        prop_assert_eq!(duration.to_string().parse(), Ok(duration));
    }

    #[test]
    fn rust_and_the_crd_agree_on_any_text(
        group in tricky(), topic in tricky(), name in tricky(), servers in tricky(), image in tricky(),
        path in tricky(), socket in tricky(), dead in tricky(), secret in tricky(), key in tricky(),
    ) {
        let fields = [
            ("/spec/group", json!(group)),
            ("/spec/topics", json!([topic, "orders"])),
            ("/spec/name", json!(name)),
            ("/spec/kafka/bootstrapServers", json!(servers)),
            ("/spec/handler/image", json!(image)),
            ("/spec/handler/path", json!(path)),
            ("/spec/handler/socket", json!(format!("/run{socket}"))),
            ("/spec/delivery", json!({ "onFailure": "DeadLetter", "deadLetterTopic": dead })),
            ("/spec/kafka/tls", json!({ "trustedCertificates": [{ "secretName": secret, "certificate": key }] })),
        ];
        for (pointer, value) in fields {
            let mut object = base();
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            object.pointer_mut(parent).unwrap()[field] = value;
            let violations = violations(&object);
            prop_assert_eq!(!violations.is_empty(), refused_by_crd(&object), "{}: {:?}", object, violations);
        }
    }

    #[test]
    fn rust_and_the_crd_agree_on_any_number(
        concurrency in -5_i64..10_010, replicas in -5_i64..1_010, port in -5_i64..65_600,
        batch in -5_i64..10_010, attempts in -5_i64..1_010, in_order: bool,
    ) {
        let mut object = base();
        object["spec"]["mode"] = json!(if in_order { "InOrder" } else { "Fast" });
        object["spec"]["maxConcurrency"] = json!(concurrency);
        object["spec"]["replicas"] = json!(replicas);
        object["spec"]["consumeBatchSize"] = json!(batch);
        object["spec"]["handler"]["port"] = json!(port);
        object["spec"]["delivery"] = json!({ "maxAttempts": attempts });
        prop_assert_eq!(!violations(&object).is_empty(), refused_by_crd(&object));
    }
}
