//! The only writer of statuses. It writes when something other than a time
//! differs, and tells of transitions by events.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use penstock_crds::spec::{KafkaConsumer, KafkaConsumerStatus};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::NAME;
use crate::api::Scope;
use crate::events::Events;
use crate::key::Key;
use crate::read::Found;

/// The status could not be written.
#[derive(Debug, Error)]
#[error("writing the status failed: {0}")]
pub struct StatusError(#[source] pub Box<kube::Error>);

/// What became of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It stands so already, or the consumer is gone.
    Unchanged,
    /// It was written.
    Written,
    /// Somebody changed the consumer at the same time: try again soon.
    Conflict,
}

/// Writes statuses.
#[derive(Default)]
pub struct StatusWriter {
    /// What was written and has not come back by the watch yet.
    unseen: Mutex<HashMap<Key, Written>>,
}

struct Written {
    uid: Option<String>,
    version: Option<String>,
    status: KafkaConsumerStatus,
}

impl StatusWriter {
    /// The status as it stands: what was last written, if the watch is behind.
    pub fn current(&self, key: &Key, found: &Found) -> KafkaConsumerStatus {
        match self.unseen.lock().get(key) {
            // Not that of an earlier consumer of this name.
            Some(written) if written.uid == found.uid() => written.status.clone(),
            _ => found.status().into_owned(),
        }
    }

    /// Notes that the watch showed the consumer.
    pub fn saw(&self, found: &Found) {
        let key = Key::of(found);
        let mut unseen = self.unseen.lock();
        if let Some(written) = unseen.get(&key)
            && written.version == found.resource_version()
        {
            unseen.remove(&key);
        }
    }

    /// Notes that a consumer is gone.
    pub fn forget(&self, key: &Key) {
        self.unseen.lock().remove(key);
    }

    /// Writes `after` unless `before` says the same.
    ///
    /// # Errors
    /// When the API server does not take it. A consumer that is gone is no error.
    pub async fn write(
        &self,
        scope: &Scope,
        events: &Events,
        found: &Found,
        before: &KafkaConsumerStatus,
        after: KafkaConsumerStatus,
    ) -> Result<Outcome, StatusError> {
        if *before == after {
            return Ok(Outcome::Unchanged);
        }
        let key = Key::of(found);
        let api: Api<KafkaConsumer> = scope.within(&key.namespace);
        let patch = json!({
            // Not the status of another consumer that has taken the name.
            "metadata": { "uid": found.uid() },
            "status": with_nulls(before, &after),
        });
        let params = PatchParams {
            field_manager: Some(NAME.to_owned()),
            ..PatchParams::default()
        };
        let answer: Result<kube::api::PartialObjectMeta<KafkaConsumer>, _> = scope
            .client
            .request(status_request(&api, &key, &params, &patch)?)
            .await;
        match answer {
            Ok(answer) => {
                let written = Written {
                    uid: found.uid(),
                    version: answer.resource_version(),
                    status: after.clone(),
                };
                self.unseen.lock().insert(key, written);
            }
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Outcome::Unchanged),
            Err(kube::Error::Api(status)) if status.code == 409 => return Ok(Outcome::Conflict),
            Err(error) => return Err(StatusError(Box::new(error))),
        }
        for condition in transitions(&before.conditions, &after.conditions) {
            events.transition(found, condition).await;
        }
        Ok(Outcome::Written)
    }
}

/// The answer is read as metadata alone: an object that can't be read has a
/// status too.
fn status_request(
    api: &Api<KafkaConsumer>,
    key: &Key,
    params: &PatchParams,
    patch: &Value,
) -> Result<http::Request<Vec<u8>>, StatusError> {
    let request = kube::core::Request::new(api.resource_url());
    request
        .patch_subresource("status", &key.name, params, &Patch::Merge(patch))
        .map_err(|error| StatusError(Box::new(kube::Error::BuildRequest(error))))
}

/// In a merge patch a field that is gone must be null.
fn with_nulls(before: &KafkaConsumerStatus, after: &KafkaConsumerStatus) -> Value {
    let mut patch = fields(after);
    for name in fields(before).keys() {
        patch.entry(name.clone()).or_insert(Value::Null);
    }
    Value::Object(patch)
}

fn fields(status: &KafkaConsumerStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// The conditions whose state or reason is new.
fn transitions<'a>(
    before: &'a [meta::Condition],
    after: &'a [meta::Condition],
) -> impl Iterator<Item = &'a meta::Condition> {
    after.iter().filter(|condition| {
        let same = |before: &&meta::Condition| {
            before.type_ == condition.type_
                && before.status == condition.status
                && before.reason == condition.reason
        };
        !before.iter().any(|before| same(&before))
    })
}
