//! Applies the desired objects and prunes the others.

use std::collections::HashSet;

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::api::{
    Api, DeleteParams, GetParams, ListParams, PartialObjectMeta, Patch, PatchParams, Preconditions,
};
use kube::core::response::StatusCause;
use kube::{Client, Resource as _};
use penstock_crds::spec::KafkaConsumer;
use thiserror::Error;

use crate::NAME;
use crate::build::{self, Kind, Object};
use crate::existing::{Controller, Existing, Record, Shown};
use crate::key::Key;
use crate::replica_sets::{ReplicaSets, own_config_maps};

/// The maximum number of objects that one pass deletes.
const MAX_PRUNED: usize = 10;

/// The number of ReplicaSets in one answer of the API server.
const PAGE: u32 = 20;

/// The error of objects that do not have the desired state.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// Another owner has an object with this name.
    #[error(
        "a {kind} named '{name}' exists and does not belong to this KafkaConsumer; delete or rename it, or rename the KafkaConsumer"
    )]
    Foreign {
        /// The kind of the object.
        kind: &'static str,
        /// The name of the object.
        name: String,
    },
    /// An object of an earlier consumer with this name is being deleted.
    #[error("the {kind} '{name}' of an earlier KafkaConsumer of this name is not gone yet")]
    Leaving {
        /// The kind of the object.
        kind: &'static str,
        /// The name of the object.
        name: String,
    },
    /// The API server refuses the object, and will refuse it again.
    #[error("the API server refuses {kind} '{name}': {message}{remedy}")]
    Refused {
        /// The kind of the object.
        kind: &'static str,
        /// The name of the object.
        name: String,
        /// The API server's message.
        message: String,
        /// The remedy, beginning with `; `, if it is known.
        remedy: &'static str,
    },
    /// A request failed, and may succeed later.
    #[error("{action} {kind} '{name}' failed: {source}")]
    Request {
        /// The attempted action.
        action: &'static str,
        /// The kind of the object.
        kind: &'static str,
        /// The name of the object.
        name: String,
        /// The error.
        source: Box<kube::Error>,
    },
}

impl ApplyError {
    fn request(action: &'static str, kind: Kind, name: &str, source: kube::Error) -> Self {
        if let kube::Error::Api(status) = &source
            && matches!(status.code, 400 | 403 | 422)
            && !is_another_object(status)
        {
            return Self::Refused {
                kind: kind.name(),
                name: name.to_owned(),
                message: status.message.clone(),
                remedy: remedy(status),
            };
        }
        Self::Request {
            action,
            kind: kind.name(),
            name: name.to_owned(),
            source: Box::new(source),
        }
    }
}

/// Returns `true` if the object was replaced by another with its name: the API server reports that
/// its uid can't change.
fn is_another_object(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes
        .into_iter()
        .any(|cause| cause.field == "metadata.uid")
}

fn remedy(status: &kube::core::Status) -> &'static str {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let terminating = |cause: &StatusCause| cause.reason == "NamespaceTerminating";
    match status {
        _ if causes.into_iter().any(terminating) => "; the namespace is being deleted",
        status if status.message.contains("exceeded quota") => {
            "; raise the namespace's ResourceQuota or free some of it"
        }
        status if status.code == 403 => {
            "; grant the operator the rights of its chart's roles, or correct the admission policy that refuses the object"
        }
        _ => "",
    }
}

/// Brings a consumer's objects to the desired state.
pub struct Applier<'a> {
    /// The client.
    pub client: &'a Client,
    /// The existing objects.
    pub existing: &'a Existing,
    /// The ConfigMaps that the pods of each ReplicaSet read.
    pub replica_sets: &'a ReplicaSets,
    /// The consumer.
    pub consumer: &'a Key,
    /// The consumer's unique id.
    pub uid: &'a str,
}

impl Applier<'_> {
    /// Applies the objects that differ from the desired state, in their order. Returns the first
    /// error of an object that pods can run without: such an object delays no other.
    ///
    /// # Errors
    /// Returns the first error of an object that pods need. Objects after it are not attempted.
    pub async fn apply(&self, objects: &[Object]) -> Result<Option<ApplyError>, ApplyError> {
        let mut first = None;
        for object in objects {
            match self.bring_up(object).await {
                Ok(()) => {}
                Err(error) if object.kind.is_needed_by_pods() => return Err(error),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Ok(first)
    }

    async fn bring_up(&self, object: &Object) -> Result<(), ApplyError> {
        let key = Key::new(&self.consumer.namespace, &object.name);
        let uid = match self.existing.get(object.kind, &key) {
            Some(record) => {
                self.check_owner(object.kind, &object.name, record.controller.as_ref())?;
                if self.existing.is_current(&record, object, &key) {
                    return Ok(());
                }
                Some(record.uid.to_string())
            }
            None => self.find_own(object).await?,
        };
        self.apply_one(object, uid).await
    }

    /// Deletes the consumer's objects that it no longer needs.
    ///
    /// # Errors
    /// Returns an error if a deletion fails, unless the object is gone or another has its name.
    pub async fn prune(&self, objects: &[Object]) -> Result<(), ApplyError> {
        let mut unused = self.unneeded(objects);
        unused.retain(|(kind, key, _)| *kind != Kind::ConfigMap || !self.may_be_read(&key.name));
        // The watch causes the next pass, which deletes more.
        unused.truncate(MAX_PRUNED);
        let is_config_map = |kind: Kind| kind == Kind::ConfigMap;
        if unused.iter().any(|(kind, ..)| is_config_map(*kind)) {
            let named = self.named_by_replica_sets().await?;
            unused.retain(|(kind, key, _)| !is_config_map(*kind) || !named.contains(&*key.name));
        }
        for (kind, key, record) in unused {
            self.delete(kind, &key, &record).await?;
        }
        Ok(())
    }

    /// Returns the consumer's objects that are not among these.
    fn unneeded(&self, objects: &[Object]) -> Vec<(Kind, Key, Record)> {
        let of = |kind| {
            let own = self.existing.of_consumer(kind, self.consumer).into_iter();
            own.map(move |(key, record)| (kind, key, record))
        };
        let mut own: Vec<_> = Kind::ALL.into_iter().flat_map(of).collect();
        own.retain(|(kind, key, record)| {
            let is_this = |object: &Object| object.kind == *kind && *object.name == *key.name;
            let owner = record.controller.as_ref();
            let is_own = owner.is_some_and(|owner| *owner.uid == *self.uid);
            is_own && !objects.iter().any(is_this)
        });
        own
    }

    /// Returns `true` if pods may read this ConfigMap, now or after a rollback: a ReplicaSet names
    /// it, or the Deployment's controller may still create one that does, because it has not
    /// observed the current Deployment.
    fn may_be_read(&self, name: &str) -> bool {
        let deployment = self.existing.get(Kind::Deployment, self.consumer);
        let rollout = deployment.and_then(|record| record.rollout);
        let is_settled = rollout.is_some_and(|rollout| rollout.observed >= rollout.generation);
        let sets = self.replica_sets;
        !is_settled || !sets.are_listed() || sets.name(self.consumer, name)
    }

    /// Returns the ConfigMaps that the consumer's ReplicaSets name, from the API server: the watch
    /// of ReplicaSets may be behind that of Deployments. The answer is read in pages, because a
    /// tenant decides its size.
    async fn named_by_replica_sets(&self) -> Result<HashSet<String>, ApplyError> {
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &self.consumer.namespace);
        let selector = build::selector(&self.consumer.name);
        let mut page = ListParams::default().labels(&selector).limit(PAGE);
        let mut named = HashSet::new();
        loop {
            let sets = api.list(&page).await.map_err(|source| {
                ApplyError::request(
                    "listing the ReplicaSets before deleting",
                    Kind::ConfigMap,
                    &self.consumer.name,
                    source,
                )
            })?;
            named.extend(
                sets.items
                    .iter()
                    .flat_map(|set| own_config_maps(set, self.consumer)),
            );
            match sets.metadata.continue_ {
                Some(next) if !next.is_empty() => page = page.continue_token(&next),
                _ => return Ok(named),
            }
        }
    }

    fn api(&self, kind: Kind) -> Api<Shown> {
        let namespace = &self.consumer.namespace;
        Api::namespaced_with(self.client.clone(), namespace, &kind.resource())
    }

    /// Applies an object, and never takes over an object of another owner, even if it appeared
    /// after the check. With a uid, the request is about the very object that was checked. Without
    /// one there was no object, so all fields are free. If another client owns a field by now, the
    /// request ends with a conflict.
    async fn apply_one(&self, object: &Object, uid: Option<String>) -> Result<(), ApplyError> {
        let mut body = object.body.clone();
        let mut params = PatchParams::apply(NAME);
        if let Some(uid) = uid {
            body["metadata"]["uid"] = uid.into();
            params = params.force();
        }
        let patch = Patch::Apply(&body);
        let answer = self
            .api(object.kind)
            .patch(&object.name, &params, &patch)
            .await
            .map_err(|source| ApplyError::request("applying", object.kind, &object.name, source))?;
        self.existing.applied(object, &answer);
        tracing::info!(
            consumer = %self.consumer,
            "applied {} '{}'",
            object.kind.name(),
            object.name
        );
        Ok(())
    }

    /// Looks for an object before it is created. An object without Penstock's label may have its
    /// name, and the watch does not show it. The API server may answer from its cache, as it does
    /// for watches. Returns the uid of the consumer's own object, if it exists.
    async fn find_own(&self, object: &Object) -> Result<Option<String>, ApplyError> {
        let found: Option<PartialObjectMeta<Shown>> = self
            .api(object.kind)
            .get_metadata_opt_with(&object.name, &GetParams::any())
            .await
            .map_err(|source| ApplyError::request("reading", object.kind, &object.name, source))?;
        let Some(found) = found else {
            return Ok(None);
        };
        let controller = Controller::of(&found);
        self.check_owner(object.kind, &object.name, controller.as_ref())?;
        Ok(found.meta().uid.clone())
    }

    fn check_owner(
        &self,
        kind: Kind,
        name: &str,
        controller: Option<&Controller>,
    ) -> Result<(), ApplyError> {
        let (kind, name) = (kind.name(), name.to_owned());
        match controller {
            Some(owner) if *owner.uid == *self.uid => Ok(()),
            Some(owner) if owner.kind == KafkaConsumer::kind(&()) => {
                Err(ApplyError::Leaving { kind, name })
            }
            Some(_) | None => Err(ApplyError::Foreign { kind, name }),
        }
    }

    async fn delete(&self, kind: Kind, key: &Key, record: &Record) -> Result<(), ApplyError> {
        let name: &str = &key.name;
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(record.uid.to_string()),
                resource_version: None,
            }),
            ..DeleteParams::background()
        };
        match self.api(kind).delete(name, &params).await {
            Ok(_) => tracing::info!(consumer = %self.consumer, "deleted {} '{name}'", kind.name()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(source) => return Err(ApplyError::request("deleting", kind, name, source)),
        }
        // The object may be needed again before the watch shows that it is gone.
        self.existing.deleted(kind, key, &record.uid);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refused(status: Value) -> ApplyError {
        let status: kube::core::Status = serde_json::from_value(status).unwrap();
        let error = kube::Error::Api(Box::new(status));
        ApplyError::request("applying", Kind::Deployment, "orders", error)
    }

    #[test]
    fn what_the_api_server_refuses_is_told_with_the_remedy_that_is_known() {
        let terminating = json!({ "causes": [{ "reason": "NamespaceTerminating" }] });
        let cases = [
            (
                403,
                "it is being terminated",
                terminating,
                "; the namespace is being deleted",
            ),
            (
                403,
                "exceeded quota: small",
                json!({}),
                "; raise the namespace's ResourceQuota",
            ),
            (403, "User cannot patch", json!({}), "; grant the operator"),
            (
                422,
                "mountPath: must be unique",
                json!({}),
                "must be unique",
            ),
        ];
        for (code, message, details, end) in cases {
            let status = json!({ "code": code, "message": message, "details": details });
            let error = refused(status);
            assert!(matches!(error, ApplyError::Refused { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(message) && text.contains(end), "{text}");
        }
    }

    #[test]
    fn what_may_pass_is_not_taken_for_a_refusal() {
        let another = json!({ "causes": [{ "field": "metadata.uid" }] });
        let busy = [404, 409, 429, 500, 503].map(|code| (code, json!({})));
        for (code, details) in busy.into_iter().chain([(422, another)]) {
            let error = refused(json!({ "code": code, "message": "busy", "details": details }));
            assert!(
                matches!(error, ApplyError::Request { .. }),
                "{code}: {error}"
            );
        }
    }
}
