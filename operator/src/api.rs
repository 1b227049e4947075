//! Where the operator looks: the whole cluster, or one namespace.

use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, ApiResource};
use kube::{Client, Resource};

use crate::existing::Shown;

/// The client, and the namespaces that the operator looks after.
#[derive(Clone)]
pub struct Scope {
    /// The client.
    pub client: Client,
    /// The only namespace; absent: all.
    pub namespace: Option<String>,
}

impl Scope {
    /// Objects of a kind in all namespaces that are looked after.
    pub fn all<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// As [`all`](Self::all), for objects of ours, whose kind is known by its
    /// description.
    pub fn all_shown(&self, resource: &ApiResource) -> Api<Shown> {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        }
    }

    /// Objects of a kind in one namespace.
    pub fn within<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }
}
