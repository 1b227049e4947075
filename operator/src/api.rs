//! The objects that the operator watches: in the whole cluster, or in one namespace.

use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, ApiResource};
use kube::{Client, Resource};

use crate::existing::Shown;

/// The client of the API server, and the namespaces that the operator watches.
#[derive(Clone)]
pub struct Scope {
    /// The client.
    pub client: Client,
    /// The only namespace; `None` for all namespaces.
    pub namespace: Option<String>,
}

impl Scope {
    /// Returns the API of a kind in all watched namespaces.
    pub fn all<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// Returns the API of a kind of Penstock's objects in all watched namespaces, as
    /// [`all`](Self::all) does.
    pub fn all_shown(&self, resource: &ApiResource) -> Api<Shown> {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        }
    }

    /// Returns the API of a kind in one namespace.
    pub fn within<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }
}
