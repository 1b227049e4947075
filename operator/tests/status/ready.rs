//! What tools see that wait for a consumer. `tests/status/ready.expected.txt` has a line for
//! each scenario; `PENSTOCK_UPDATE_GOLDEN=1` rewrites it: read the difference.

use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use penstock_crds::spec::KafkaConsumerStatus;
use penstock_operator::existing::deployment::Rollout;
use penstock_operator::kafka::Resolution;
use penstock_operator::key::Key;
use penstock_operator::pods::Trouble;
use penstock_operator::status::ConditionType::{Ready, Reconciling, Stalled};
use penstock_operator::status::{Reason, find, forgets_at};

use crate::argo_cd::ArgoCd;
use crate::scenarios::scenarios;
use crate::world::{World, consumer, now, rollout, seconds_ago, trouble};

/// When an obstacle that has been there since [`now`] stalls the consumer.
const DEADLINE: SignedDuration = SignedDuration::from_secs(600);

/// The rules of kstatus for a resource that it does not know.
fn kstatus(status: &KafkaConsumerStatus, generation: i64) -> &'static str {
    let is = |type_, state: &str| {
        find(&status.conditions, type_).is_some_and(|condition| condition.status == state)
    };
    // Without a generation it compares none.
    let is_old = status
        .observed_generation
        .is_some_and(|it| it != generation);
    if is_old || is(Reconciling, "True") {
        "InProgress"
    } else if is(Stalled, "True") {
        "Failed"
    } else if is(Ready, "False") || is(Ready, "Unknown") {
        "InProgress"
    } else {
        "Current"
    }
}

fn line(scenario: &str, world: &World, argo_cd: &ArgoCd) -> String {
    let first = world.status();
    let later = world.status_after(&first, now() + DEADLINE);
    let seen = |status: &KafkaConsumerStatus| {
        let condition = |type_| find(&status.conditions, type_);
        let ready = condition(Ready).expect("Ready is always there");
        let beside = [Reconciling, Stalled].into_iter().filter_map(condition);
        let beside: String = beside.map(|it| format!(", {}", it.type_)).collect();
        format!(
            "Ready {} {}{beside}: kstatus {}, Argo CD {}",
            ready.status,
            ready.reason,
            kstatus(status, world.generation),
            argo_cd.health(status, world.generation).status
        )
    };
    let (first, later) = (seen(&first), seen(&later));
    match first == later {
        true => format!("{scenario}\n    {first}\n"),
        false => format!("{scenario}\n    {first}\n    after ten minutes: {later}\n"),
    }
}

#[test]
fn tools_see_each_scenario_as_it_was_reviewed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/status/ready.expected.txt");
    let argo_cd = ArgoCd::new();
    let lines = scenarios().into_iter();
    let lines: String = lines
        .map(|(scenario, world, _)| line(scenario, &world, &argo_cd))
        .collect();
    if std::env::var_os("PENSTOCK_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &lines).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let new: Vec<&str> = lines.lines().filter(|it| !expected.contains(it)).collect();
    assert!(
        expected == lines,
        "if it should, rewrite it with PENSTOCK_UPDATE_GOLDEN=1; new: {new:#?}"
    );
}

/// A broken consumer is never taken for a done one, nor a done one for one under way.
#[test]
fn a_consumer_is_ready_exactly_if_it_is_neither_reconciling_nor_stalled() {
    for (scenario, world, _) in scenarios() {
        let first = world.status();
        for status in [world.status_after(&first, now() + DEADLINE), first] {
            let ready = find(&status.conditions, Ready).unwrap();
            let beside: Vec<&Condition> = [Reconciling, Stalled]
                .into_iter()
                .filter_map(|type_| find(&status.conditions, type_))
                .collect();
            let expected = usize::from(ready.status != "True");
            assert_eq!(beside.len(), expected, "{scenario}: {beside:?}");
            for condition in beside {
                assert_eq!(condition.status, "True", "{scenario}");
                assert_eq!(condition.reason, ready.reason, "{scenario}");
                assert_eq!(condition.message, ready.message, "{scenario}");
            }
            let is_rolled_out = status.conditions.iter().any(|it| it.reason == "Complete");
            assert!(is_rolled_out || ready.status == "False", "{scenario}");
        }
    }
}

fn missing() -> World {
    World::resolved(Resolution::Missing(vec!["orders".into()]))
}

fn after(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

fn states(status: &KafkaConsumerStatus) -> (bool, bool, &str) {
    let condition = |type_| find(&status.conditions, type_);
    let ready = condition(Ready).expect("it is always there");
    let (reconciling, stalled) = (condition(Reconciling), condition(Stalled));
    (reconciling.is_some(), stalled.is_some(), &ready.reason)
}

#[test]
fn an_obstacle_stalls_a_consumer_after_ten_minutes_until_it_is_gone() {
    let first = missing().status();
    assert_eq!(states(&first), (true, false, "TopicNotFound"));
    let just_before = missing().status_after(&first, after(599));
    assert_eq!(just_before, first);
    let stalled = missing().status_after(&just_before, after(600));
    assert_eq!(states(&stalled), (false, true, "TopicNotFound"));
    let still = missing().status_after(&stalled, after(5000));
    assert_eq!(still, stalled);
    let starting = World::starting().status_after(&still, after(5001));
    assert_eq!(states(&starting), (true, false, "RollingOut"));
    let running = World::running().status_after(&starting, after(5002));
    assert_eq!(states(&running), (false, false, "HandlersReady"));
}

#[test]
fn another_manifest_or_another_obstacle_begins_the_ten_minutes_again() {
    let first = missing().status();
    let corrected = World {
        generation: 5,
        ..missing()
    };
    let second = corrected.status_after(&first, after(599));
    assert_eq!(states(&second), (true, false, "TopicNotFound"));
    assert_eq!(
        find(&second.conditions, Reconciling)
            .unwrap()
            .last_transition_time
            .0,
        after(599)
    );
    let third = corrected.status_after(&second, after(600));
    assert_eq!(states(&third), (true, false, "TopicNotFound"));
    let stalled = corrected.status_after(&third, after(1199));
    assert_eq!(states(&stalled), (false, true, "TopicNotFound"));

    let image = World::troubled(Reason::ImagePullFailed, "not found; correct the image");
    let pods = image.status_after(&first, after(599));
    assert_eq!(states(&pods), (true, false, "ImagePullFailed"));
    let pods = image.status_after(&pods, after(1198));
    assert_eq!(states(&pods), (true, false, "ImagePullFailed"));
    let pods = image.status_after(&pods, after(1199));
    assert_eq!(states(&pods), (false, true, "ImagePullFailed"));
}

/// The Deployment has its own deadline, which counts from the last progress.
#[test]
fn a_rollout_that_makes_progress_never_stalls_here() {
    let world = World {
        rollout: Some(Rollout {
            updated: 1,
            ..rollout(3)
        }),
        ..World::running()
    };
    let first = world.status();
    assert_eq!(states(&first), (true, false, "RollingOut"));
    assert_eq!(world.status_after(&first, after(36_000)), first);
}

/// A pod that is ready for some seconds and ends again, beside two that work or none.
#[test]
fn a_crash_loop_is_never_ready_and_stalls_a_consumer_whichever_phase_is_seen() {
    for others in [0, 2] {
        let pods = others + 1;
        let phase = |seconds: i64| {
            let at = after(seconds);
            // It waits for 20 seconds, and runs for 10.
            let waits = seconds % 30 < 20;
            let loops = Trouble {
                trusted: (!waits).then(|| at + SignedDuration::from_secs(20)),
                ..trouble(Reason::ConsumerFailed, "x", Some(at))
            };
            World {
                replicas: u32::try_from(pods).unwrap(),
                rollout: Some(Rollout {
                    ready: pods - i32::from(waits),
                    settled: Some(seconds_ago(3600)),
                    ..rollout(pods)
                }),
                troubles: vec![loops],
                ..World::running()
            }
        };
        let mut status = World::running().status();
        for seconds in (0..1200).step_by(10) {
            status = phase(seconds).status_after(&status, after(seconds));
            let (reconciling, stalled, reason) = states(&status);
            assert_eq!(
                (reconciling, stalled),
                (seconds < 600, seconds >= 600),
                "{reason} of {pods} pods after {seconds} s"
            );
        }
        let works = World {
            replicas: u32::try_from(pods).unwrap(),
            rollout: Some(rollout(pods)),
            troubles: vec![trouble(Reason::ConsumerFailed, "x", Some(after(1180)))],
            ..World::running()
        };
        let status = works.status_after(&status, after(1220));
        assert_eq!(states(&status), (false, false, "Restarting"), "it is over");
    }
}

/// The Deployment watches no deadline any more.
#[test]
fn a_pod_that_stays_unready_after_the_rollout_stalls_the_consumer() {
    let settled = |ready| World {
        rollout: Some(Rollout {
            ready,
            settled: Some(seconds_ago(-60)),
            ..rollout(3)
        }),
        ..World::running()
    };
    let first = settled(1).status();
    assert_eq!(states(&first), (true, false, "RollingOut"));
    let (key, consumer) = (Key::new("shop", "orders"), consumer(3));
    let world = settled(1);
    let left = forgets_at(&world.seen(&key, &consumer, now()), &first);
    assert_eq!(
        left,
        Some(Duration::from_secs(601)),
        "by the operator's clock"
    );

    let before = settled(1).status_after(&first, after(659));
    assert_eq!(before, first);
    let progress = settled(2).status_after(&before, after(659));
    let one_more = settled(2).status_after(&progress, after(1258));
    assert_eq!(states(&one_more), (true, false, "RollingOut"));
    let stalled = settled(2).status_after(&one_more, after(1259));
    assert_eq!(states(&stalled), (false, true, "Stalled"));
    let message = &find(&stalled.conditions, Stalled).unwrap().message;
    let remedy = "see kubectl -n shop describe pods -l penstock.dev/consumer=orders";
    assert!(message.contains(remedy), "{message}");
    let still = settled(1).status_after(&stalled, after(5000));
    assert_eq!(states(&still), (false, true, "Stalled"));
    let moves = settled(2).status_after(&still, after(5001));
    assert_eq!(
        states(&moves),
        (true, false, "RollingOut"),
        "one more is ready"
    );
}

#[test]
fn earlier_pods_are_waited_for_until_they_should_have_ended() {
    let world = World {
        leaving: vec![after(30), after(90)],
        ..World::running()
    };
    let (key, consumer) = (Key::new("shop", "orders"), consumer(3));
    let first = world.status();
    assert_eq!(states(&first), (true, false, "RollingOut"));
    let left = forgets_at(&world.seen(&key, &consumer, now()), &first);
    assert_eq!(left, Some(Duration::from_secs(31)));
    let second = world.status_after(&first, after(89));
    assert_eq!(states(&second), (true, false, "RollingOut"));
    let done = world.status_after(&second, after(90));
    assert_eq!(states(&done), (false, false, "HandlersReady"));
}

/// A pod may take an hour to end.
#[test]
fn pods_that_end_slowly_neither_stall_a_consumer_nor_keep_the_operator_busy() {
    let (key, consumer) = (Key::new("shop", "orders"), consumer(3));
    let world = |ready| World {
        leaving: vec![after(3600)],
        rollout: Some(Rollout {
            ready,
            settled: Some(seconds_ago(3600)),
            ..rollout(3)
        }),
        ..World::running()
    };
    let first = world(3).status();
    let later = world(3).status_after(&first, after(900));
    assert_eq!(states(&later), (true, false, "RollingOut"));
    let left = forgets_at(&world(3).seen(&key, &consumer, after(900)), &later);
    assert_eq!(
        left,
        Some(Duration::from_secs(2701)),
        "when it should have ended"
    );

    let unready = world(2).status_after(&later, after(901));
    assert_eq!(states(&unready), (true, false, "RollingOut"));
    let unready = world(2).status_after(&unready, after(1500));
    assert_eq!(states(&unready), (true, false, "RollingOut"));
    let stalled = world(2).status_after(&unready, after(1501));
    assert_eq!(states(&stalled), (false, true, "Stalled"));
}

/// The Deployment watches no deadline before the first new pod.
#[test]
fn an_old_pod_that_never_ends_stalls_a_consumer_whose_pods_are_recreated() {
    let (key, consumer) = (Key::new("shop", "orders"), consumer(3));
    let world = World {
        leaving: vec![after(60)],
        rollout: Some(Rollout {
            recreates: true,
            ..rollout(0)
        }),
        ..World::running()
    };
    let first = world.status();
    assert_eq!(states(&first), (true, false, "RollingOut"));
    let ended = world.status_after(&first, after(60));
    let left = forgets_at(&world.seen(&key, &consumer, after(60)), &ended);
    assert_eq!(left, Some(Duration::from_secs(601)));
    let waits = world.status_after(&ended, after(659));
    assert_eq!(states(&waits), (true, false, "RollingOut"));
    let stalled = world.status_after(&waits, after(660));
    assert_eq!(states(&stalled), (false, true, "Stalled"));
}

#[test]
fn a_pass_is_made_when_a_container_that_was_restarted_counts_again() {
    let (key, consumer) = (Key::new("shop", "orders"), consumer(3));
    let world = World {
        troubles: vec![Trouble {
            trusted: Some(after(60)),
            ..trouble(Reason::HandlerFailed, "x", Some(seconds_ago(5)))
        }],
        ..World::running()
    };
    let first = world.status();
    assert_eq!(states(&first), (true, false, "Restarting"));
    let left = forgets_at(&world.seen(&key, &consumer, now()), &first);
    assert_eq!(left, Some(Duration::from_secs(61)));
    let second = world.status_after(&first, after(60));
    assert_eq!(states(&second), (false, false, "Restarting"), "it is ready");
}

#[test]
fn a_pass_is_made_when_an_obstacle_has_lasted_for_ten_minutes() {
    let (key, consumer) = (Key::new("shop", "orders"), consumer(3));
    let left = |world: &World, status: &KafkaConsumerStatus, at| {
        forgets_at(&world.seen(&key, &consumer, at), status)
    };
    let world = missing();
    let first = world.status();
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(left(&world, &first, now()), seconds(601));
    assert_eq!(left(&world, &first, after(590)), seconds(11));
    let stalled = world.status_after(&first, after(601));
    assert_eq!(left(&world, &stalled, after(601)), None);
    let starting = World::starting();
    assert_eq!(left(&starting, &starting.status(), now()), None);
}

#[test]
fn a_consumer_that_the_operator_has_not_seen_is_under_way() {
    let crd = serde_json::to_value(penstock_crds::crd::crd()).expect("JSON");
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let status = schema["properties"]["status"]["default"].clone();
    let status: KafkaConsumerStatus = serde_json::from_value(status).expect("a status");
    assert_eq!(kstatus(&status, 1), "InProgress");
}
