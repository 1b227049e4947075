//! The watches of the API server. They fill the stores, and wake the consumers that a change
//! concerns.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Resource;
use kube::api::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use serde::de::DeserializeOwned;

use crate::build::{Kind, MANAGED_BY};
use crate::context::Context;
use crate::existing::Shown;
use crate::key::Key;

/// The number of objects in one page of a list: few requests, and little memory.
const PAGE: u32 = 250;

/// The time after which the API server ends a watch and the operator begins it again, in seconds. A
/// watch whose connection has died silently ends five seconds later: for that time, changes may go
/// unseen. Beginning a watch again costs one request and lists nothing.
const WATCH_SECONDS: u32 = 25;

/// Returns the settings of every watch.
pub(crate) fn config() -> watcher::Config {
    watcher::Config::default()
        .page_size(PAGE)
        .timeout(WATCH_SECONDS)
}

/// The meaning of an event of a watch.
pub enum Change<'a, K> {
    /// An object exists, new or not.
    Saw(&'a K),
    /// An object is gone.
    Gone(&'a K),
    /// All existing objects; an object that is missing here was deleted unseen.
    Listed(HashSet<Key>),
}

/// Collects the objects that a watch lists, so that objects that were deleted during an
/// interruption are noticed.
#[derive(Default)]
pub struct RollCall {
    present: HashSet<Key>,
}

impl RollCall {
    /// Returns the meaning of an event, if it has one.
    pub fn change<'a, K: Resource>(&mut self, event: &'a Event<K>) -> Option<Change<'a, K>> {
        match event {
            Event::Apply(object) => Some(Change::Saw(object)),
            Event::Delete(object) => Some(Change::Gone(object)),
            Event::Init => {
                self.present.clear();
                None
            }
            Event::InitApply(object) => {
                self.present.insert(Key::of(object));
                Some(Change::Saw(object))
            }
            Event::InitDone => Some(Change::Listed(std::mem::take(&mut self.present))),
        }
    }
}

/// Starts all watches except that of the consumers. They end when the returned set is dropped.
pub fn spawn_all(context: &Arc<Context>) -> tokio::task::JoinSet<()> {
    let mut watches = tokio::task::JoinSet::new();
    for kind in Kind::ALL {
        watches.spawn(objects(kind, Arc::clone(context)));
    }
    watches.spawn(replica_sets(Arc::clone(context)));
    watches.spawn(pods(Arc::clone(context)));
    watches.spawn(secrets(Arc::clone(context)));
    watches
}

/// Returns the settings of a watch of Penstock's objects.
fn ours() -> watcher::Config {
    let (label, value) = MANAGED_BY;
    config().labels(&format!("{label}={value}"))
}

async fn objects(kind: Kind, context: Arc<Context>) {
    let resource = kind.resource();
    let api = context.scope.all_shown(&resource);
    let existing = &context.existing;
    follow(
        kind.name(),
        watcher::watcher(api, ours()),
        |change: Change<'_, Shown>| match change {
            Change::Saw(object) if existing.saw(kind, object) => {
                wake(&context, kind.consumer_name(&Key::of(object)));
            }
            Change::Saw(_) => {}
            Change::Gone(object) => {
                existing.gone(kind, object);
                wake(&context, kind.consumer_name(&Key::of(object)));
            }
            Change::Listed(present) => {
                for gone in existing.listed(kind, &present) {
                    wake(&context, kind.consumer_name(&gone));
                }
            }
        },
    )
    .await;
}

async fn replica_sets(context: Arc<Context>) {
    let api = context.scope.all::<ReplicaSet>();
    let sets = &context.replica_sets;
    follow(
        "ReplicaSet",
        watcher::watcher(api, ours()),
        |change: Change<'_, ReplicaSet>| match change {
            Change::Saw(replica_set) => wake(&context, sets.saw(replica_set)),
            Change::Gone(replica_set) => wake(&context, sets.gone(replica_set)),
            Change::Listed(present) => wake(&context, sets.listed(&present)),
        },
    )
    .await;
}

async fn pods(context: Arc<Context>) {
    let api = context.scope.all::<Pod>();
    let pods = &context.pods;
    follow(
        "Pod",
        watcher::watcher(api, ours()),
        |change: Change<'_, Pod>| match change {
            Change::Saw(pod) => wake(&context, pods.saw(pod)),
            Change::Gone(pod) => wake(&context, pods.gone(pod)),
            Change::Listed(present) => wake(&context, pods.listed(&present)),
        },
    )
    .await;
}

/// Watches the metadata of Secrets. The operator reads only the Secrets that consumers name.
async fn secrets(context: Arc<Context>) {
    let api = context.scope.all::<PartialObjectMeta<Secret>>();
    let secrets = &context.secrets;
    let stream = watcher::watcher(api, config());
    follow(
        "Secret",
        stream,
        |change: Change<'_, PartialObjectMeta<Secret>>| match change {
            Change::Saw(secret) => wake(&context, secrets.changed(secret)),
            Change::Gone(secret) => wake(&context, secrets.gone(&Key::of(secret))),
            Change::Listed(present) => wake(&context, secrets.listed(&present)),
        },
    )
    .await;
}

/// Follows a watch forever. Logs an interruption, and begins the watch again after a back-off.
async fn follow<K>(
    kind: &str,
    stream: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    mut on_change: impl FnMut(Change<'_, K>),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut roll_call = RollCall::default();
    let mut stream = std::pin::pin!(stream.default_backoff());
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                if let Some(change) = roll_call.change(&event) {
                    on_change(change);
                }
            }
            Err(error) => {
                tracing::warn!(kind, %error, "a watch was interrupted and begins again");
            }
        }
    }
}

fn wake(context: &Context, consumers: impl IntoIterator<Item = Key>) {
    for consumer in consumers {
        context.triggers.wake(&consumer);
    }
}
