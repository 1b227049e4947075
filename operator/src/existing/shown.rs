//! An object of ours as the API server shows it, cut down to what is kept of it
//! while it is read: a page of a list is never held as whole objects.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::ApiResource;
use kube::core::DynamicResourceScope;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{Controller, Record, fields, hash};
use crate::build::Kind;
use crate::existing::deployment::Rollout;

/// What is kept of an object, and what names it.
#[derive(Clone, Debug)]
pub struct Shown {
    metadata: ObjectMeta,
    record: Record,
    /// Means something of a Deployment only.
    rollout: Rollout,
}

impl Shown {
    /// Cuts an object down.
    ///
    /// # Errors
    /// When its metadata are not such.
    pub fn of(object: &Value) -> serde_json::Result<Self> {
        let metadata = ObjectMeta::deserialize(&object["metadata"])?;
        let owners = metadata.owner_references.as_deref().unwrap_or_default();
        let record = Record {
            uid: metadata.uid.as_deref().unwrap_or_default().into(),
            controller: Controller::among(owners),
            fields: hash(&fields::owned(object, crate::NAME)),
            rollout: None,
        };
        Ok(Self {
            metadata: ObjectMeta {
                name: metadata.name,
                namespace: metadata.namespace,
                uid: metadata.uid,
                resource_version: metadata.resource_version,
                ..ObjectMeta::default()
            },
            record,
            rollout: Rollout::of(object),
        })
    }

    /// What is kept of it, given its kind, which lists leave out.
    pub(super) fn record(&self, kind: Kind) -> Record {
        Record {
            rollout: (kind == Kind::Deployment).then(|| self.rollout.clone().into()),
            ..self.record.clone()
        }
    }
}

impl<'de> Deserialize<'de> for Shown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Value::deserialize(deserializer)?;
        Self::of(&object).map_err(D::Error::custom)
    }
}

impl Resource for Shown {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
