//! From what was seen of a consumer to its status: a table of scenarios, and what
//! holds of all of them.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use penstock_crds::manifest;
use penstock_crds::spec::{KafkaConsumerSpec, KafkaConsumerStatus};
use penstock_crds::validate::{ValidatedConsumer, validate};
use penstock_crds::violation::{Violation, Violations};
use penstock_operator::apply::ApplyError;
use penstock_operator::existing::deployment::Rollout;
use penstock_operator::kafka::Resolution;
use penstock_operator::key::Key;
use penstock_operator::pods::Trouble;
use penstock_operator::status::{
    ConditionType, Reason, Refusal, Seen, State, find, forgets_at, status,
};

use ConditionType::{Accepted, Available, Progressing, TopicsResolved};
use State::{False, True, Unknown};

/// What the API server takes of a condition's message, in bytes.
const LONGEST_MESSAGE: usize = 32_768;

/// What is seen in a scenario. The default is a consumer of three replicas whose
/// pods are all ready.
struct World {
    refusal: Option<Refusal>,
    replicas: u32,
    siblings: Vec<Key>,
    topics: Option<Resolution>,
    blocked: Option<ApplyError>,
    rollout: Option<Rollout>,
    troubles: Vec<Trouble>,
    lag: Option<i64>,
}

impl World {
    fn running() -> Self {
        Self {
            refusal: None,
            replicas: 3,
            siblings: Vec::new(),
            topics: Some(Resolution::Found),
            blocked: None,
            rollout: Some(rollout(3)),
            troubles: Vec::new(),
            lag: None,
        }
    }

    /// Pods exist, but none is ready.
    fn starting() -> Self {
        Self {
            rollout: Some(Rollout {
                ready: 0,
                ..rollout(3)
            }),
            ..Self::running()
        }
    }

    /// Nothing has been made yet, and nothing is known of the topics.
    fn new() -> Self {
        Self {
            topics: None,
            rollout: None,
            ..Self::running()
        }
    }

    fn refused(refusal: fn(Violations) -> Refusal) -> Self {
        let violation = Violation {
            path: "spec.group".into(),
            value: Some("orders".into()),
            message: "group_id must start with 'SERVICENAME.'".into(),
        };
        Self {
            refusal: Some(refusal(Violations(vec![violation]))),
            ..Self::new()
        }
    }

    fn resolved(topics: Resolution) -> Self {
        Self {
            topics: Some(topics),
            ..Self::new()
        }
    }

    fn troubled(reason: Reason, message: &str) -> Self {
        Self {
            troubles: vec![trouble(reason, message, None)],
            ..Self::starting()
        }
    }

    fn blocked(error: ApplyError) -> Self {
        Self {
            topics: Some(Resolution::Found),
            blocked: Some(error),
            ..Self::new()
        }
    }

    fn status_after(&self, before: &KafkaConsumerStatus, now: Timestamp) -> KafkaConsumerStatus {
        let key = Key::new("shop", "orders");
        let consumer = consumer(self.replicas);
        let seen = self.seen(&key, &consumer, now);
        status(&seen, before)
    }

    fn status(&self) -> KafkaConsumerStatus {
        self.status_after(&KafkaConsumerStatus::default(), now())
    }

    fn seen<'a>(
        &'a self,
        key: &'a Key,
        consumer: &'a ValidatedConsumer,
        now: Timestamp,
    ) -> Seen<'a> {
        Seen {
            key,
            generation: Some(4),
            consumer: match &self.refusal {
                Some(refusal) => Err(refusal),
                None => Ok(consumer),
            },
            siblings: self.siblings.clone(),
            topics: self.topics.clone(),
            blocked: self.blocked.as_ref(),
            rollout: self.rollout.clone(),
            troubles: self.troubles.clone(),
            lag: self.lag,
            now,
        }
    }
}

fn consumer(replicas: u32) -> ValidatedConsumer {
    let text = format!(
        "{{apiVersion: penstock.dev/v1alpha1, kind: KafkaConsumer, metadata: {{name: orders}}, \
         spec: {{group: billing.orders, topics: [orders], mode: Fast, maxConcurrency: 4, \
         replicas: {replicas}, kafka: {{bootstrapServers: 'kafka:9092'}}, \
         handler: {{image: 'registry.example/billing:1'}}}}}}"
    );
    manifest::read_one(&text).expect("a consumer").1
}

fn rollout(pods: i32) -> Rollout {
    Rollout {
        generation: 2,
        observed: 2,
        replicas: pods,
        updated: pods,
        ready: pods,
        stalled: None,
        refused: None,
    }
}

fn trouble(reason: Reason, message: &str, ended: Option<Timestamp>) -> Trouble {
    Trouble {
        reason,
        message: message.into(),
        ended,
    }
}

fn now() -> Timestamp {
    "2026-03-04T05:06:07Z".parse().expect("a time")
}

fn seconds_ago(seconds: i64) -> Timestamp {
    now() - jiff::SignedDuration::from_secs(seconds)
}

fn object(of: fn(&'static str, String) -> ApplyError) -> ApplyError {
    of("Deployment", "orders".into())
}

/// What must be said of one condition: type, state, reason, and parts of the
/// message, the remedy among them.
type Told = (ConditionType, State, Reason, &'static [&'static str]);

/// Scenario by scenario: what is seen, and what must be told of it.
fn scenarios() -> Vec<(&'static str, World, Vec<Told>)> {
    let all_is_well = vec![
        (Accepted, True, Reason::Valid, &[] as &[&str]),
        (TopicsResolved, True, Reason::TopicsFound, &[]),
        (
            Available,
            True,
            Reason::HandlersReady,
            &["3 of 3 replicas ready"],
        ),
        (Progressing, False, Reason::Complete, &[]),
    ];
    let mut table = vec![("all pods are ready", World::running(), all_is_well)];
    table.extend(manifests());
    table.extend(topics());
    table.extend(pods());
    table.extend(rollouts());
    table.extend(objects());
    table
}

fn manifests() -> Vec<(&'static str, World, Vec<Told>)> {
    let shared = World {
        siblings: (1..=7)
            .map(|n| Key::new("shop", &format!("other-{n}")))
            .collect(),
        ..World::running()
    };
    vec![
        (
            "the manifest breaks a rule",
            World::refused(Refusal::Invalid),
            vec![
                (
                    Accepted,
                    False,
                    Reason::Invalid,
                    &["spec.group", "must start with", "'orders'"],
                ),
                (
                    TopicsResolved,
                    Unknown,
                    Reason::NotAccepted,
                    &["once the manifest is accepted"],
                ),
                (
                    Available,
                    False,
                    Reason::NotAccepted,
                    &["see the condition Accepted"],
                ),
                (
                    Progressing,
                    False,
                    Reason::NotAccepted,
                    &["until the manifest is accepted"],
                ),
            ],
        ),
        (
            "the manifest can't be read",
            World::refused(Refusal::Unreadable),
            vec![
                (
                    Accepted,
                    False,
                    Reason::Unreadable,
                    &["spec.group", "correct the manifest"],
                ),
                (Progressing, False, Reason::NotAccepted, &[]),
            ],
        ),
        (
            "the manifest breaks a rule while pods of the last one run",
            World {
                rollout: Some(rollout(3)),
                ..World::refused(Refusal::Invalid)
            },
            vec![
                (Accepted, False, Reason::Invalid, &[]),
                (
                    Available,
                    True,
                    Reason::HandlersReady,
                    &["3 replicas ready"],
                ),
                (
                    Progressing,
                    False,
                    Reason::NotAccepted,
                    &["what runs is left running"],
                ),
            ],
        ),
        (
            "others read the same topics as the same group",
            shared,
            vec![(
                Accepted,
                True,
                Reason::GroupShared,
                &[
                    "'billing.orders'",
                    "shop/other-1",
                    "shop/other-5 and 2 more",
                    "give one of them another group",
                ],
            )],
        ),
    ]
}

fn topics() -> Vec<(&'static str, World, Vec<Told>)> {
    let brokers = || "kafka:9092".to_owned();
    vec![
        (
            "topics are missing",
            World::resolved(Resolution::Missing(vec!["orders".into(), "returns".into()])),
            vec![
                (
                    TopicsResolved,
                    False,
                    Reason::TopicNotFound,
                    &[
                        "topic 'orders' does not exist. maybe it's misspelled or on a different kafka cluster?",
                        "'returns'",
                    ],
                ),
                (
                    Available,
                    False,
                    Reason::TopicsNotResolved,
                    &["see the condition TopicsResolved"],
                ),
                (
                    Progressing,
                    False,
                    Reason::TopicsNotResolved,
                    &["what runs is left running"],
                ),
            ],
        ),
        (
            "a topic goes missing under running pods",
            World {
                rollout: Some(rollout(3)),
                ..World::resolved(Resolution::Missing(vec!["orders".into()]))
            },
            vec![
                (TopicsResolved, False, Reason::TopicNotFound, &[]),
                (Available, True, Reason::HandlersReady, &[]),
            ],
        ),
        (
            "no broker answers",
            World::resolved(Resolution::Unreachable {
                brokers: brokers(),
                error: "timed out".into(),
            }),
            vec![(
                TopicsResolved,
                Unknown,
                Reason::BrokersUnreachable,
                &[
                    "kafka:9092: timed out",
                    "correct spec.kafka.bootstrapServers",
                ],
            )],
        ),
        (
            "the brokers refuse the credentials",
            World::resolved(Resolution::Refused {
                brokers: brokers(),
                error: "bad password".into(),
            }),
            vec![(
                TopicsResolved,
                Unknown,
                Reason::AuthenticationFailed,
                &["bad password", "correct spec.kafka.authentication"],
            )],
        ),
        (
            "a Secret is missing",
            World::resolved(Resolution::NoSecret(
                "Secret 'kafka' does not exist in this namespace; create it".into(),
            )),
            vec![
                (
                    TopicsResolved,
                    Unknown,
                    Reason::SecretNotFound,
                    &["Secret 'kafka'", "create it"],
                ),
                (Available, False, Reason::TopicsNotResolved, &[]),
            ],
        ),
    ]
}

fn pods() -> Vec<(&'static str, World, Vec<Told>)> {
    let ended = |seconds| World {
        troubles: vec![trouble(
            Reason::ConsumerFailed,
            "container 'runtime' ended once: topic orders, partition 2, offset 41: status 400; mend the handler",
            Some(seconds_ago(seconds)),
        )],
        ..World::running()
    };
    let mut table = vec![
        (
            "a container ended not long ago",
            ended(60),
            vec![(
                Available,
                True,
                Reason::Restarting,
                &["3 of 3 replicas ready", "partition 2, offset 41"] as &[&str],
            )],
        ),
        (
            "a container ended long ago",
            ended(601),
            vec![(Available, True, Reason::HandlersReady, &[])],
        ),
        (
            "pods are on their way",
            World::starting(),
            vec![(Available, False, Reason::Starting, &["pods are starting"])],
        ),
        (
            "some pods are ready",
            World {
                rollout: Some(Rollout {
                    ready: 1,
                    ..rollout(3)
                }),
                ..World::running()
            },
            vec![
                (
                    Available,
                    True,
                    Reason::HandlersReady,
                    &["1 of 3 replicas ready"],
                ),
                (
                    Progressing,
                    True,
                    Reason::RollingOut,
                    &["3 of 3 replicas", "1 ready"],
                ),
            ],
        ),
        (
            "the consumer is paused",
            World {
                replicas: 0,
                rollout: Some(rollout(0)),
                ..World::running()
            },
            vec![
                (
                    Available,
                    False,
                    Reason::Paused,
                    &["spec.replicas is 0; raise it"],
                ),
                (Progressing, False, Reason::Complete, &[]),
            ],
        ),
        (
            "the consumer is about to pause",
            World {
                replicas: 0,
                ..World::running()
            },
            vec![
                (
                    Available,
                    True,
                    Reason::HandlersReady,
                    &["3 of 0 replicas ready"],
                ),
                (Progressing, True, Reason::RollingOut, &[]),
            ],
        ),
        (
            "the namespace's quota refuses the pods",
            World {
                rollout: Some(Rollout {
                    refused: Some("pods \"orders-1\" is forbidden: exceeded quota: small".into()),
                    ..Rollout::default()
                }),
                ..World::running()
            },
            vec![(
                Available,
                False,
                Reason::PodsRefused,
                &["exceeded quota: small", "see the namespace's ResourceQuota"],
            )],
        ),
    ];
    table.extend(pods_beside_ready_ones());
    let told_as_it_is = [
        (
            Reason::ConsumerFailed,
            "topic orders, partition 2, offset 41: status 400; mend the handler",
        ),
        (Reason::HandlerFailed, "exit code 1; see kubectl logs"),
        (
            Reason::HandlerNotStarted,
            "its startup probe has not succeeded; it must listen",
        ),
        (Reason::ImagePullFailed, "not found; correct the image"),
        (
            Reason::ContainerRefused,
            "no such volume; correct the settings",
        ),
        (Reason::Unschedulable, "no room; lower the requests"),
    ];
    for (reason, message) in told_as_it_is {
        let told: &'static [&'static str] = Box::leak(Box::new([message]));
        let world = World::troubled(reason, message);
        table.push((message, world, vec![(Available, False, reason, told)]));
    }
    table
}

/// One pod is ready, and another is not.
fn pods_beside_ready_ones() -> Vec<(&'static str, World, Vec<Told>)> {
    let beside = |troubles, refused: Option<&str>| World {
        rollout: Some(Rollout {
            ready: 1,
            refused: refused.map(str::to_owned),
            ..rollout(3)
        }),
        troubles,
        ..World::running()
    };
    let image = trouble(
        Reason::ImagePullFailed,
        "not found; correct the image",
        None,
    );
    let handler = trouble(
        Reason::HandlerNotStarted,
        "it must accept connections",
        None,
    );
    let mut stalled = beside(vec![handler.clone()], None);
    stalled.rollout.get_or_insert_default().stalled = Some("timed out progressing.".into());
    vec![
        (
            "the namespace's quota refuses some of the pods",
            beside(Vec::new(), Some("exceeded quota: small")),
            vec![(
                Available,
                True,
                Reason::PodsRefused,
                &[
                    "1 of 3 replicas ready",
                    "exceeded quota: small",
                    "see the namespace's ResourceQuota",
                ],
            )],
        ),
        (
            "the image of a newer pod can't be pulled",
            beside(vec![image], None),
            vec![(
                Available,
                True,
                Reason::ImagePullFailed,
                &["1 of 3 replicas ready; not found; correct"],
            )],
        ),
        (
            "the handler of a newer pod does not start, and the rollout stalls",
            stalled,
            vec![(
                Available,
                True,
                Reason::HandlerNotStarted,
                &["1 of 3 replicas ready; it must accept"],
            )],
        ),
        (
            "the handler of a newer pod is about to start",
            beside(vec![handler], None),
            vec![(
                Available,
                True,
                Reason::HandlersReady,
                &["1 of 3 replicas ready"],
            )],
        ),
    ]
}

fn rollouts() -> Vec<(&'static str, World, Vec<Told>)> {
    vec![
        (
            "pods are being replaced",
            World {
                rollout: Some(Rollout {
                    updated: 1,
                    replicas: 4,
                    ..rollout(3)
                }),
                ..World::running()
            },
            vec![
                (Available, True, Reason::HandlersReady, &[]),
                (
                    Progressing,
                    True,
                    Reason::RollingOut,
                    &["1 of 3 replicas are of the newest template, 3 ready"],
                ),
            ],
        ),
        (
            "the Deployment has not looked at its new spec",
            World {
                rollout: Some(Rollout {
                    generation: 3,
                    ..rollout(3)
                }),
                ..World::running()
            },
            vec![(Progressing, True, Reason::RollingOut, &[])],
        ),
        (
            "the rollout has stalled",
            World {
                rollout: Some(Rollout {
                    updated: 1,
                    stalled: Some("ReplicaSet \"orders-1\" has timed out progressing.".into()),
                    ..rollout(3)
                }),
                ..World::running()
            },
            vec![(
                Progressing,
                False,
                Reason::Stalled,
                &["has timed out progressing. See the condition Available"],
            )],
        ),
    ]
}

fn objects() -> Vec<(&'static str, World, Vec<Told>)> {
    vec![
        (
            "an object of that name is somebody else's",
            World::blocked(object(|kind, name| ApplyError::Foreign { kind, name })),
            vec![
                (
                    Progressing,
                    False,
                    Reason::NameTaken,
                    &["Deployment named 'orders'", "delete or rename it"],
                ),
                (
                    Available,
                    False,
                    Reason::ObjectRefused,
                    &["see the condition Progressing"],
                ),
            ],
        ),
        (
            "an object of an earlier consumer is not gone yet",
            World::blocked(object(|kind, name| ApplyError::Leaving { kind, name })),
            vec![(
                Progressing,
                True,
                Reason::AwaitingDeletion,
                &["is not gone yet"],
            )],
        ),
        (
            "the API server refuses an object",
            World::blocked(object(|kind, name| ApplyError::Refused {
                kind,
                name,
                message: "exceeded quota: small".into(),
                remedy: "; raise the namespace's ResourceQuota or free some of it",
            })),
            vec![(
                Progressing,
                False,
                Reason::ObjectRefused,
                &["exceeded quota: small; raise the namespace's ResourceQuota"],
            )],
        ),
        (
            "requests fail for longer",
            World::blocked(object(|kind, name| ApplyError::Request {
                action: "applying",
                kind,
                name,
                source: Box::new(kube::Error::LinesCodecMaxLineLengthExceeded),
            })),
            vec![(
                Progressing,
                True,
                Reason::RequestFailed,
                &["applying Deployment 'orders' failed"],
            )],
        ),
    ]
}

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
            ["Accepted", "TopicsResolved", "Available", "Progressing"],
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
        "maybe",
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
        lag: Some(17),
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
    assert_eq!(status.lag, Some(17));
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
    assert_eq!(
        forgets_at(&young.seen(&key, &consumer, now())),
        Some(Duration::from_secs(501))
    );
    assert_eq!(forgets_at(&old.seen(&key, &consumer, now())), None);
    assert_eq!(
        forgets_at(&World::running().seen(&key, &consumer, now())),
        None
    );
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
