//! An operator with its API server and its Kafka.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::runtime::controller::Action;
use penstock_operator::api::Scope;
use penstock_operator::build::{Kind, RuntimeImage};
use penstock_operator::context::Context;
use penstock_operator::controller;
use penstock_operator::events::Events;
use penstock_operator::existing::Shown;
use penstock_operator::kafka::{BrokerPolicy, Directory, LagReader};
use penstock_operator::key::Key;
use penstock_operator::metrics::Metrics;
use penstock_operator::read::Found;
use penstock_operator::reconcile::{ReconcileError, reconcile};
use penstock_operator::triggers::Triggers;
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::fields::merge_patch;
use crate::server::ApiServer;

pub const NAMESPACE: &str = "shop";

/// How often topics are looked for.
pub const INTERVAL: Duration = Duration::from_secs(60);

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(30);

/// The operator's parts, with which a test can go through passes one by one.
pub struct World {
    pub api: ApiServer,
    pub kafka: MockCluster<'static, DefaultProducerContext>,
    pub context: Arc<Context>,
    pub woken: mpsc::UnboundedReceiver<Key>,
}

impl World {
    /// Kafka has the topic `orders`; nothing else is there.
    pub fn new() -> Self {
        let kafka = MockCluster::new(1).expect("a mock cluster starts");
        kafka.create_topic("orders", 1, 1).expect("a topic");
        Self::of(ApiServer::default(), kafka, BrokerPolicy::default())
    }

    /// As [`new`](Self::new), with an operator that may not connect to every broker.
    pub fn with_policy(policy: BrokerPolicy) -> Self {
        let world = Self::new();
        Self::of(world.api, world.kafka, policy)
    }

    /// The same objects and Kafka, and an operator that has just started.
    pub fn restarted(self) -> Self {
        Self::of(self.api, self.kafka, BrokerPolicy::default())
    }

    fn of(
        api: ApiServer,
        kafka: MockCluster<'static, DefaultProducerContext>,
        policy: BrokerPolicy,
    ) -> Self {
        let (triggers, woken) = Triggers::new();
        let context = Context {
            scope: Scope {
                client: api.client(),
                namespace: None,
            },
            runtime: RuntimeImage {
                image: "registry.example/penstock-runtime:0.1.0".into(),
                pull_policy: "IfNotPresent".into(),
                pull_secrets: Vec::new(),
            },
            existing: Default::default(),
            replica_sets: Default::default(),
            pods: Default::default(),
            secrets: Default::default(),
            siblings: Default::default(),
            kafka: Arc::new(Directory::new(INTERVAL, triggers.clone(), policy)),
            lags: Arc::new(LagReader::new(INTERVAL, triggers.clone())),
            statuses: Default::default(),
            events: Events::new(api.client(), "operator-1"),
            passes: Default::default(),
            backoffs: Default::default(),
            triggers,
            metrics: Metrics::new().expect("metrics"),
        };
        context.pods.listed(&HashSet::new());
        Self {
            api,
            kafka,
            context: Arc::new(context),
            woken,
        }
    }

    /// Somebody applies a consumer of `orders` with these changes to its spec, in another
    /// namespace.
    pub fn apply_in(&self, namespace: &str, name: &str, spec: Value) {
        self.api.put(
            "kafkaconsumers",
            json!({
                "apiVersion": "penstock.dev/v1alpha1",
                "kind": "KafkaConsumer",
                "metadata": { "name": name, "namespace": namespace },
                "spec": self.spec(name, spec),
            }),
        );
    }

    fn spec(&self, name: &str, changes: Value) -> Value {
        let mut spec = json!({
            "group": format!("billing.{name}"),
            "topics": ["orders"],
            "mode": "InOrder",
            "kafka": { "bootstrapServers": self.kafka.bootstrap_servers() },
            "handler": { "image": "registry.example/billing:1" },
        });
        merge_patch(&mut spec, &changes);
        spec
    }

    /// Somebody applies a consumer of `orders` with these changes to its spec.
    pub fn apply(&self, name: &str, changes: Value) {
        let spec = self.spec(name, changes);
        match self.api.get("kafkaconsumers", name) {
            Some(_) => self
                .api
                .edit("kafkaconsumers", name, |object| object["spec"] = spec),
            None => drop(self.api.put(
                "kafkaconsumers",
                json!({
                    "apiVersion": "penstock.dev/v1alpha1",
                    "kind": "KafkaConsumer",
                    "metadata": { "name": name, "namespace": NAMESPACE },
                    "spec": spec,
                }),
            )),
        }
    }

    pub fn found(&self, name: &str) -> Arc<Found> {
        let object = self
            .api
            .get("kafkaconsumers", name)
            .expect("the consumer is there");
        Arc::new(serde_json::from_value(object).expect("it can be read"))
    }

    /// The watches show everything that is there.
    pub fn show(&self) {
        for kind in Kind::ALL {
            let resource = kind.resource().plural;
            let objects = self.api.all(&resource).into_iter();
            let objects = objects.filter(|object| {
                object["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "penstock"
            });
            let objects: Vec<Shown> = objects
                .map(|object| serde_json::from_value(object).expect("an object"))
                .collect();
            objects.iter().for_each(|object| {
                self.context.existing.saw(kind, object);
            });
            let names: HashSet<Key> = objects.iter().map(Key::of).collect();
            self.context.existing.listed(kind, &names);
        }
        let sets = self.api.all("replicasets").into_iter();
        let sets: Vec<ReplicaSet> = sets
            .map(|object| serde_json::from_value(object).expect("a ReplicaSet"))
            .collect();
        for set in &sets {
            self.context.replica_sets.saw(set);
        }
        let names: HashSet<Key> = sets.iter().map(Key::of).collect();
        self.context.replica_sets.listed(&names);
    }

    /// The watches show everything, and then a pass is made.
    pub async fn pass(&self, name: &str) -> Result<Action, ReconcileError> {
        self.show();
        let found = self.found(name);
        self.context.saw(&found);
        reconcile(found, Arc::clone(&self.context)).await
    }

    /// A condition's status and reason, as the API server has them.
    pub fn condition(&self, name: &str, type_: &str) -> Option<(String, String)> {
        let object = self.api.get("kafkaconsumers", name)?;
        let conditions = object["status"]["conditions"].as_array()?.clone();
        let condition = conditions
            .into_iter()
            .find(|condition| condition["type"] == type_)?;
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        Some((text("status"), text("reason")))
    }

    pub fn message(&self, name: &str, type_: &str) -> String {
        let object = self
            .api
            .get("kafkaconsumers", name)
            .expect("the consumer is there");
        let conditions = object["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let condition = conditions
            .into_iter()
            .find(|condition| condition["type"] == type_);
        condition.map_or_else(String::new, |condition| {
            condition["message"].as_str().unwrap_or_default().to_owned()
        })
    }

    /// The Deployment's pods are all ready.
    pub fn all_ready(&self, name: &str) {
        self.api.edit("deployments", name, |object| {
            let replicas = object["spec"]["replicas"].clone();
            object["status"] = json!({
                "observedGeneration": object["metadata"]["generation"],
                "replicas": replicas,
                "updatedReplicas": replicas,
                "readyReplicas": replicas,
            });
        });
    }

    /// The name of the ConfigMap that the newest pods read.
    pub fn config_map(&self, name: &str) -> String {
        let deployment = self.api.get("deployments", name).unwrap_or_default();
        let volume = &deployment["spec"]["template"]["spec"]["volumes"][0];
        let name = volume["configMap"]["name"].as_str();
        name.unwrap_or_default().to_owned()
    }

    /// The Deployment's controller makes a ReplicaSet of the newest template.
    pub fn replica_set(&self, name: &str, replica_set: &str) {
        let deployment = self.api.get("deployments", name).expect("it is there");
        let template = deployment["spec"]["template"].clone();
        self.api.put(
            "replicasets",
            json!({
                "metadata": {
                    "name": replica_set,
                    "namespace": NAMESPACE,
                    "labels": template["metadata"]["labels"],
                },
                "spec": { "selector": {}, "template": template },
            }),
        );
    }

    /// The lag in the consumer's status.
    pub fn lag(&self, name: &str) -> Option<i64> {
        self.api.get("kafkaconsumers", name)?["status"]["lag"].as_i64()
    }

    /// Writes so many messages to `orders`.
    pub async fn produce(&self, count: i64) {
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", self.kafka.bootstrap_servers())
            .create()
            .expect("a producer");
        for _ in 0..count {
            let record: FutureRecord<'_, (), str> = FutureRecord::to("orders").payload("{}");
            let sent = producer.send(record, Duration::from_secs(10)).await;
            sent.expect("it is written");
        }
    }

    /// Starts the controller with its queue and watches.
    pub fn run(self) -> Running {
        let stop = CancellationToken::new();
        let (synced, is_synced) = tokio::sync::oneshot::channel();
        let ran = controller::run(
            Arc::clone(&self.context),
            self.woken,
            stop.clone(),
            move || {
                let _ = synced.send(());
            },
        );
        let mut task = JoinSet::new();
        task.spawn(ran);
        Running {
            world: World {
                api: self.api,
                kafka: self.kafka,
                context: self.context,
                woken: mpsc::unbounded_channel().1,
            },
            stop,
            task,
            is_synced,
        }
    }
}

/// A world whose operator works, until it is dropped.
pub struct Running {
    pub world: World,
    pub stop: CancellationToken,
    pub task: JoinSet<()>,
    pub is_synced: tokio::sync::oneshot::Receiver<()>,
}

impl Running {
    /// Waits until something holds.
    pub async fn until(&self, what: &str, mut holds: impl FnMut(&World) -> bool) {
        let wait = async {
            while !holds(&self.world) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(LIMIT * 10, wait).await;
        assert!(waited.is_ok(), "waited until {what}");
    }

    pub async fn until_condition(&self, name: &str, type_: &str, status: &str, reason: &str) {
        let wanted = Some((status.to_owned(), reason.to_owned()));
        let what = format!("{name}: {type_} {status} {reason}");
        self.until(&what, |world| world.condition(name, type_) == wanted)
            .await;
    }
}
