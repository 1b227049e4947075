//! How a consumer does, as its status and its pods tell.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::task::spawn_blocking;

use super::{ClusterError, Namespace, command};
use crate::wait;

/// A condition of a KafkaConsumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, for programs.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// Since when it is in this state.
    pub since: String,
}

/// A pod of a consumer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its unique id.
    pub uid: String,
    /// How often its containers were started again.
    pub restarts: i64,
    /// Where it is, from its start on.
    pub address: Option<IpAddr>,
}

impl Namespace {
    /// The pods of a consumer that are not about to go, by name.
    ///
    /// # Errors
    /// [`ClusterError::Command`] when they can't be listed.
    pub fn pods(&self, consumer: &str) -> Result<Vec<Pod>, ClusterError> {
        let selector = format!("penstock.dev/consumer={consumer}");
        let list = self.json(&["get", "pods", "-l", &selector])?;
        let pods = list["items"].as_array().into_iter().flatten();
        let mut pods: Vec<Pod> = pods
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .map(pod)
            .collect();
        pods.sort();
        Ok(pods)
    }

    /// The `generation` of a consumer's Deployment: it counts the changes of its spec.
    ///
    /// # Errors
    /// [`ClusterError::Command`] when there is none.
    pub fn generation(&self, deployment: &str) -> Result<i64, ClusterError> {
        let deployment = self.json(&["get", "deployment", deployment])?;
        Ok(deployment["metadata"]["generation"].as_i64().unwrap_or(0))
    }

    /// A condition of a consumer; nothing when it has none of that type.
    ///
    /// # Errors
    /// [`ClusterError::Command`] when there is no such consumer.
    pub fn condition(
        &self,
        consumer: &str,
        type_: &str,
    ) -> Result<Option<Condition>, ClusterError> {
        Ok(find(&self.json(&["get", "kc", consumer])?, type_))
    }

    /// Waits until a condition of a consumer, of its present generation, has this
    /// reason, and a message with all of `parts` in it.
    ///
    /// # Errors
    /// [`ClusterError::TimedOut`] after `limit`, with the condition as it is then.
    pub async fn wait_for_reason(
        &self,
        consumer: &str,
        type_: &str,
        reason: &str,
        parts: &[&str],
        limit: Duration,
    ) -> Result<Condition, ClusterError> {
        let what = format!("{consumer} to be {type_} with {reason}, saying {parts:?}");
        let found = wait::value(what, limit, async || {
            let mut get = self.kubectl();
            get.args(["get", "kc", consumer, "-o", "json"]);
            let text = spawn_blocking(move || command::run(&mut get)).await;
            let text = text.map_err(|error| error.to_string())?;
            let object = text
                .and_then(|text| parse(&text))
                .map_err(|error| error.to_string())?;
            let is_current =
                object["status"]["observedGeneration"] == object["metadata"]["generation"];
            match find(&object, type_) {
                Some(condition)
                    if is_current
                        && condition.reason == reason
                        && parts.iter().all(|part| condition.message.contains(part)) =>
                {
                    Ok(condition)
                }
                condition => Err(format!("{condition:?}")),
            }
        });
        Ok(found.await?)
    }

    /// Waits for an event of type Warning about a consumer. It tells of conditions that
    /// have passed too.
    ///
    /// # Errors
    /// [`ClusterError::TimedOut`] after `limit`, with the warnings that there are.
    pub async fn wait_for_warning(
        &self,
        consumer: &str,
        reason: &str,
        limit: Duration,
    ) -> Result<(), ClusterError> {
        let object = format!(
            "type=Warning,involvedObject.kind=KafkaConsumer,involvedObject.name={consumer}"
        );
        let what = format!("a warning {reason} about {consumer}");
        let found = wait::value(what, limit, async || {
            let mut get = self.kubectl();
            get.args(["get", "events", "-o", "jsonpath={.items[*].reason}"]);
            get.args(["--field-selector", &object]);
            let reasons = spawn_blocking(move || command::run(&mut get)).await;
            let reasons = reasons
                .map_err(|error| error.to_string())?
                .map_err(|error| error.to_string())?;
            match reasons.split_whitespace().any(|seen| seen == reason) {
                true => Ok(()),
                false => Err(reasons),
            }
        });
        Ok(found.await?)
    }

    /// What kubectl writes with `-o json`.
    ///
    /// # Errors
    /// [`ClusterError::Command`] when it fails.
    pub fn json(&self, arguments: &[&str]) -> Result<Value, ClusterError> {
        parse(&self.run_kubectl(arguments.iter().chain(&["-o", "json"]))?)
    }
}

fn parse(text: &str) -> Result<Value, ClusterError> {
    serde_json::from_str(text).map_err(|error| ClusterError::io("what kubectl wrote")(error.into()))
}

fn find(consumer: &Value, type_: &str) -> Option<Condition> {
    let conditions = consumer["status"]["conditions"].as_array()?;
    let found = conditions
        .iter()
        .find(|condition| condition["type"] == type_)?;
    Some(Condition {
        status: text(&found["status"]),
        reason: text(&found["reason"]),
        message: text(&found["message"]),
        since: text(&found["lastTransitionTime"]),
    })
}

fn pod(pod: &Value) -> Pod {
    let containers = ["containerStatuses", "initContainerStatuses"]
        .into_iter()
        .flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
    Pod {
        name: text(&pod["metadata"]["name"]),
        uid: text(&pod["metadata"]["uid"]),
        restarts: containers
            .filter_map(|container| container["restartCount"].as_i64())
            .sum(),
        address: text(&pod["status"]["podIP"]).parse().ok(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
