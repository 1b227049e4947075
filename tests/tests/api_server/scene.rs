//! What the tests share.

use std::error::Error;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, ObjectMeta, PostParams};
use kube::{Client, Resource, ResourceExt};
use penstock_crds::spec::KafkaConsumer;
use penstock_tests::Manifest;
use penstock_tests::kafka_mock::MockKafka;
use penstock_tests::kubernetes::ControlPlane;
use penstock_tests::operator::{Builder, Operator};
use penstock_tests::topics::unique;
use penstock_tests::wait;
use tokio::sync::OnceCell;

/// Longest time for what takes seconds on a quiet machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The topic that there is.
pub const TOPIC: &str = "orders";

/// The API server that most tests use, with the CRD.
pub async fn shared() -> Result<&'static ControlPlane, Box<dyn Error>> {
    static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
    SHARED.get_or_try_init(with_crd).await
}

/// An API server with the CRD.
pub async fn with_crd() -> Result<ControlPlane, Box<dyn Error>> {
    let control_plane = ControlPlane::start().await?;
    control_plane.install_crd().await?;
    Ok(control_plane)
}

/// A client, a namespace, a Kafka.
pub struct Scene {
    pub client: Client,
    pub namespace: String,
    pub kafka: MockKafka,
}

impl Scene {
    /// On the shared API server.
    pub async fn new(stem: &str) -> Result<Self, Box<dyn Error>> {
        Self::on(shared().await?, stem).await
    }

    /// On an API server of the test's own.
    pub async fn on(control_plane: &ControlPlane, stem: &str) -> Result<Self, Box<dyn Error>> {
        let client = control_plane.client().await?;
        let namespace = unique(stem);
        let object = Namespace {
            metadata: ObjectMeta {
                name: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        Api::all(client.clone())
            .create(&PostParams::default(), &object)
            .await?;
        Ok(Self {
            client,
            namespace,
            kafka: MockKafka::start([TOPIC])?,
        })
    }

    /// An operator that looks after the namespace, and has its Lease there.
    pub fn operator(&self, control_plane: &ControlPlane) -> Builder {
        Operator::with(control_plane.kubeconfig())
            .watch_namespace(&self.namespace)
            .namespace(&self.namespace)
    }

    /// A consumer in order.
    pub fn in_order(&self) -> Manifest {
        Manifest::in_order(&self.kafka.bootstrap(), "billing.orders", TOPIC)
    }

    /// A consumer with two replicas, so that it has an object of every kind.
    pub fn fast(&self) -> Manifest {
        Manifest::fast(&self.kafka.bootstrap(), "billing.orders", TOPIC, 4).set("/replicas", 2)
    }

    /// Creates a consumer.
    pub async fn create(&self, manifest: &Manifest, name: &str) -> Result<(), Box<dyn Error>> {
        let object = serde_json::from_str(&manifest.named(name))?;
        let api = self.consumers_as_written();
        api.create(&PostParams::default(), &object).await?;
        Ok(())
    }

    /// The consumers, of whatever structure.
    pub fn consumers_as_written(&self) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<KafkaConsumer>(&());
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// Returns the names of the ConfigMaps of a consumer.
    pub async fn config_maps(&self, consumer: &str) -> Result<Vec<String>, Box<dyn Error>> {
        let own = ListParams::default().labels(&format!("penstock.dev/consumer={consumer}"));
        let found = self.api::<ConfigMap>().list(&own).await?;
        Ok(found.iter().map(ResourceExt::name_any).collect())
    }

    /// Objects of a kind in the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Waits until an object is as it should be, and gives it.
    pub async fn wait_for<K>(
        &self,
        name: &str,
        what: &str,
        condition: impl Fn(&K) -> bool,
    ) -> Result<K, Box<dyn Error>>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + serde::Serialize,
    {
        let api = self.api::<K>();
        let what = format!("{what} of {} {name}", K::kind(&()));
        Ok(
            wait::value(what, LIMIT, async || match api.get(name).await {
                Ok(object) if condition(&object) => Ok(object),
                Ok(object) => Err(serde_json::to_string(&object).unwrap_or_default()),
                Err(error) => Err(error.to_string()),
            })
            .await?,
        )
    }

    /// Waits until the consumer's status is of its present spec.
    pub async fn wait_until_reconciled(&self, name: &str) -> Result<KafkaConsumer, Box<dyn Error>> {
        self.wait_for(name, "a status", |consumer: &KafkaConsumer| {
            let status = consumer.status.as_ref();
            let observed = status.and_then(|status| status.observed_generation);
            observed.is_some() && observed == consumer.meta().generation
        })
        .await
    }

    /// Waits until a condition has a reason, and gives it.
    pub async fn wait_for_reason(
        &self,
        name: &str,
        type_: &str,
        reason: &str,
    ) -> Result<Condition, Box<dyn Error>> {
        let found = |consumer: &KafkaConsumer| {
            let conditions = &consumer.status.as_ref()?.conditions;
            let mut conditions = conditions.iter();
            conditions
                .find(|condition| condition.type_ == type_ && condition.reason == reason)
                .cloned()
        };
        let what = format!("{type_} with reason {reason}");
        let consumer = self
            .wait_for(name, &what, |consumer: &KafkaConsumer| {
                found(consumer).is_some()
            })
            .await?;
        found(&consumer).ok_or_else(|| what.into())
    }
}

/// Version and generation, which tell whether somebody wrote.
pub fn version(object: &impl Resource) -> (Option<String>, Option<i64>) {
    (object.resource_version(), object.meta().generation)
}
