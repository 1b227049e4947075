//! What tests see of the consumer `orders`, as users would.

use std::error::Error;
use std::net::IpAddr;

use penstock_tests::kubernetes::Installation;
use penstock_tests::promtext::{self, Exposition};
use penstock_tests::{page, wait};
use serde_json::Value;

use crate::{LIMIT, Outcome, Scene};

/// Selects everything that the operator makes for it.
pub(crate) const SELECTOR: &str = "penstock.dev/consumer=orders";

/// Where the operator serves its page.
const OPERATOR_PORT: u16 = 8080;

/// Where the runtime does.
const RUNTIME_PORT: u16 = 6060;

/// A condition of a consumer.
#[derive(Debug)]
pub(crate) struct Condition {
    pub(crate) status: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// A pod that is not about to end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pod {
    pub(crate) uid: String,
    pub(crate) address: Option<IpAddr>,
    /// Ends of its containers so far.
    pub(crate) restarts: u64,
}

impl Scene {
    /// Waits until a condition has this reason.
    pub(crate) async fn wait_for_reason(
        &self,
        type_: &str,
        reason: &str,
    ) -> Result<Condition, Box<dyn Error>> {
        let wanted =
            format!(r#"jsonpath={{.status.conditions[?(@.type=="{type_}")].reason}}={reason}"#);
        self.namespace
            .wait_until("kc/orders", &wanted, LIMIT)
            .await?;
        self.condition(type_)
    }

    /// A condition as it is now.
    pub(crate) fn condition(&self, type_: &str) -> Result<Condition, Box<dyn Error>> {
        let consumer = self.namespace.get(["kc", "orders"])?;
        let conditions = consumer["status"]["conditions"].as_array();
        let condition = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == type_)
            .ok_or_else(|| format!("no condition {type_}: {consumer:#}"))?;
        Ok(Condition {
            status: text(&condition["status"]),
            reason: text(&condition["reason"]),
            message: text(&condition["message"]),
        })
    }

    /// Waits until the rollout of what was applied last is complete.
    pub(crate) async fn wait_until_complete(&self) -> Outcome {
        let consumer = self.namespace.get(["kc", "orders"])?;
        let generation = &consumer["metadata"]["generation"];
        let observed = format!("jsonpath={{.status.observedGeneration}}={generation}");
        self.namespace
            .wait_until("kc/orders", &observed, LIMIT)
            .await?;
        self.wait_for_reason("Progressing", "Complete").await?;
        Ok(())
    }

    /// Waits for an event of type Warning with this reason, whose note begins so.
    pub(crate) async fn wait_for_warning(&self, reason: &str, begin: &str) -> Outcome {
        // It is published after the status that tells the same.
        wait::value(format!("an event {reason}: {begin}"), LIMIT, async || {
            let warnings = self.warnings(reason).map_err(|error| error.to_string())?;
            match warnings.iter().any(|note| note.starts_with(begin)) {
                true => Ok(()),
                false => Err(format!("{warnings:?}")),
            }
        })
        .await?;
        Ok(())
    }

    fn warnings(&self, reason: &str) -> Result<Vec<String>, Box<dyn Error>> {
        let selector = format!("regarding.name=orders,type=Warning,reason={reason}");
        let events = ["events.events.k8s.io", "--field-selector", &selector];
        let events = self.namespace.get(events)?;
        Ok(items(&events).map(|event| text(&event["note"])).collect())
    }

    /// Its pods.
    pub(crate) fn pods(&self) -> Result<Vec<Pod>, Box<dyn Error>> {
        let pods = self.namespace.get(["pods", "-l", SELECTOR])?;
        let mut pods: Vec<Pod> = items(&pods)
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .map(pod)
            .collect();
        pods.sort();
        Ok(pods)
    }

    /// The names of its objects of a kind.
    pub(crate) fn names(&self, kind: &str) -> Result<Vec<String>, Box<dyn Error>> {
        let found = self.namespace.get([kind, "-l", SELECTOR])?;
        Ok(items(&found)
            .map(|object| text(&object["metadata"]["name"]))
            .collect())
    }

    /// A field of an object, by its JSON pointer.
    pub(crate) fn field(&self, object: &str, pointer: &str) -> Result<Value, Box<dyn Error>> {
        let found = self.namespace.get([object])?;
        Ok(found.pointer(pointer).cloned().unwrap_or_default())
    }
}

/// The page of one of its pods.
pub(crate) async fn runtime_page(pod: &Pod) -> Result<String, Box<dyn Error>> {
    let address = pod.address.ok_or("the pod has no address")?;
    let page = page::get_at((address, RUNTIME_PORT).into(), "/metrics").await?;
    Ok(page.body)
}

/// The page of the operator that leads.
pub(crate) async fn operator_page(installation: &Installation) -> Result<String, Box<dyn Error>> {
    let address = installation.address(&installation.leader()?)?;
    let page = page::get_at((address, OPERATOR_PORT).into(), "/metrics").await?;
    Ok(page.body)
}

/// How many messages a page says were handled with this outcome, over all topics.
pub(crate) fn processed(page: &str, success: bool) -> Result<f64, Box<dyn Error>> {
    let page: Exposition = promtext::parse(page)?;
    let success = [("kafka_success", if success { "true" } else { "false" })];
    let samples = page.samples("kafka_consumer_messages_processed_total", &success);
    Ok(samples.map(|sample| sample.value).sum())
}

pub(crate) fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn pod(pod: &Value) -> Pod {
    let status = &pod["status"];
    let restarts = ["containerStatuses", "initContainerStatuses"].map(|list| {
        let containers = status[list].as_array().into_iter().flatten();
        let counts = containers.filter_map(|container| container["restartCount"].as_u64());
        counts.sum::<u64>()
    });
    Pod {
        uid: text(&pod["metadata"]["uid"]),
        address: text(&status["podIP"]).parse().ok(),
        restarts: restarts.iter().sum(),
    }
}
