//! Very many KafkaConsumers on one API server.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{
    Api, ApiResource, DynamicObject, ListParams, ObjectMeta, PartialObjectMeta, PostParams,
};
use kube::{Client, Resource, ResourceExt};
use penstock_crds::spec::KafkaConsumer;

use crate::Manifest;

/// Consumers in one namespace.
const PER_NAMESPACE: usize = 250;

/// Topics that they read between them.
const TOPICS: usize = 50;

/// Requests at once.
const CONCURRENCY: usize = 16;

/// Objects in one page of a list.
const PAGE: u32 = 500;

/// The fleet can't be made or looked at.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The API server does not answer, or refuses.
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    /// A manifest is no object.
    #[error("the manifest: {0}")]
    Manifest(#[from] serde_json::Error),
}

/// The topics that the consumers read.
pub fn topics() -> impl Iterator<Item = String> {
    (0..TOPICS).map(|number| format!("topic-{number}"))
}

/// Consumers, half of them in order, half of them Fast with two replicas.
pub struct Fleet {
    client: Client,
    count: usize,
}

impl Fleet {
    /// Creates `count` consumers in as many namespaces as that needs. They read
    /// [`topics`] of the Kafka at `bootstrap`, each in a group of its own.
    ///
    /// # Errors
    /// [`FleetError`] for the first that is not taken.
    pub async fn create(client: Client, bootstrap: &str, count: usize) -> Result<Self, FleetError> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        for number in 0..count.div_ceil(PER_NAMESPACE) {
            let namespace = Namespace {
                metadata: ObjectMeta {
                    name: Some(namespace(number * PER_NAMESPACE)),
                    ..ObjectMeta::default()
                },
                ..Namespace::default()
            };
            namespaces
                .create(&PostParams::default(), &namespace)
                .await?;
        }
        let resource = ApiResource::erase::<KafkaConsumer>(&());
        stream::iter(0..count)
            .map(|number| {
                let api: Api<DynamicObject> =
                    Api::namespaced_with(client.clone(), &namespace(number), &resource);
                async move {
                    let manifest = manifest(bootstrap, number).named(&name(number));
                    let object = serde_json::from_str(&manifest)?;
                    api.create(&PostParams::default(), &object).await?;
                    Ok::<_, FleetError>(())
                }
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect::<()>()
            .await?;
        Ok(Self { client, count })
    }

    /// How many objects the operator has to make of them.
    pub fn objects(&self) -> usize {
        let fast = self.count / 2;
        3 * self.count + fast
    }

    /// How many consumers have a status of their present generation.
    ///
    /// # Errors
    /// [`FleetError`] when they can't be listed.
    pub async fn reconciled(&self) -> Result<usize, FleetError> {
        let resource = ApiResource::erase::<KafkaConsumer>(&());
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        let mut reconciled = 0;
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = api.list(&params).await?;
            reconciled += page
                .iter()
                .filter(|consumer| {
                    let observed = consumer.data["status"]["observedGeneration"].as_i64();
                    observed.is_some() && observed == consumer.metadata.generation
                })
                .count();
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(reconciled),
            }
        }
    }

    /// The versions of all consumers, and of all objects that the operator made: equal
    /// ones mean that nobody wrote in between.
    ///
    /// # Errors
    /// [`FleetError`] when they can't be listed.
    pub async fn versions(&self) -> Result<Versions, FleetError> {
        let made = ListParams::default().labels("app.kubernetes.io/managed-by=penstock");
        let mut versions = Versions::default();
        self.list::<KafkaConsumer>(ListParams::default(), &mut versions.consumers)
            .await?;
        let objects = &mut versions.objects;
        self.list::<ConfigMap>(made.clone(), objects).await?;
        self.list::<Service>(made.clone(), objects).await?;
        self.list::<Deployment>(made.clone(), objects).await?;
        self.list::<PodDisruptionBudget>(made, objects).await?;
        Ok(versions)
    }

    async fn list<K>(
        &self,
        params: ListParams,
        into: &mut BTreeMap<String, String>,
    ) -> Result<(), FleetError>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let mut params = params.limit(PAGE);
        loop {
            let page = api.list_metadata(&params).await?;
            into.extend(page.items.iter().map(version::<K>));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(()),
            }
        }
    }
}

/// Versions of objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// Of the consumers.
    pub consumers: BTreeMap<String, String>,
    /// Of what the operator made.
    pub objects: BTreeMap<String, String>,
}

fn version<K: Resource<DynamicType = ()>>(object: &PartialObjectMeta<K>) -> (String, String) {
    let namespace = object.namespace().unwrap_or_default();
    let name = format!("{}/{namespace}/{}", K::kind(&()), object.name_any());
    let versions = (object.uid(), object.resource_version());
    (name, format!("{versions:?}"))
}

fn namespace(number: usize) -> String {
    format!("fleet-{}", number / PER_NAMESPACE)
}

fn name(number: usize) -> String {
    format!("consumer-{number}")
}

/// With what consumers usually have: variables, resources, retries.
fn manifest(bootstrap: &str, number: usize) -> Manifest {
    let group = format!("fleet.{}", name(number));
    let topic = format!("topic-{}", number % TOPICS);
    let manifest = match number % 2 {
        0 => Manifest::in_order(bootstrap, &group, &topic),
        _ => Manifest::fast(bootstrap, &group, &topic, 16).set("/replicas", 2),
    };
    manifest
        .set("/handler/image", "registry.example/billing:1.4")
        .set("/handler/port", 8080)
        .set("/handler/resources/requests/cpu", "100m")
        .set("/handler/resources/requests/memory", "64Mi")
        .set("/handler/resources/limits/memory", "128Mi")
        .set(
            "/handler/env",
            serde_json::json!([
                { "name": "DATABASE", "value": "postgres.billing.svc:5432" },
                { "name": "LOG_LEVEL", "value": "info" },
            ]),
        )
        .set("/delivery/maxAttempts", 5)
        .set("/pod/labels/team", "billing")
}
