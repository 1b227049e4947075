//! From what was seen of a consumer to its status: a table of scenarios, and what
//! holds of all of them.

mod argo_cd;
mod messages;
mod ready;
mod scenarios;
mod world;

use std::collections::HashSet;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use penstock_crds::spec::{KafkaConsumerSpec, KafkaConsumerStatus};
use penstock_crds::validate::validate;
use penstock_operator::apply::ApplyError;
use penstock_operator::existing::deployment::Rollout;
use penstock_operator::kafka::Resolution;
use penstock_operator::key::Key;
use penstock_operator::status::ConditionType::{Accepted, Available, TopicsResolved};
use penstock_operator::status::{Reason, Refusal, find, forgets_at};

use scenarios::scenarios;
use world::{World, consumer, now, rollout, seconds_ago, trouble};

/// What the API server takes of a condition's message, in bytes.
const LONGEST_MESSAGE: usize = 32_768;

#[test]
fn each_scenario_is_told_as_it_ought_to_be() {
    for (scenario, world, told) in scenarios() {
        let status = world.status();
        for (type_, state, reason, parts) in told {
            let condition = find(&status.conditions, type_).unwrap();
            let given = (condition.status.as_str(), condition.reason.as_str());
            assert_eq!(
                given,
                (state.name(), reason.name()),
                "{scenario}: {condition:?}"
            );
            for part in parts {
                assert!(
                    condition.message.contains(part),
                    "{scenario}: {part}: {condition:?}"
                );
            }
        }
    }
}

#[test]
fn every_reason_is_given_in_some_scenario() {
    let given: HashSet<String> = scenarios()
        .into_iter()
        .flat_map(|(_, world, _)| world.status().conditions)
        .map(|condition| condition.reason)
        .collect();
    let missing: Vec<&str> = Reason::ALL
        .iter()
        .map(|reason| reason.name())
        .filter(|name| !given.contains(*name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn reasons_are_unique_words_in_camel_case_and_can_be_read_back() {
    let mut names = HashSet::new();
    for reason in Reason::ALL {
        let name = reason.name();
        assert!(names.insert(name), "{name} comes twice");
        assert_eq!(Reason::parse(name), Some(*reason));
        assert_eq!(format!("{reason:?}"), name);
        assert!(
            name.starts_with(|first: char| first.is_ascii_uppercase()),
            "{name}"
        );
        assert!(name.chars().all(|c| c.is_ascii_alphabetic()), "{name}");
    }
}

#[test]
fn every_status_has_each_condition_once_with_a_message_of_this_generation() {
    for (scenario, world, _) in scenarios() {
        let status = world.status();
        let types: Vec<&str> = status
            .conditions
            .iter()
            .map(|condition| condition.type_.as_str())
            .collect();
        assert_eq!(
            types,
            [
                "Accepted",
                "TopicsResolved",
                "Available",
                "Progressing",
                "MessagesLost",
                "Ready",
                "Reconciling",
                "Stalled"
            ]
            .into_iter()
            .filter(|type_| {
                let is_there = |name: &str| types.contains(&name);
                !["Reconciling", "Stalled"].contains(type_) || is_there(type_)
            })
            .collect::<Vec<_>>(),
            "{scenario}"
        );
        for condition in &status.conditions {
            assert!(!condition.message.is_empty(), "{scenario}: {condition:?}");
            assert_eq!(condition.observed_generation, Some(4), "{scenario}");
        }
    }
}

/// What says that something is wrong says what to do, or where that is said.
#[test]
fn a_condition_that_warns_says_what_to_do() {
    let remedies = [
        "correct", "create", "give ", "raise", "lower", "mend", "see ", "See ", "delete", "must",
        "maybe", "resume ",
    ];
    for (scenario, world, _) in scenarios() {
        for condition in world.status().conditions {
            if Reason::parse(&condition.reason).unwrap().is_warning() {
                let says = remedies
                    .iter()
                    .any(|remedy| condition.message.contains(remedy));
                assert!(says, "{scenario}: {condition:?}");
            }
        }
    }
}

#[test]
fn messages_have_an_end_and_stay_text() {
    let long = "ä".repeat(LONGEST_MESSAGE);
    let world = World {
        topics: Some(Resolution::Missing(vec![long.clone()])),
        troubles: vec![trouble(Reason::ImagePullFailed, &long, None)],
        blocked: Some(ApplyError::Foreign {
            kind: "Deployment",
            name: long.clone(),
        }),
        ..World::starting()
    };
    let worlds = [
        World {
            topics: Some(Resolution::Found),
            ..World::starting()
        },
        world,
    ];
    for condition in worlds.iter().flat_map(|world| world.status().conditions) {
        assert!(
            condition.message.len() <= LONGEST_MESSAGE,
            "{}",
            condition.message.len()
        );
    }
    // As many topics as a manifest may name, each as long as it may be.
    let topics: Vec<String> = (0..100).map(|n| format!("{n:0>249}")).collect();
    let status = World::resolved(Resolution::Missing(topics)).status();
    let condition = find(&status.conditions, TopicsResolved).unwrap();
    assert!(condition.message.len() <= LONGEST_MESSAGE);
}

#[test]
fn a_time_is_that_of_the_last_flip_whatever_else_changes() {
    let first = World::starting().status();
    let later = now() + jiff::SignedDuration::from_secs(60);
    let image = World::troubled(Reason::ImagePullFailed, "not found; correct the image");
    let second = image.status_after(&first, later);
    let condition = |status: &KafkaConsumerStatus, type_| -> Condition {
        find(&status.conditions, type_).unwrap().clone()
    };
    let (before, after) = (condition(&first, Available), condition(&second, Available));
    assert_ne!(before.reason, after.reason);
    assert_eq!(before.last_transition_time.0, now());
    assert_eq!(after.last_transition_time.0, now(), "still False");

    let third = World::running().status_after(&second, later);
    assert_eq!(condition(&third, Available).last_transition_time.0, later);
    assert_eq!(condition(&third, Accepted).last_transition_time.0, now());
}

#[test]
fn consumers_of_other_namespaces_are_never_named() {
    let message = |siblings: &[(&str, &str)]| {
        let siblings = siblings.iter();
        let world = World {
            siblings: siblings
                .map(|(namespace, name)| Key::new(namespace, name))
                .collect(),
            ..World::running()
        };
        let status = world.status();
        let condition = find(&status.conditions, Accepted).unwrap();
        assert_eq!(condition.reason, "GroupShared");
        condition.message.clone()
    };
    for foreign in [
        message(&[("secret-ns", "secret-name")]),
        message(&[("secret-ns", "secret-name"), ("shop", "other")]),
    ] {
        assert!(!foreign.contains("secret"), "{foreign}");
        assert!(
            foreign.contains("consumers of other namespaces"),
            "{foreign}"
        );
    }
    assert!(message(&[("secret-ns", "secret-name"), ("shop", "other")]).contains("shop/other and"));
}

/// An operator that has just started has asked no brokers yet.
#[test]
fn what_was_said_of_topics_stands_until_the_brokers_have_answered() {
    let pending = World {
        topics: Some(Resolution::Pending),
        ..World::running()
    };
    let gone = World::resolved(Resolution::Missing(vec!["orders".into()]));
    for before in [World::running().status(), gone.status()] {
        let after = pending.status_after(&before, now());
        let condition = |status: &KafkaConsumerStatus| -> Condition {
            find(&status.conditions, TopicsResolved).unwrap().clone()
        };
        assert_eq!(condition(&after), condition(&before));
        let mut older = before.clone();
        for condition in &mut older.conditions {
            condition.observed_generation = Some(3);
        }
        let after = pending.status_after(&older, now());
        assert_eq!(
            condition(&after).reason,
            "BrokersNotAsked",
            "of another manifest"
        );
    }
}

#[test]
fn what_has_not_changed_makes_the_same_status_at_any_time() {
    for (scenario, world, _) in scenarios() {
        let first = world.status();
        let later = now() + jiff::SignedDuration::from_secs(3);
        assert_eq!(world.status_after(&first, later), first, "{scenario}");
    }
}

#[test]
fn figures_are_those_of_the_deployment_and_the_manifest() {
    let world = World {
        rollout: Some(Rollout {
            replicas: 4,
            ready: 2,
            ..rollout(3)
        }),
        ..World::running()
    };
    let status = world.status();
    assert_eq!(status.observed_generation, Some(4));
    assert_eq!((status.replicas, status.ready_replicas), (Some(4), Some(2)));
    assert_eq!(status.ready.as_deref(), Some("2/3"));
    assert_eq!(status.handlers, Some(12), "three replicas of four");
    assert_eq!(
        status.selector.as_deref(),
        Some("penstock.dev/consumer=orders")
    );
}

#[test]
fn the_end_of_a_container_is_told_of_until_it_is_old() {
    let key = Key::new("shop", "orders");
    let consumer = consumer(3);
    let ended = |seconds| World {
        troubles: vec![trouble(
            Reason::ConsumerFailed,
            "x",
            Some(seconds_ago(seconds)),
        )],
        ..World::running()
    };
    let (young, old) = (ended(100), ended(601));
    let forgets = |world: &World| forgets_at(&world.seen(&key, &consumer, now()), &world.status());
    assert_eq!(forgets(&young), Some(Duration::from_secs(501)));
    assert_eq!(forgets(&old), None);
    assert_eq!(forgets(&World::running()), None);
    let at = now() + jiff::SignedDuration::from_secs(501);
    let status = young.status_after(&young.status(), at);
    assert_eq!(
        find(&status.conditions, Available).unwrap().reason,
        "HandlersReady"
    );
}

/// The table's consumer is no special case: any rule that is broken is named.
#[test]
fn everything_that_is_wrong_with_a_manifest_is_named_at_once() {
    let spec: KafkaConsumerSpec = serde_json::from_value(serde_json::json!({
        "group": "orders",
        "topics": [],
        "mode": "InOrder",
        "maxConcurrency": 5,
        "kafka": { "bootstrapServers": "kafka:9092" },
        "handler": { "image": "registry.example/billing:1" },
    }))
    .unwrap();
    let problem = validate(&spec).unwrap_err();
    let world = World {
        refusal: Some(Refusal::Invalid(problem)),
        ..World::new()
    };
    let status = world.status();
    let message = &find(&status.conditions, Accepted).unwrap().message;
    for part in [
        "spec.group",
        "spec.topics",
        "spec.maxConcurrency",
        "Can only run 1 message handler!",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert!(!message.contains('\n'), "{message}");
}
