//! What tests see of the consumer `orders`, as users would.

use std::error::Error;

use penstock_tests::kubernetes::{Condition, Installation, Pod};
use penstock_tests::{page, promtext, wait};
use serde_json::Value;

use crate::{LIMIT, Outcome, Scene};

/// Selects everything that the operator makes for it.
pub(crate) const SELECTOR: &str = "penstock.dev/consumer=orders";

/// Where the operator serves its page.
const OPERATOR_PORT: u16 = 8080;

/// Where the runtime does.
const RUNTIME_PORT: u16 = 6060;

impl Scene {
    /// Waits until a condition has this reason.
    pub(crate) async fn wait_for_reason(
        &self,
        type_: &str,
        reason: &str,
    ) -> Result<Condition, Box<dyn Error>> {
        let found = self
            .namespace
            .wait_for_reason("orders", type_, reason, &[], LIMIT);
        Ok(found.await?)
    }

    /// A condition as it is now.
    pub(crate) fn condition(&self, type_: &str) -> Result<Condition, Box<dyn Error>> {
        let found = self.namespace.condition("orders", type_)?;
        Ok(found.ok_or_else(|| format!("no condition {type_}"))?)
    }

    /// Waits until the rollout of what was applied last is complete.
    pub(crate) async fn wait_until_complete(&self) -> Outcome {
        self.wait_for_reason("Progressing", "Complete").await?;
        Ok(())
    }

    /// Waits for an event of type Warning with this reason, whose note begins so.
    pub(crate) async fn wait_for_warning(&self, reason: &str, begin: &str) -> Outcome {
        // It is published after the status that tells the same.
        wait::value(format!("an event {reason}: {begin}"), LIMIT, async || {
            let notes = self.notes(reason).map_err(|error| error.to_string())?;
            match notes.iter().any(|note| note.starts_with(begin)) {
                true => Ok(()),
                false => Err(format!("{notes:?}")),
            }
        })
        .await?;
        Ok(())
    }

    fn notes(&self, reason: &str) -> Result<Vec<String>, Box<dyn Error>> {
        let selector = format!("regarding.name=orders,type=Warning,reason={reason}");
        let get = ["get", "events.events.k8s.io", "--field-selector", &selector];
        let events = self.namespace.json(&get)?;
        Ok(items(&events).map(|event| text(&event["note"])).collect())
    }

    /// Its pods.
    pub(crate) fn pods(&self) -> Result<Vec<Pod>, Box<dyn Error>> {
        Ok(self.namespace.pods("orders")?)
    }

    /// Its only pod.
    pub(crate) fn pod(&self) -> Result<Pod, Box<dyn Error>> {
        match <[Pod; 1]>::try_from(self.pods()?) {
            Ok([pod]) => Ok(pod),
            Err(pods) => Err(format!("not one pod: {pods:?}").into()),
        }
    }

    /// Waits until a container of its only pod, which is this, is started again, once.
    pub(crate) async fn wait_for_restart(&self, pod: &Pod) -> Outcome {
        wait::value("a container to be started again", LIMIT, async || {
            let now = self.pod().map_err(|error| error.to_string())?;
            match now.uid == pod.uid && now.restarts == 1 {
                true => Ok(()),
                false => Err(format!("{now:?}")),
            }
        })
        .await?;
        Ok(())
    }

    /// The names of its objects of a kind.
    pub(crate) fn names(&self, kind: &str) -> Result<Vec<String>, Box<dyn Error>> {
        let found = self.namespace.json(&["get", kind, "-l", SELECTOR])?;
        Ok(items(&found)
            .map(|object| text(&object["metadata"]["name"]))
            .collect())
    }

    /// Returns the name of the ConfigMap that the newest pods of a consumer read.
    pub(crate) fn config_map(&self, consumer: &str) -> Result<String, Box<dyn Error>> {
        let deployment = format!("deployment/{consumer}");
        let first_volume = "/spec/template/spec/volumes/0/configMap/name";
        Ok(text(&self.field(&deployment, first_volume)?))
    }

    /// A field of an object, by its JSON pointer.
    pub(crate) fn field(&self, object: &str, pointer: &str) -> Result<Value, Box<dyn Error>> {
        let found = self.namespace.json(&["get", object])?;
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
    let page = promtext::parse(page)?;
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
