use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::*;

fn pod(status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "orders-1",
            "namespace": "shop",
            "labels": { "penstock.dev/consumer": "orders" },
        },
        "status": status,
    }))
    .unwrap()
}

fn only_trouble(status: Value) -> Trouble {
    let pods = Pods::default();
    let consumer = Key::new("shop", "orders");
    assert_eq!(pods.saw(&pod(status)), Some(consumer.clone()));
    let troubles = pods.troubles(&consumer);
    assert_eq!(troubles.len(), 1, "{troubles:?}");
    troubles.into_iter().next().unwrap()
}

#[test]
fn a_poison_message_is_named_in_the_runtime_s_last_words() {
    let trouble = only_trouble(json!({ "containerStatuses": [{
        "name": "runtime", "image": "x", "imageID": "", "ready": false, "restartCount": 3,
        "state": { "waiting": { "reason": "CrashLoopBackOff" } },
        "lastState": { "terminated": {
            "exitCode": 1,
            "reason": "Error",
            "finishedAt": "2026-01-02T03:04:05Z",
            "message": "error: topic orders, partition 2, offset 41: status 400\n",
        } },
    }] }));
    assert_eq!(trouble.reason, Reason::ConsumerFailed);
    assert!(
        trouble.message.starts_with(
            "container 'runtime' ended 3 times: topic orders, partition 2, offset 41: status 400; "
        ),
        "{}",
        trouble.message
    );
    assert!(trouble.ended.is_some());
}

#[test]
fn the_remedy_follows_the_code_of_the_runtime_s_error() {
    let message = |words: &str| {
        let status = json!({ "containerStatuses": [{
            "name": "runtime", "image": "x", "imageID": "", "ready": false, "restartCount": 1,
            "state": { "terminated": { "exitCode": 1, "message": words } },
        }] });
        only_trouble(status).message
    };
    let handler = "correct the handler or the message";
    for (words, remedy) in [
        ("status 400 (code=MessageFailed)", handler),
        ("status 400", handler),
        ("panicked (code=Unknown)", handler),
        (
            "the commit failed (code=CommitFailed)",
            "see CommitFailed in docs/troubleshooting.md",
        ),
    ] {
        let message = message(words);
        assert!(message.contains(&format!("{words}; {remedy}")), "{message}");
    }
}

#[test]
fn an_image_that_cannot_be_pulled_is_named() {
    let trouble = only_trouble(json!({ "initContainerStatuses": [{
        "name": "handler", "image": "registry.example/typo:1", "imageID": "", "ready": false,
        "restartCount": 0,
        "state": { "waiting": { "reason": "ImagePullBackOff", "message": "not found" } },
    }] }));
    assert_eq!(trouble.reason, Reason::ImagePullFailed);
    assert!(
        trouble.message.contains("registry.example/typo:1"),
        "{}",
        trouble.message
    );
}

#[test]
fn a_handler_that_does_not_listen_where_the_kubelet_looks_is_explained() {
    let trouble = only_trouble(json!({ "initContainerStatuses": [{
        "name": "handler", "image": "x", "imageID": "", "ready": false, "started": false,
        "restartCount": 0, "state": { "running": {} },
    }] }));
    assert_eq!(trouble.reason, Reason::HandlerNotStarted);
    assert!(trouble.message.contains("0.0.0.0"), "{}", trouble.message);
}

#[test]
fn memory_that_ran_out_is_told_from_a_failure() {
    let trouble = only_trouble(json!({ "containerStatuses": [{
        "name": "runtime", "image": "x", "imageID": "", "ready": true, "restartCount": 1,
        "state": { "running": {} },
        "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled", "message": "busy" } },
    }] }));
    assert!(trouble.message.contains("OOMKilled"), "{}", trouble.message);
    assert!(
        trouble.message.contains("memory limit"),
        "{}",
        trouble.message
    );
}

#[test]
fn a_pod_in_order_or_on_its_way_out_has_no_trouble() {
    let pods = Pods::default();
    let running = json!({ "containerStatuses": [{
        "name": "runtime", "image": "x", "imageID": "", "ready": true, "restartCount": 0,
        "state": { "running": {} },
    }] });
    assert_eq!(pods.saw(&pod(running)), None);
    let mut leaving = pod(json!({ "containerStatuses": [{
        "name": "runtime", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "terminated": { "exitCode": 137 } },
    }] }));
    let time = serde_json::from_value(json!("2026-01-02T03:04:05Z")).unwrap();
    leaving.metadata.deletion_timestamp = Some(time);
    let consumer = Key::new("shop", "orders");
    assert!(pods.saw(&leaving).is_some(), "it leaves");
    assert_eq!(pods.saw(&leaving), None, "nothing is new");
    assert_eq!(pods.leaving(&consumer).len(), 1);
    assert!(pods.troubles(&consumer).is_empty());
}

#[test]
fn a_pod_that_leaves_is_counted_until_it_has_ended_or_is_gone() {
    let consumer = Key::new("shop", "orders");
    let leaving = |phase: &str| {
        let mut pod = pod(json!({ "phase": phase }));
        let time = serde_json::from_value(json!("2026-01-02T03:04:05Z")).unwrap();
        pod.metadata.deletion_timestamp = Some(time);
        pod
    };
    let ends: [&dyn Fn(&Pods) -> bool; 3] = [
        &|pods| pods.saw(&leaving("Failed")).is_some(),
        &|pods| pods.gone(&leaving("Running")).is_some(),
        &|pods| pods.listed(&HashSet::new()) == [consumer.clone()],
    ];
    for end in ends {
        let pods = Pods::default();
        pods.saw(&leaving("Running"));
        assert_eq!(pods.leaving(&consumer).len(), 1);
        assert!(end(&pods), "it is news");
        assert_eq!(pods.leaving(&consumer), []);
    }
}

#[test]
fn trouble_ends_with_the_pod() {
    let pods = Pods::default();
    let consumer = Key::new("shop", "orders");
    let unschedulable = pod(json!({ "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room",
    }] }));
    assert!(pods.saw(&unschedulable).is_some());
    assert_eq!(pods.saw(&unschedulable), None, "nothing is new");
    assert_eq!(
        pods.listed(&HashSet::new()),
        std::slice::from_ref(&consumer)
    );
    assert!(pods.troubles(&consumer).is_empty());
}
/// A pod whose runtime ended after a run of so many seconds, and is in this state now.
fn restarted(last_run: i64, state: Value) -> Value {
    let at = |seconds: i64| (now() + SignedDuration::from_secs(seconds)).to_string();
    json!({ "phase": "Running", "containerStatuses": [{
        "name": "runtime", "image": "x", "imageID": "", "ready": true, "restartCount": 3,
        "state": state,
        "lastState": { "terminated": {
            "exitCode": 1, "startedAt": at(-30 - last_run), "finishedAt": at(-30),
        } },
    }] })
}

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

#[test]
fn a_container_that_was_restarted_counts_once_it_has_outlasted_its_last_run() {
    let running = json!({ "running": { "startedAt": now().to_string() } });
    let cases = [
        (1, 2),
        (30, 60),
        (239, 478),
        (299, 480),
        (599, 480),
        // That is no loop.
        (600, 0),
    ];
    for (last_run, probation) in cases {
        let trouble = only_trouble(restarted(last_run, running.clone()));
        let trusted = now() + SignedDuration::from_secs(probation);
        assert_eq!(trouble.trusted, Some(trusted), "{last_run}");
        assert!(!trouble.holds(trusted));
        assert!(trouble.holds(trusted - SignedDuration::from_secs(1)));
    }
    let waiting = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
    let trouble = only_trouble(restarted(3000, waiting));
    assert_eq!(trouble.trusted, None, "it does not run");
}

#[test]
fn a_pod_counts_once_both_of_its_containers_do() {
    let running = json!({ "running": { "startedAt": now().to_string() } });
    let mut both = restarted(30, running.clone());
    let mut handler = restarted(60, running)["containerStatuses"][0].take();
    handler["name"] = "handler".into();
    both["initContainerStatuses"] = json!([handler]);
    let trouble = only_trouble(both.clone());
    assert_eq!(trouble.reason, Reason::ConsumerFailed);
    assert_eq!(
        trouble.trusted,
        Some(now() + SignedDuration::from_secs(120))
    );
    both["initContainerStatuses"][0]["state"] = json!({ "waiting": {} });
    assert_eq!(only_trouble(both).trusted, None);
}

#[test]
fn an_init_container_of_a_webhook_may_end() {
    let status = json!({ "initContainerStatuses": [{
        "name": "istio-init", "image": "x", "imageID": "", "ready": true, "restartCount": 0,
        "state": { "terminated": { "exitCode": 0, "reason": "Completed" } },
    }] });
    assert_eq!(Pods::default().saw(&pod(status)), None);
}

#[test]
fn pods_are_complete_once_they_are_listed() {
    let pods = Pods::default();
    assert_eq!(pods.complete().now_or_never(), None);
    pods.listed(&HashSet::new());
    assert_eq!(pods.complete().now_or_never(), Some(()));
}

#[test]
fn a_pod_that_has_ended_keeps_nothing_from_working() {
    let mut evicted = restarted(30, json!({ "terminated": { "exitCode": 137 } }));
    evicted["phase"] = "Failed".into();
    assert!(!only_trouble(evicted).holds(now()));
}

#[test]
fn the_end_of_a_container_is_a_failure_with_any_exit_code() {
    let ended = |name: &str| {
        json!({ "containerStatuses": [{
            "name": name, "image": "x", "imageID": "", "ready": false, "restartCount": 2,
            "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            "lastState": { "terminated": { "exitCode": 0, "reason": "Completed" } },
        }] })
    };
    for (name, reason) in [
        (HANDLER, Reason::HandlerFailed),
        (RUNTIME, Reason::ConsumerFailed),
    ] {
        let trouble = only_trouble(ended(name));
        assert_eq!(trouble.reason, reason);
        let message = &trouble.message;
        assert!(
            message.contains("twice: exit code 0 (Completed)"),
            "{message}"
        );
        assert!(message.contains("see kubectl describe pod"), "{message}");
        assert!(trouble.holds(now()));
    }
}
