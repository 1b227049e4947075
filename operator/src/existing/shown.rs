//! One of Penstock's objects as the API server shows it. Everything but its record is dropped while
//! it is read, so a page of a list is never held as whole objects.

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

/// The kept part of an object, and its name.
#[derive(Clone, Debug)]
pub struct Shown {
    metadata: ObjectMeta,
    record: Record,
    /// Only meaningful for a Deployment.
    rollout: Rollout,
}

impl Shown {
    /// Extracts the kept part of an object.
    ///
    /// # Errors
    /// Returns an error if the object's metadata are not valid.
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

    /// Returns the record of the object. Lists omit the kind, so the caller passes it.
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
