//! Applying and pruning: the objects that exist become those that ought to.

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

/// ReplicaSets in one answer of the API server.
const PAGE: u32 = 20;

/// Why the objects are not as they ought to be.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// An object of this name is somebody else's.
    #[error(
        "a {kind} named '{name}' exists and does not belong to this KafkaConsumer; delete or rename it, or rename the KafkaConsumer"
    )]
    Foreign {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// An object of an earlier consumer of this name is about to go.
    #[error("the {kind} '{name}' of an earlier KafkaConsumer of this name is not gone yet")]
    Leaving {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The API server refuses the object, and will go on to.
    #[error("the API server refuses {kind} '{name}': {message}{remedy}")]
    Refused {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What it says.
        message: String,
        /// What to do, from `; ` on, where that is known.
        remedy: &'static str,
    },
    /// A request failed, and may succeed later.
    #[error("{action} {kind} '{name}' failed: {source}")]
    Request {
        /// What was attempted.
        action: &'static str,
        /// Kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why.
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

/// Returns `true` if the object was replaced by another of its name: the API server says that
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
            "; grant the operator what its chart's roles list, or see which admission policy objects"
        }
        _ => "",
    }
}

/// Makes a consumer's objects what they ought to be.
pub struct Applier<'a> {
    /// The client.
    pub client: &'a Client,
    /// What exists.
    pub existing: &'a Existing,
    /// The ConfigMaps that pods read.
    pub replica_sets: &'a ReplicaSets,
    /// The consumer.
    pub consumer: &'a Key,
    /// Its unique id.
    pub uid: &'a str,
}

impl Applier<'_> {
    /// Applies those objects that are not as they ought to be, in order. Returns the first
    /// error about an object that pods can run without: such an object holds up no other.
    ///
    /// # Errors
    /// The first about an object that pods need; those after it are not attempted.
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

    /// Deletes those of the consumer's objects that it no longer needs.
    ///
    /// # Errors
    /// When a deletion fails other than because the object is gone or another.
    pub async fn prune(&self, objects: &[Object]) -> Result<(), ApplyError> {
        let mut unused = self.unneeded(objects);
        unused.retain(|(kind, key, _)| *kind != Kind::ConfigMap || !self.may_be_read(&key.name));
        // The next pass, which the watch brings on, deletes more.
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

    /// Returns `true` if pods may read this ConfigMap, now or after a rollback: a ReplicaSet
    /// names it, or one that does may still be created, since the Deployment's controller has
    /// not seen the Deployment as it is now.
    fn may_be_read(&self, name: &str) -> bool {
        let deployment = self.existing.get(Kind::Deployment, self.consumer);
        let rollout = deployment.and_then(|record| record.rollout);
        let is_settled = rollout.is_some_and(|rollout| rollout.observed >= rollout.generation);
        let sets = self.replica_sets;
        !is_settled || !sets.are_listed() || sets.name(self.consumer, name)
    }

    /// Returns the ConfigMaps that the consumer's ReplicaSets name, from the API server: the
    /// watch may be behind that of Deployments. In pages, as a tenant decides how large they
    /// are.
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

    /// Applies an object. Nothing of another owner is taken over, even if it has appeared
    /// since the check: with a uid, the request is about the very object that was checked.
    /// Without one there was none, so all fields are free, and a field that somebody owns by
    /// now ends the request with a conflict.
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

    /// Before an object is made: nothing of this name may be there that the watch
    /// does not show, because it lacks our label. The API server may answer from its
    /// memory, as it does for watches: it is asked for every object that is made. Returns
    /// the uid of the consumer's own object, if that is there.
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
        // It may be wanted again before the watch shows that it is gone.
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
