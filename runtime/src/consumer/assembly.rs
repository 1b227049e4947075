//! Assembles a consumer from its parts: the client, the queue, the pump and the handlers.
//!
//! Consumers on librdkafka and simulated ones are assembled by the same code.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use penstock_crds::validate::{ConsumeMode, ValidatedConsumer};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::commit::commits::Commits;
use crate::commit::committer::Committer;
use crate::commit::strategy::Strategy;
use crate::consumer::memory::Budget;
use crate::consumer::running::Running;
use crate::fetch::pump::{Pump, PumpParts};
use crate::group::positions::Policy;
use crate::kafka::{Client, Transactional};
use crate::observe::metrics::Metrics;
use crate::observe::progress::{Busy, Progress};
use crate::process::dead_letter::DeadLetters;
use crate::process::worker::{Failure, Gathering, Seat, Shared};
use crate::queue::lane::LaneFinder;
use crate::queue::share::Share;
use crate::queue::{WorkQueue, places_for};

/// Wraps the tasks of a consumer: unchanged, or in a simulation so that they can be frozen.
pub(crate) trait Tasks {
    /// Returns the future to spawn for a task.
    fn task<F: Future + Send + 'static>(
        &self,
        future: F,
    ) -> impl Future<Output = F::Output> + Send + 'static;
}

/// Unchanged tasks.
pub(crate) struct Plain;

impl Tasks for Plain {
    fn task<F: Future + Send + 'static>(
        &self,
        future: F,
    ) -> impl Future<Output = F::Output> + Send + 'static {
        future
    }
}

/// The parts of a consumer, and its settings.
pub(crate) struct Assembly<'a, C: Client> {
    pub(crate) consumer: &'a ValidatedConsumer,
    pub(crate) client: Arc<C>,
    /// Wakes the pump; the client notifies it.
    pub(crate) wake: Arc<Notify>,
    /// `Some` if commits are transactional.
    pub(crate) transactions: Option<Box<dyn Transactional<C::Membership>>>,
    pub(crate) dead_letters: Option<DeadLetters>,
    pub(crate) metrics: Metrics,
    pub(crate) budget: Budget,
    /// The time between two periodic commits.
    pub(crate) commit_interval: Duration,
    /// The policy for partitions without an offset to continue from.
    pub(crate) policy: Policy,
    /// The time for which a refused commit is sent again in InOrder mode.
    pub(crate) commit_retry_limit: Duration,
    /// Is `true` if the runtime stores the offsets of read messages for the client to commit,
    /// and sets the group back to handled messages before it leaves a partition.
    pub(crate) stores: bool,
}

impl<C: Client> Assembly<'_, C> {
    /// Starts the pump and the workers; `work` is the loop of one worker.
    pub(crate) fn start<D, H, W, F>(
        self,
        decoder: D,
        handler: H,
        work: W,
        tasks: &impl Tasks,
    ) -> (Running<C>, Arc<Progress>)
    where
        D: Send + Sync + 'static,
        H: Send + Sync + 'static,
        W: Fn(Arc<Shared<D, H>>, Seat) -> F,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let consumer = self.consumer;
        let strategy = Strategy::from(consumer);
        let is_key_ordered = matches!(consumer.mode, ConsumeMode::KeyOrdered { .. });
        let (committer, requests) = Committer::new(Arc::clone(&self.wake));
        let handlers = consumer.mode.handlers();
        let batch_size = consumer.consume_batch_size.get() as usize;
        // A whole read fits: messages without room in the queue would wait in the pump, and
        // cost a wake-up for every queueful.
        let places = places_for(handlers).max(batch_size);
        let share = Share::of(self.budget.batched(is_key_ordered), handlers);
        let queue = WorkQueue::new(places, self.budget.queued, Arc::clone(&self.wake));
        let queue = Arc::new(queue.with_share(share));
        // A weak reference: messages in the queue keep the client from closing.
        let watched = Arc::downgrade(&queue);
        self.metrics
            .watch_queue(move || watched.upgrade().map_or((0, 0), |queue| queue.load()));
        let progress = Progress::new(handlers);
        let (reading, finish) = (CancellationToken::new(), CancellationToken::new());
        let shared = Arc::new(Shared {
            span: format!("{}.handler", consumer.name),
            decoder,
            handler,
            policy: consumer.delivery.clone(),
            timeout: consumer.handler.timeout.get(),
            metrics: self.metrics.clone(),
            dead_letters: self.dead_letters,
            in_order: consumer.mode == ConsumeMode::InOrder,
            committer: (strategy == Strategy::EachMessage).then_some(committer),
            produces: strategy == Strategy::Transaction,
            defers: is_key_ordered,
            gathering: Gathering::default(),
        });
        let pump = Pump::new(PumpParts {
            name: consumer.name.to_string(),
            client: self.client,
            queue: Arc::clone(&queue),
            wake: Arc::clone(&self.wake),
            strategy,
            lanes: is_key_ordered.then(LaneFinder::default),
            commits: Commits::new(requests, self.commit_retry_limit, self.transactions)
                .rewinding(self.stores),
            held_bytes: self.budget.held,
            commit_interval: self.commit_interval,
            policy: self.policy,
            batch_size,
            stores: self.stores,
            drain_limit: consumer.stop_timeout,
            metrics: self.metrics,
            progress: Arc::clone(&progress),
            stop: reading.clone(),
            finish: finish.clone(),
        });
        let mut running = Running {
            pump: tokio::spawn(tasks.task(pump.run())),
            workers: JoinSet::new(),
            handlers,
            reading,
            finish,
            wake: self.wake,
            stop_timeout: consumer.stop_timeout,
        };
        for number in 0..handlers {
            let seat = Seat {
                queue: Arc::clone(&queue),
                busy: Busy::new(Arc::clone(&progress), number),
            };
            let worker = tasks.task(work(Arc::clone(&shared), seat));
            running.workers.spawn(worker);
        }
        (running, progress)
    }
}
