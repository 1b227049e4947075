//! The queue: which consumers are reconciled, when, and how many at the same time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use kube::Resource as _;
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::reflector;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, predicates};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::apply::ApplyError;
use crate::context::Context;
use crate::key::Key;
use crate::read::Found;
use crate::reconcile::{ReconcileError, reconcile};
use crate::secrets::SecretsError;
use crate::watches::{self, Change, RollCall};

/// The number of concurrent passes. A pass mostly waits for the API server, or for brokers.
const CONCURRENCY: u16 = 32;

/// Wake-ups of a consumer within this time cause one pass.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// The annotation in which `kubectl apply` keeps a copy of the manifest.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Reconciles all consumers until `stop`; passes that have begun are finished. Calls `synced` once
/// all objects have been listed.
pub async fn run(
    context: Arc<Context>,
    mut woken: mpsc::UnboundedReceiver<Key>,
    stop: CancellationToken,
    synced: impl FnOnce() + Send + 'static,
) {
    let _watches = watches::spawn_all(&context);
    let lags = Arc::clone(&context.lags).run(Arc::clone(&context.kafka));
    let _lags = AbortOnDrop(tokio::spawn(lags));

    let (reader, writer) = reflector::store();
    let (listed, all_listed) = oneshot::channel();
    let consumers = consumers(Arc::clone(&context), writer, listed);
    let woken = futures_util::stream::poll_fn(move |task| woken.poll_recv(task));
    let _sync = AbortOnDrop(tokio::spawn({
        let context = Arc::clone(&context);
        async move {
            if all_listed.await.is_ok() {
                context.complete().await;
                synced();
            }
        }
    }));
    Controller::for_stream(consumers, reader)
        .reconcile_on(woken.map(|key| key.reference()))
        .with_config(
            controller::Config::default()
                .concurrency(CONCURRENCY)
                .debounce(DEBOUNCE),
        )
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, on_error, Arc::clone(&context))
        .for_each(|result| {
            match result {
                Ok((consumer, _)) => {
                    context.backoffs.forget(&Key::of_reference(&consumer));
                }
                Err(controller::Error::ReconcilerFailed(error, consumer)) => {
                    let consumer = Key::of_reference(&consumer.into_kind_unchecked(()));
                    tracing::warn!(%consumer, %error, "a pass failed and is repeated after a back-off");
                }
                // The consumer was woken after its deletion.
                Err(controller::Error::ObjectNotFound(_)) => {}
                Err(error) => {
                    tracing::warn!(kind = "KafkaConsumer", %error, "a watch was interrupted and begins again")
                }
            }
            std::future::ready(())
        })
        .await;
}

/// Returns the consumers with a new spec, as the watch shows them.
fn consumers(
    context: Arc<Context>,
    writer: reflector::store::Writer<Found>,
    listed: oneshot::Sender<()>,
) -> impl Stream<Item = watcher::Result<Found>> + Send {
    let api = context.scope.all::<Found>();
    let config = watches::config();
    let mut roll = Roll {
        call: RollCall::default(),
        listed: Some(listed),
    };
    watcher::watcher(api, config)
        .default_backoff()
        .modify(forget_what_nobody_reads)
        .reflect(writer)
        .inspect(move |event| {
            if let Ok(event) = event {
                roll.note(&context, event);
            }
        })
        .applied_objects()
        .predicate_filter(
            predicates::generation,
            kube::runtime::PredicateConfig::default(),
        )
}

/// Drops parts of an object that are as large as the manifest and that the operator does not need.
fn forget_what_nobody_reads(found: &mut Found) {
    let metadata = found.meta_mut();
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

/// Notes the consumers that exist, so that deleted consumers are forgotten.
struct Roll {
    call: RollCall,
    /// Receives a signal after the first complete list.
    listed: Option<oneshot::Sender<()>>,
}

impl Roll {
    fn note(&mut self, context: &Context, event: &Event<Found>) {
        match self.call.change(event) {
            Some(Change::Saw(found)) => context.saw(found),
            Some(Change::Gone(found)) => context.forget(&Key::of(found)),
            Some(Change::Listed(present)) => {
                for gone in context.passes.missing_from(&present) {
                    context.forget(&gone);
                }
                if let Some(listed) = self.listed.take() {
                    // The receiver is gone while the operator stops.
                    let _ = listed.send(());
                }
            }
            None => {}
        }
        context.metrics.consumers(context.passes.consumers());
    }
}

/// Determines the wait after a failure: the back-off of the consumer, and at least the time that
/// the API server asks for.
fn on_error(found: Arc<Found>, error: &ReconcileError, context: Arc<Context>) -> Action {
    context.metrics.reconcile_failed();
    let key = Key::of(&*found);
    if !context.passes.exists(&key) {
        // A back-off of a deleted consumer would never be removed.
        return Action::await_change();
    }
    let wait = context.backoffs.next(&key);
    Action::requeue(wait.max(retry_after(error)))
}

fn retry_after(error: &ReconcileError) -> Duration {
    let source = match error {
        ReconcileError::Apply(ApplyError::Request { source, .. }) => &**source,
        ReconcileError::Status(error) => &*error.0,
        ReconcileError::Secrets(SecretsError::Read { source, .. }) => source,
        ReconcileError::Apply(_) | ReconcileError::Secrets(_) | ReconcileError::TooLong => {
            return Duration::ZERO;
        }
    };
    match source {
        kube::Error::Api(status) => {
            let details = status.details.as_ref();
            let seconds = details.map_or(0, |details| details.retry_after_seconds);
            Duration::from_secs(seconds.into())
        }
        _ => Duration::ZERO,
    }
}

/// A task that is aborted with its owner.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
