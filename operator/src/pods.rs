//! The failures of consumers' pods, read from their status.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt as _;
use parking_lot::RwLock;
use penstock_runtime::EndCode;
use tokio::sync::watch;

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
    /// From when on the containers that have ended count as working again, if they run.
    pub trusted: Option<Timestamp>,
}

impl Trouble {
    /// Returns `true` while the trouble keeps its pod from working, or from counting as working.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.trusted.is_none_or(|trusted| trusted > now)
    }
}

/// The run after which the end of a container is no crash loop. The kubelet restarts such a
/// container without a back-off too.
const LONG_RUN: SignedDuration = SignedDuration::from_secs(600);

/// The maximum time for which a container that was restarted has to run before its pod counts as
/// ready: less than the time after which a consumer counts as stalled.
const MAX_PROBATION: SignedDuration = SignedDuration::from_secs(480);

/// How much longer than its grace period the end of a pod may take.
const END_SLACK: SignedDuration = SignedDuration::from_secs(30);

/// The pods of all consumers: their failures, and their deletions.
#[derive(Default)]
pub struct Pods {
    troubles: RwLock<HashMap<Key, BTreeMap<String, Trouble>>>,
    /// Pods that are being deleted and still run, and when each should have ended.
    leaving: RwLock<HashMap<Key, BTreeMap<String, Timestamp>>>,
    is_listed: watch::Sender<bool>,
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

    /// Returns when each of a consumer's pods that are being deleted and still run should have
    /// ended. The Deployment does not count these pods.
    pub fn leaving(&self, consumer: &Key) -> Vec<Timestamp> {
        let leaving = self.leaving.read();
        let pods = leaving.get(consumer);
        pods.map_or_else(Vec::new, |pods| pods.values().copied().collect())
    }

    /// Notes a pod that the watch showed. Returns its consumer if its state has changed.
    pub fn saw(&self, pod: &Pod) -> Option<Key> {
        let consumer = consumer_of(pod)?;
        let leaves = self.note_leaving(&consumer, &pod.name_any(), leaves_by(pod));
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
        let left = self.note_leaving(&consumer, &pod.name_any(), None);
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
                .flat_map(|(consumer, pods)| pods.keys().map(move |pod| (consumer, pod)));
            let gone =
                pods.filter(|(consumer, pod)| !names.contains(&Key::new(&consumer.namespace, pod)));
            gone.map(|(consumer, pod)| (consumer.clone(), pod.clone()))
                .collect::<Vec<_>>()
        };
        let left = left.into_iter().filter_map(|(consumer, pod)| {
            self.note_leaving(&consumer, &pod, None).then_some(consumer)
        });
        let changed: BTreeSet<Key> = troubled.chain(left).collect();
        self.is_listed.send_replace(true);
        changed.into_iter().collect()
    }

    /// Waits until pods have been listed once. Before, a pod that is missing here may have failed.
    pub async fn complete(&self) {
        let mut listed = self.is_listed.subscribe();
        // The sender lives as long as self.
        let _ = listed.wait_for(|is_listed| *is_listed).await;
    }

    /// Notes until when a pod that is being deleted may end. Returns `true` if that has changed.
    fn note_leaving(&self, consumer: &Key, pod: &str, by: Option<Timestamp>) -> bool {
        let mut leaving = self.leaving.write();
        if let Some(by) = by {
            let pods = leaving.entry(consumer.clone()).or_default();
            return pods.insert(pod.to_owned(), by) != Some(by);
        }
        let Some(pods) = leaving.get_mut(consumer) else {
            return false;
        };
        let known = pods.remove(pod).is_some();
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

/// Returns when a pod should have ended that is being deleted and whose containers still run.
fn leaves_by(pod: &Pod) -> Option<Timestamp> {
    // The API server sets the time to the end of the grace period.
    let deadline = pod.metadata.deletion_timestamp.as_ref()?.0;
    let by = deadline.checked_add(END_SLACK).unwrap_or(deadline);
    (!has_ended(pod)).then_some(by)
}

/// Returns `true` for a pod whose containers have ended and are not restarted.
fn has_ended(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
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
    let ended = || containers.iter().filter_map(|container| ended(container));
    let trusted = match has_ended(pod) {
        // The Deployment has started another pod in its place.
        true => Some(Timestamp::UNIX_EPOCH),
        false => ended().map(|it| it.trusted).reduce(later).flatten(),
    };
    let trouble = ended()
        .next()
        .or_else(|| containers.iter().find_map(|container| waiting(container)))
        .or_else(|| {
            containers
                .iter()
                .find_map(|container| not_started(container))
        })
        .or_else(|| unschedulable(pod))?;
    Some(Trouble { trusted, ..trouble })
}

/// Returns the later of two times; none if one is not known yet.
fn later(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    Some(one?.max(other?))
}

/// Returns the failure of a container that ended, also if it was started again. Neither the
/// runtime nor the handler should end while their pod stays: with exit code 0, a probe may have
/// failed.
fn ended(container: &ContainerStatus) -> Option<Trouble> {
    let last = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        state.as_ref().and_then(|state| state.terminated.clone())
    };
    let end = last(&container.state).or_else(|| last(&container.last_state))?;
    // An init container that a webhook has added ends by design.
    let is_ours = [RUNTIME, HANDLER].contains(&container.name.as_str());
    if end.exit_code == 0 && !is_ours {
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
        _ if end.exit_code == 0 => {
            "it ended by itself, or a probe failed; see kubectl describe pod, and kubectl logs --previous".into()
        }
        _ => remedy,
    };
    Some(Trouble {
        reason,
        message: format!(
            "container '{}' ended {}: {words}; {remedy}",
            container.name,
            times(container.restart_count),
        ),
        trusted: trusted_from(container, &end),
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

/// Returns when a container that was restarted counts as working: once it has run for twice as
/// long as the last time. So a container never does whose runs last about as long as each other.
fn trusted_from(container: &ContainerStatus, end: &ContainerStateTerminated) -> Option<Timestamp> {
    let running = container.state.as_ref()?.running.as_ref()?;
    let since = running.started_at.as_ref();
    let since = since.map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let last_run = match (&end.started_at, &end.finished_at) {
        (Some(started), Some(finished)) => finished.0.duration_since(started.0),
        _ => SignedDuration::ZERO,
    };
    let probation = match last_run >= LONG_RUN {
        true => SignedDuration::ZERO,
        false => (last_run * 2).clamp(SignedDuration::ZERO, MAX_PROBATION),
    };
    since.checked_add(probation).ok()
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
        trusted: None,
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
        trusted: None,
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
        trusted: None,
    })
}

#[cfg(test)]
mod tests;
