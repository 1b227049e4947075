//! The table: what is seen, and what must be told of it.

use penstock_operator::apply::ApplyError;
use penstock_operator::existing::deployment::Rollout;
use penstock_operator::kafka::{NotAllowed, Resolution};
use penstock_operator::key::Key;
use penstock_operator::pods::Trouble;
use penstock_operator::status::{ConditionType, Reason, Refusal, State};

use crate::messages;
use crate::world::{World, object, rollout, seconds_ago, trouble};

use ConditionType::{Accepted, Available, MessagesLost, Progressing, TopicsResolved};
use State::{False, True, Unknown};

/// What must be said of one condition: type, state, reason, and parts of the
/// message, the remedy among them.
pub type Told = (ConditionType, State, Reason, &'static [&'static str]);

/// Scenario by scenario: what is seen, and what must be told of it.
pub fn scenarios() -> Vec<(&'static str, World, Vec<Told>)> {
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
        (MessagesLost, Unknown, Reason::OffsetsNotRead, &[]),
    ];
    let mut table = vec![("all pods are ready", World::running(), all_is_well)];
    table.extend(manifests());
    table.extend(topics());
    table.extend(pods());
    table.extend(rollouts());
    table.extend(objects());
    table.extend(messages::scenarios());
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
                    &["the first pods are started once every topic"],
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
                (Progressing, False, Reason::Complete, &[]),
            ],
        ),
        (
            "another topic is missing under running pods",
            World {
                rollout: Some(Rollout {
                    kafka: Some("digest".into()),
                    ..rollout(3)
                }),
                held: true,
                ..World::resolved(Resolution::Missing(vec!["typo".into()]))
            },
            vec![
                (Available, True, Reason::HandlersReady, &[]),
                (
                    Progressing,
                    False,
                    Reason::TopicsNotResolved,
                    &["other brokers or topics", "what runs is left running"],
                ),
            ],
        ),
        (
            "no broker answers at the first change after an upgrade",
            World {
                rollout: Some(rollout(3)),
                held: true,
                ..World::resolved(Resolution::Pending)
            },
            vec![(
                Progressing,
                False,
                Reason::TopicsNotResolved,
                &[
                    "the first change after the upgrade waits",
                    "see the condition TopicsResolved",
                ],
            )],
        ),
        (
            "the brokers have not been asked yet",
            World::resolved(Resolution::Pending),
            vec![
                (TopicsResolved, Unknown, Reason::BrokersNotAsked, &[]),
                (Available, False, Reason::TopicsNotResolved, &[]),
                (Progressing, False, Reason::TopicsNotResolved, &[]),
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
            "the operator may not connect to the brokers",
            World::resolved(Resolution::NotAllowed(NotAllowed("127.0.0.1:6443".into()))),
            vec![(
                TopicsResolved,
                Unknown,
                Reason::BrokersNotAllowed,
                &["'127.0.0.1:6443'", "correct spec.kafka.bootstrapServers"],
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
            "a container that ended has just been started again",
            World {
                troubles: vec![Trouble {
                    trusted: Some(seconds_ago(-60)),
                    ..trouble(
                        Reason::HandlerFailed,
                        "mend the handler",
                        Some(seconds_ago(5)),
                    )
                }],
                ..World::running()
            },
            vec![
                (
                    Available,
                    True,
                    Reason::Restarting,
                    &["3 of 3 replicas ready; mend the handler"],
                ),
                (Progressing, False, Reason::Complete, &[]),
            ],
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
            "the consumer is about to pause, and no pod is ready",
            World {
                replicas: 0,
                rollout: Some(Rollout {
                    ready: 0,
                    ..rollout(2)
                }),
                leaving: vec![seconds_ago(-60)],
                ..World::running()
            },
            vec![(
                Available,
                False,
                Reason::Stopping,
                &["spec.replicas is 0", "3 pods have not ended yet"],
            )],
        ),
        (
            "the last pod of a consumer that pauses still handles messages",
            World {
                replicas: 0,
                rollout: Some(rollout(0)),
                leaving: vec![seconds_ago(-60)],
                ..World::running()
            },
            vec![(
                Available,
                False,
                Reason::Stopping,
                &["1 pods have not ended yet"],
            )],
        ),
        (
            "the consumer should pause, but its Deployment could not be changed",
            World {
                replicas: 0,
                rollout: Some(Rollout {
                    desired: 3,
                    ..rollout(0)
                }),
                ..World::running()
            },
            vec![(
                Available,
                False,
                Reason::Stopping,
                &["see the condition Progressing"],
            )],
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
    let ends = Trouble {
        trusted: None,
        ..trouble(
            Reason::ConsumerFailed,
            "offset 41: status 400; mend the handler",
            Some(seconds_ago(20)),
        )
    };
    let over = trouble(
        Reason::HandlerFailed,
        "out of memory",
        Some(seconds_ago(90)),
    );
    vec![
        (
            "one pod ends again and again",
            beside(vec![over, ends], None),
            vec![
                (
                    Available,
                    True,
                    Reason::Restarting,
                    &["1 of 3 replicas ready; offset 41: status 400; mend"],
                ),
                (Progressing, True, Reason::RollingOut, &[]),
            ],
        ),
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
                    stalled: Some("ReplicaSet \"orders-1\" has timed out progressing.".into()),
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
        (
            "a pod is not ready any more after the rollout",
            World {
                rollout: Some(Rollout {
                    ready: 2,
                    settled: Some(seconds_ago(3600)),
                    ..rollout(3)
                }),
                ..World::running()
            },
            vec![(
                Progressing,
                True,
                Reason::RollingOut,
                &["3 of 3 replicas are of the newest template, 2 ready"],
            )],
        ),
        (
            "a pod of before the rollout has not ended yet",
            World {
                leaving: vec![seconds_ago(-60), seconds_ago(60)],
                ..World::running()
            },
            vec![(
                Progressing,
                True,
                Reason::RollingOut,
                &["3 of 3 replicas", "1 earlier pods have not ended yet"],
            )],
        ),
        (
            "somebody has paused the rollout of the Deployment",
            World {
                rollout: Some(Rollout {
                    updated: 0,
                    paused: true,
                    ..rollout(3)
                }),
                ..World::running()
            },
            vec![(
                Progressing,
                False,
                Reason::RolloutPaused,
                &["kubectl -n shop rollout resume deployment/orders"],
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
        (
            "an object that pods can run without is refused",
            without_service(rollout(3)),
            vec![
                (Available, True, Reason::HandlersReady, &["3 of 3"]),
                (
                    Progressing,
                    False,
                    Reason::ObjectRefused,
                    &["Service 'orders-metrics': exceeded quota; raise it"],
                ),
            ],
        ),
        (
            "the same while pods are replaced",
            without_service(Rollout {
                updated: 1,
                ..rollout(3)
            }),
            vec![(
                Progressing,
                True,
                Reason::RollingOut,
                &[
                    "1 of 3 replicas are of the newest template",
                    "Service 'orders-metrics': exceeded quota; raise it",
                ],
            )],
        ),
    ]
}

fn without_service(rollout: Rollout) -> World {
    World {
        rollout: Some(rollout),
        incomplete: Some(ApplyError::Refused {
            kind: "Service",
            name: "orders-metrics".into(),
            message: "exceeded quota".into(),
            remedy: "; raise it",
        }),
        ..World::running()
    }
}
