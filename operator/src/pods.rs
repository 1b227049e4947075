//! The failures of consumers' pods, read from their status.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt as _;
use parking_lot::RwLock;
use penstock_runtime::EndCode;

use crate::build::{CONSUMER_LABEL, HANDLER, RUNTIME};
use crate::key::Key;
use crate::reason::Reason;

/// A failure of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The reason that the condition has.
    pub reason: Reason,
    /// The message of the kubelet or the container, and the remedy.
    pub message: String,
    /// The time at which the container ended, if that is the failure.
    pub ended: Option<Timestamp>,
}

/// The pods of all consumers: their failures, and their deletions.
#[derive(Default)]
pub struct Pods {
    troubles: RwLock<HashMap<Key, BTreeMap<String, Trouble>>>,
    /// Pods that are being deleted and still run.
    leaving: RwLock<HashMap<Key, BTreeSet<String>>>,
}

impl Pods {
    /// Returns the failures of a consumer's pods, the most significant first.
    pub fn troubles(&self, consumer: &Key) -> Vec<Trouble> {
        let troubles = self.troubles.read();
        let mut troubles: Vec<Trouble> = troubles
            .get(consumer)
            .into_iter()
            .flat_map(|pods| pods.values().cloned())
            .collect();
        troubles.sort_by_key(|trouble| (rank(trouble.reason), trouble.ended));
        troubles
    }

    /// Returns the number of a consumer's pods that are being deleted and still run: the
    /// Deployment does not count them.
    pub fn leaving(&self, consumer: &Key) -> usize {
        self.leaving.read().get(consumer).map_or(0, BTreeSet::len)
    }

    /// Notes a pod that the watch showed. Returns its consumer if its state has changed.
    pub fn saw(&self, pod: &Pod) -> Option<Key> {
        let consumer = consumer_of(pod)?;
        let leaves = self.note_leaving(&consumer, &pod.name_any(), is_leaving(pod));
        let mut troubles = self.troubles.write();
        let pods = troubles.entry(consumer.clone()).or_default();
        let before = match trouble(pod) {
            Some(trouble) => pods.insert(pod.name_any(), trouble),
            None => pods.remove(&pod.name_any()),
        };
        let changed = before.as_ref() != pods.get(&pod.name_any());
        if pods.is_empty() {
            troubles.remove(&consumer);
        }
        (changed || leaves).then_some(consumer)
    }

    /// Notes that a pod is gone. Returns its consumer if it had failed or was being deleted.
    pub fn gone(&self, pod: &Pod) -> Option<Key> {
        let consumer = consumer_of(pod)?;
        let left = self.note_leaving(&consumer, &pod.name_any(), false);
        let troubled = self.remove(&consumer, |name| name == pod.name_any());
        (left || troubled.is_some()).then_some(consumer)
    }

    /// Notes a complete list of pods: a pod that is not in it is gone. Returns the consumers whose
    /// state has changed.
    pub fn listed(&self, names: &HashSet<Key>) -> Vec<Key> {
        let consumers: Vec<Key> = self.troubles.read().keys().cloned().collect();
        let troubled = consumers.into_iter().filter_map(|consumer| {
            let namespace = consumer.namespace.clone();
            self.remove(&consumer, |pod| !names.contains(&Key::new(&namespace, pod)))
        });
        let left = {
            let leaving = self.leaving.read();
            let pods = leaving
                .iter()
                .flat_map(|(consumer, pods)| pods.iter().map(move |pod| (consumer, pod)));
            let gone =
                pods.filter(|(consumer, pod)| !names.contains(&Key::new(&consumer.namespace, pod)));
            gone.map(|(consumer, pod)| (consumer.clone(), pod.clone()))
                .collect::<Vec<_>>()
        };
        let left = left.into_iter().filter_map(|(consumer, pod)| {
            self.note_leaving(&consumer, &pod, false)
                .then_some(consumer)
        });
        let changed: BTreeSet<Key> = troubled.chain(left).collect();
        changed.into_iter().collect()
    }

    /// Notes whether a pod is being deleted. Returns `true` if that has changed.
    fn note_leaving(&self, consumer: &Key, pod: &str, leaves: bool) -> bool {
        let mut leaving = self.leaving.write();
        if leaves {
            let pods = leaving.entry(consumer.clone()).or_default();
            return pods.insert(pod.to_owned());
        }
        let Some(pods) = leaving.get_mut(consumer) else {
            return false;
        };
        let known = pods.remove(pod);
        if pods.is_empty() {
            leaving.remove(consumer);
        }
        known
    }

    fn remove(&self, consumer: &Key, which: impl Fn(&str) -> bool) -> Option<Key> {
        let mut troubles = self.troubles.write();
        let pods = troubles.get_mut(consumer)?;
        let before = pods.len();
        pods.retain(|name, _| !which(name));
        let changed = pods.len() != before;
        if pods.is_empty() {
            troubles.remove(consumer);
        }
        changed.then(|| consumer.clone())
    }
}

/// Returns the consumer of a pod, by its label.
fn consumer_of(pod: &Pod) -> Option<Key> {
    let name = pod.metadata.labels.as_ref()?.get(CONSUMER_LABEL)?;
    Some(Key::new(pod.metadata.namespace.as_deref()?, name))
}

/// Returns `true` if a pod is being deleted and its containers still run.
fn is_leaving(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let ended = matches!(phase, Some("Succeeded" | "Failed"));
    pod.metadata.deletion_timestamp.is_some() && !ended
}

/// Returns the rank of a reason: a poison message is more significant than a pod that waits.
fn rank(reason: Reason) -> u8 {
    match reason {
        Reason::ConsumerFailed => 0,
        Reason::HandlerFailed => 1,
        Reason::ImagePullFailed | Reason::ContainerRefused => 2,
        Reason::Unschedulable => 3,
        _ => 4,
    }
}

/// Returns the most significant failure of a pod.
fn trouble(pod: &Pod) -> Option<Trouble> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = pod.status.as_ref()?;
    let mains = status.container_statuses.iter().flatten();
    let sidecars = status.init_container_statuses.iter().flatten();
    let containers: Vec<&ContainerStatus> = mains.chain(sidecars).collect();
    containers
        .iter()
        .find_map(|container| ended(container))
        .or_else(|| containers.iter().find_map(|container| waiting(container)))
        .or_else(|| {
            containers
                .iter()
                .find_map(|container| not_started(container))
        })
        .or_else(|| unschedulable(pod))
}

/// Returns the failure of a container that ended with an error, also if it was started again.
fn ended(container: &ContainerStatus) -> Option<Trouble> {
    let last = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        state.as_ref().and_then(|state| state.terminated.clone())
    };
    let end = last(&container.state).or_else(|| last(&container.last_state))?;
    if end.exit_code == 0 {
        return None;
    }
    let words = last_words(&end);
    let (reason, remedy) = match container.name.as_str() {
        RUNTIME => (Reason::ConsumerFailed, runtime_remedy(&words)),
        _ => (
            Reason::HandlerFailed,
            "see kubectl logs --previous of container 'handler'".into(),
        ),
    };
    let remedy = match end.reason.as_deref() {
        Some("OOMKilled") => "it had too little memory; raise the container's memory limit".into(),
        _ => remedy,
    };
    Some(Trouble {
        reason,
        message: format!(
            "container '{}' ended {}: {words}; {remedy}",
            container.name,
            times(container.restart_count),
        ),
        ended: end.finished_at.map(|time| time.0),
    })
}

/// Returns the remedy for an error of the runtime, by the code at its end. A failed message has
/// one remedy. The error of another code names its own, and the page of codes has the details.
fn runtime_remedy(words: &str) -> Cow<'static, str> {
    let name = words
        .rsplit_once("(code=")
        .and_then(|(_, end)| end.strip_suffix(')'));
    let code = EndCode::ALL.iter().find(|code| Some(code.name()) == name);
    match code {
        None | Some(EndCode::MessageFailed) => {
            "correct the handler or the message, or set spec.delivery.onFailure to Skip or DeadLetter".into()
        }
        Some(code) => format!("see {code} in docs/troubleshooting.md").into(),
    }
}

fn times(restarts: i32) -> String {
    match restarts {
        0 | 1 => "once".to_owned(),
        2 => "twice".to_owned(),
        more => format!("{more} times"),
    }
}

/// Returns the container's last message in one line, or otherwise how it ended.
fn last_words(end: &ContainerStateTerminated) -> String {
    let words = end.message.as_deref().unwrap_or_default();
    let mut words = words.lines().map(str::trim).filter(|line| !line.is_empty());
    match words.next_back() {
        Some(line) if end.reason.as_deref() != Some("OOMKilled") => {
            line.strip_prefix("error: ").unwrap_or(line).to_owned()
        }
        _ => format!(
            "exit code {} ({})",
            end.exit_code,
            end.reason.as_deref().unwrap_or("unknown")
        ),
    }
}

/// Returns the failure of a container that the kubelet can't start.
fn waiting(container: &ContainerStatus) -> Option<Trouble> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let (reason, remedy) = match waiting.reason.as_deref()? {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => (
            Reason::ImagePullFailed,
            "correct the image, or name the Secret to pull it with in spec.pod.imagePullSecrets",
        ),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => (
            Reason::ContainerRefused,
            "correct the container's settings in spec.handler or spec.pod",
        ),
        _ => return None,
    };
    let image = match reason {
        Reason::ImagePullFailed => format!(" (image '{}')", container.image),
        _ => String::new(),
    };
    Some(Trouble {
        reason,
        message: format!(
            "container '{}'{image} can't be started: {}; {remedy}",
            container.name,
            waiting.message.as_deref().unwrap_or("no reason given"),
        ),
        ended: None,
    })
}

/// Returns the failure of a handler that runs and has not accepted a connection yet.
fn not_started(container: &ContainerStatus) -> Option<Trouble> {
    let running = container.state.as_ref()?.running.is_some();
    let started = container.started.unwrap_or_default();
    (container.name == HANDLER && running && !started).then(|| Trouble {
        reason: Reason::HandlerNotStarted,
        message: "container 'handler' runs but its startup probe has not succeeded; it must accept connections on spec.handler.port at the pod's own address (0.0.0.0, not 127.0.0.1), or have a spec.handler.startupProbe".into(),
        ended: None,
    })
}

fn unschedulable(pod: &Pod) -> Option<Trouble> {
    let conditions = pod.status.as_ref()?.conditions.iter().flatten();
    let scheduled = conditions
        .filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .find(|condition| condition.reason.as_deref() == Some("Unschedulable"))?;
    Some(Trouble {
        reason: Reason::Unschedulable,
        message: format!(
            "no node takes the pod: {}; lower the requests, or change spec.pod's placement",
            scheduled.message.as_deref().unwrap_or("no reason given"),
        ),
        ended: None,
    })
}

#[cfg(test)]
mod tests {
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
        assert_eq!(pods.leaving(&consumer), 1);
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
            assert_eq!(pods.leaving(&consumer), 1);
            assert!(end(&pods), "it is news");
            assert_eq!(pods.leaving(&consumer), 0);
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
}
