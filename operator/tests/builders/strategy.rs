//! How pods are replaced.

use penstock_operator::build::{Assignors, Kind, RebalanceProtocol};
use penstock_operator::existing::deployment::Rollout;
use serde_json::json;

use crate::manifest::{Manifest, body};

const RECREATE: &str = "Recreate";
const ROLLING: &str = "RollingUpdate";

fn manifest(mode: &str, config: serde_json::Value) -> Manifest {
    manifest_with(mode, config, json!({}))
}

fn manifest_with(mode: &str, config: serde_json::Value, rollout: serde_json::Value) -> Manifest {
    let object = json!({
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "KafkaConsumer",
        "metadata": { "name": "orders" },
        "spec": {
            "group": "billing.orders",
            "topics": ["orders"],
            "mode": mode,
            "rollout": rollout,
            "kafka": { "bootstrapServers": "kafka:9092", "config": config },
            "handler": { "image": "registry.example/billing:1" },
        },
    });
    Manifest::read(&object.to_string())
}

/// The strategy of the Deployment, while another runs, and its annotation.
fn built(manifest: &Manifest, running: Option<&Rollout>) -> (String, String) {
    let objects = manifest.objects_over("", running);
    let deployment = body(&objects, Kind::Deployment);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let annotations = &deployment["metadata"]["annotations"];
    (
        text(&deployment["spec"]["strategy"]["type"]),
        text(&annotations[RebalanceProtocol::ANNOTATION]),
    )
}

/// Two pods of this protocol, all ready.
fn complete(protocol: RebalanceProtocol) -> Rollout {
    Rollout {
        generation: 2,
        observed: 2,
        protocol: Some(protocol),
        desired: 2,
        replicas: 2,
        updated: 2,
        ready: 2,
        ..Rollout::default()
    }
}

#[test]
fn pods_that_can_not_be_in_one_group_are_recreated() {
    use Assignors::{Both, Range, RoundRobin};
    use RebalanceProtocol::{Consumer, Cooperative, Eager};
    let assignors = |names: &str| json!({ "partition.assignment.strategy": names });
    let all = [
        (json!({}), Eager(Both)),
        (assignors("range"), Eager(Range)),
        (assignors("roundrobin"), Eager(RoundRobin)),
        (assignors("cooperative-sticky"), Cooperative),
        (json!({ "group.protocol": "consumer" }), Consumer),
    ];
    for mode in ["Fast", "KeyOrdered"] {
        for (config, protocol) in &all {
            let manifest = manifest(mode, config.clone());
            let annotation = protocol.name().to_owned();
            assert_eq!(built(&manifest, None), (ROLLING.into(), annotation.clone()));
            for (_, running) in &all {
                let has_common_assignor = matches!(
                    (running, protocol),
                    (Eager(Both), Eager(_)) | (Eager(_), Eager(Both))
                );
                let strategy = if running == protocol || has_common_assignor {
                    ROLLING
                } else {
                    RECREATE
                };
                let expected = (strategy.to_owned(), annotation.clone());
                let built = built(&manifest, Some(&complete(*running)));
                assert_eq!(built, expected, "{mode}: {running:?} to {protocol:?}");
            }
        }
    }
}

#[test]
fn a_rollout_that_recreates_pods_ends_as_it_began() {
    let manifest = manifest("Fast", json!({ "group.protocol": "consumer" }));
    let strategy = |running: &Rollout| built(&manifest, Some(running)).0;
    let begun = Rollout {
        recreates: true,
        generation: 3,
        ..complete(RebalanceProtocol::Consumer)
    };
    assert_eq!(strategy(&begun), RECREATE, "the old pods are still there");
    let no_pods = Rollout {
        observed: 3,
        replicas: 0,
        updated: 0,
        ready: 0,
        ..begun.clone()
    };
    assert_eq!(
        strategy(&no_pods),
        RECREATE,
        "the new pods are not there yet"
    );
    let not_ready = Rollout {
        observed: 3,
        ready: 1,
        ..begun.clone()
    };
    assert_eq!(strategy(&not_ready), RECREATE);
    let done = Rollout {
        observed: 3,
        ..begun
    };
    assert_eq!(strategy(&done), ROLLING);
}

/// The protocol changes from eager to that of KIP-848 and back: what the Deployment reports,
/// which pods run, and the strategy of the manifest that is applied then.
#[test]
fn recreate_ends_with_the_pods_of_another_protocol() {
    use RebalanceProtocol::{Consumer, Cooperative, Eager};
    let eager = Eager(Assignors::Both);
    let under_way = |protocol, replicas, updated| Rollout {
        recreates: true,
        replicas,
        updated,
        ready: 0,
        ..complete(protocol)
    };
    let unseen = Rollout {
        generation: 3,
        ..under_way(Consumer, 2, 2)
    };
    let cases: [(&str, Rollout, &[RebalanceProtocol], RebalanceProtocol, &str); 13] = [
        (
            "all are of before",
            complete(eager),
            &[eager],
            Consumer,
            RECREATE,
        ),
        (
            "the watch is behind",
            complete(eager),
            &[],
            Consumer,
            RECREATE,
        ),
        (
            "it has not begun",
            unseen.clone(),
            &[eager],
            Consumer,
            RECREATE,
        ),
        (
            "old pods run",
            under_way(Consumer, 2, 0),
            &[eager],
            Consumer,
            RECREATE,
        ),
        (
            "old pods end",
            under_way(Consumer, 0, 0),
            &[],
            Consumer,
            RECREATE,
        ),
        (
            "new pods start",
            under_way(Consumer, 2, 2),
            &[Consumer],
            Consumer,
            ROLLING,
        ),
        // The manifest is reverted.
        ("before it has begun", unseen, &[eager], eager, ROLLING),
        (
            "old pods still run",
            under_way(Consumer, 2, 0),
            &[eager],
            eager,
            ROLLING,
        ),
        (
            "old pods end",
            under_way(Consumer, 0, 0),
            &[],
            eager,
            ROLLING,
        ),
        (
            "a new pod runs",
            under_way(Consumer, 1, 1),
            &[Consumer],
            eager,
            RECREATE,
        ),
        (
            "both run",
            under_way(eager, 2, 1),
            &[eager, Consumer],
            eager,
            RECREATE,
        ),
        ("it ended", under_way(eager, 1, 1), &[eager], eager, ROLLING),
        // To a third one.
        (
            "none of either",
            under_way(Consumer, 2, 0),
            &[eager],
            Cooperative,
            RECREATE,
        ),
    ];
    for (case, running, pods, to, expected) in cases {
        let config = match to {
            Consumer => json!({ "group.protocol": "consumer" }),
            Cooperative => json!({ "partition.assignment.strategy": "cooperative-sticky" }),
            Eager(_) => json!({}),
        };
        let manifest = manifest("Fast", config);
        let objects = manifest.objects_over_pods("", Some(&running), Some(pods.to_vec()));
        let strategy = &body(&objects, Kind::Deployment)["spec"]["strategy"]["type"];
        assert_eq!(strategy, expected, "{case}, to {to:?}");
    }
}

#[test]
fn a_strategy_that_the_manifest_asked_for_ends_with_it() {
    let manifest = manifest("Fast", json!({}));
    let eager = RebalanceProtocol::Eager(Assignors::Both);
    let under_way = Rollout {
        recreates: true,
        ready: 0,
        ..complete(eager)
    };
    let objects = manifest.objects_over_pods("", Some(&under_way), Some(vec![eager]));
    let strategy = &body(&objects, Kind::Deployment)["spec"]["strategy"]["type"];
    assert_eq!(strategy, ROLLING);
}

#[test]
fn a_deployment_of_an_earlier_operator_is_updated_as_before() {
    let unknown = Rollout {
        protocol: None,
        ..complete(RebalanceProtocol::Eager(Assignors::Both))
    };
    let manifest = manifest("Fast", json!({ "group.protocol": "consumer" }));
    assert_eq!(built(&manifest, Some(&unknown)).0, ROLLING);
}

/// The strategy of the Deployment, complete.
fn strategy(manifest: &Manifest, running: Option<&Rollout>) -> serde_json::Value {
    let objects = manifest.objects_over("", running);
    body(&objects, Kind::Deployment)["spec"]["strategy"].clone()
}

#[test]
fn pods_are_replaced_as_the_manifest_says() {
    let rolling = |surge: serde_json::Value, unavailable: serde_json::Value| {
        let counts = json!({ "maxSurge": surge, "maxUnavailable": unavailable });
        json!({ "type": ROLLING, "rollingUpdate": counts })
    };
    let cases = [
        (json!({}), rolling(json!(1), json!(0))),
        (
            json!({ "strategy": "RollingUpdate" }),
            rolling(json!(1), json!(0)),
        ),
        (
            json!({ "maxSurge": "50%" }),
            rolling(json!("50%"), json!(0)),
        ),
        (
            json!({ "maxUnavailable": "25%" }),
            rolling(json!(1), json!("25%")),
        ),
        (
            json!({ "maxSurge": 0, "maxUnavailable": 2 }),
            rolling(json!(0), json!(2)),
        ),
        (
            json!({ "strategy": "Recreate" }),
            json!({ "type": RECREATE }),
        ),
    ];
    let running = complete(RebalanceProtocol::Eager(Assignors::Both));
    for mode in ["Fast", "KeyOrdered"] {
        for (rollout, expected) in &cases {
            let manifest = manifest_with(mode, json!({}), rollout.clone());
            for running in [None, Some(&running)] {
                assert_eq!(&strategy(&manifest, running), expected, "{mode} {rollout}");
            }
        }
    }
}

#[test]
fn a_change_of_the_protocol_recreates_pods_whatever_the_manifest_says() {
    let consumer = json!({ "group.protocol": "consumer" });
    let rollout = json!({ "strategy": "RollingUpdate", "maxSurge": "50%", "maxUnavailable": 1 });
    let manifest = manifest_with("Fast", consumer, rollout.clone());
    let eager = complete(RebalanceProtocol::Eager(Assignors::Both));
    let recreate = json!({ "type": RECREATE });
    assert_eq!(strategy(&manifest, Some(&eager)), recreate);
    let under_way = Rollout {
        recreates: true,
        ready: 0,
        ..complete(RebalanceProtocol::Consumer)
    };
    assert_eq!(strategy(&manifest, Some(&under_way)), recreate);
    let done = Rollout {
        recreates: true,
        ..complete(RebalanceProtocol::Consumer)
    };
    let counts = json!({ "maxSurge": "50%", "maxUnavailable": 1 });
    let rolling = json!({ "type": ROLLING, "rollingUpdate": counts });
    assert_eq!(
        strategy(&manifest, Some(&done)),
        rolling,
        "that change alone"
    );
}

#[test]
fn in_order_the_old_pod_always_ends_first() {
    let manifest = manifest("InOrder", json!({}));
    let running = complete(RebalanceProtocol::Eager(Assignors::Both));
    assert_eq!(built(&manifest, Some(&running)).0, RECREATE);
    assert_eq!(built(&manifest, None).0, RECREATE);
}
