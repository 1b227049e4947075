//! The name of a consumer in the operator's maps and queues.

use std::fmt;
use std::sync::Arc;

use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt as _};

use crate::read::Found;

/// A namespace and a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl Key {
    /// Creates the key of an object.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Returns the key of an object from the API server.
    pub fn of(object: &impl Resource) -> Self {
        Self::new(
            object.meta().namespace.as_deref().unwrap_or_default(),
            &object.name_any(),
        )
    }

    /// Returns the key of an entry in the controller's queue.
    pub fn of_reference(reference: &ObjectRef<Found>) -> Self {
        Self::new(
            reference.namespace.as_deref().unwrap_or_default(),
            &reference.name,
        )
    }

    /// Returns the reference that the controller's queue needs.
    pub fn reference(&self) -> ObjectRef<Found> {
        ObjectRef::new(&self.name).within(&self.namespace)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
