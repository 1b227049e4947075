//! One pass over one consumer: read → validate → resolve → build → apply → prune → status.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Resource as _;
use kube::runtime::controller::Action;
use penstock_crds::librdkafka;
use penstock_crds::spec::{KafkaConsumer, KafkaConsumerStatus};
use penstock_crds::validate::{FailureAction, ValidatedConsumer, validate};
use thiserror::Error;
use tokio::time::timeout;

use crate::apply::{Applier, ApplyError};
use crate::build::{self, Blueprint, Kind};
use crate::context::Context;
use crate::existing::deployment::Rollout;
use crate::kafka::{Connection, LagTarget, Positions, Resolution};
use crate::key::Key;
use crate::read::Found;
use crate::secrets::{Secrets, SecretsError, access_token};
use crate::status::{self, Outcome, Refusal, Seen, StatusError};

/// The wait before a refused object is applied again: the cause, such as a quota, may end without a
/// notification.
const REFUSED_RETRY: Duration = Duration::from_secs(60);

/// The wait before an object is applied whose name an object of an earlier consumer still has.
const LEAVING_RETRY: Duration = Duration::from_secs(2);

/// The maximum time for a pass: an unanswered request must not block a consumer, nor a place among
/// the passes, forever.
const PASS_LIMIT: Duration = Duration::from_secs(60);

/// The wait before a status is written again after a conflict with another change of the consumer.
const CONFLICT_RETRY: Duration = Duration::from_secs(1);

/// The error of a pass that must be repeated.
#[derive(Debug, Error)]
pub enum ReconcileError {
    /// An object could not be applied or pruned.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A Secret could not be read.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The status could not be written.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// A request was not answered.
    #[error("the pass did not end within {PASS_LIMIT:?}; the API server or Kafka does not answer")]
    TooLong,
}

/// Runs one pass. An error in the consumer becomes part of its status. An error of the cluster is
/// returned, and the pass is repeated after a back-off.
///
/// # Errors
/// Returns an error if a request to the API server failed and may succeed later.
pub async fn reconcile(found: Arc<Found>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let _timer = context.metrics.reconcile();
    let key = Key::of(&*found);
    if found.meta().deletion_timestamp.is_some() {
        // A third-party finalizer delays the deletion. The consumer's credentials are not used any
        // more.
        context.stand_down(&key);
        return Ok(Action::await_change());
    }
    context.complete().await;
    let Some(_under_way) = UnderWay::begin(&context, key) else {
        return Ok(Action::await_change());
    };
    let ended = timeout(PASS_LIMIT, pass(&found, &context)).await;
    ended.unwrap_or(Err(ReconcileError::TooLong))
}

/// A running pass, until it is dropped. If the consumer was deleted during the pass, the notes of
/// the pass are forgotten then.
struct UnderWay<'a> {
    context: &'a Context,
    key: Key,
}

impl<'a> UnderWay<'a> {
    /// Begins a pass. Returns `None` if the consumer was deleted before.
    fn begin(context: &'a Context, key: Key) -> Option<Self> {
        let begun = context.passes.begin(&key);
        begun.then_some(Self { context, key })
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.context.passes.end(&self.key) {
            // The consumer may have been created again, and exists all the same.
            self.context.forget_notes(&self.key);
        }
    }
}

async fn pass(found: &Found, context: &Context) -> Result<Action, ReconcileError> {
    let key = Key::of(found);
    let pass = Pass {
        context,
        found,
        key: &key,
        uid: found.meta().uid.as_deref().unwrap_or_default(),
        before: context.statuses.current(&key, found),
    };
    let checked = read_and_validate(found);
    match &checked {
        Err(refusal) => {
            context.stand_down(&key);
            pass.report(Err(refusal), Progress::default()).await
        }
        Ok((resource, consumer)) => {
            let siblings = context.siblings.set(&key, consumer);
            siblings
                .iter()
                .for_each(|other| context.triggers.wake(other));
            let progress = pass.advance(resource, consumer).await?;
            pass.report(Ok(consumer), progress).await
        }
    }
}

fn read_and_validate(found: &Found) -> Result<(&KafkaConsumer, ValidatedConsumer), Refusal> {
    match found {
        Found::Unreadable(unreadable) => Err(Refusal::Unreadable(unreadable.problem.clone())),
        Found::Readable(resource) => validate(&resource.spec)
            .map(|consumer| (&**resource, consumer))
            .map_err(Refusal::Invalid),
    }
}

struct Pass<'a> {
    context: &'a Context,
    found: &'a Found,
    key: &'a Key,
    uid: &'a str,
    before: KafkaConsumerStatus,
}

/// The results of a pass so far.
#[derive(Default)]
struct Progress {
    /// The result of the search for topics, if there was one.
    topics: Option<Resolution>,
    /// Is `true` while nothing is applied because a topic is missing.
    held: bool,
    /// The error of an object that pods need.
    blocked: Option<ApplyError>,
    /// The error of an object that pods can run without, or of a deletion.
    incomplete: Option<ApplyError>,
    /// The positions of the group, if they were read.
    positions: Option<Arc<Positions>>,
    /// The error of reading Secrets, once it has lasted for long.
    unread: Option<SecretsError>,
}

impl Pass<'_> {
    /// Resolves, builds, applies and prunes. Stops if a Secret is missing, or, before the first
    /// start, a topic. Running pods continue.
    async fn advance(
        &self,
        resource: &KafkaConsumer,
        consumer: &ValidatedConsumer,
    ) -> Result<Progress, ReconcileError> {
        let context = self.context;
        let secrets = context
            .secrets
            .read(&context.scope, self.key, self.uid, consumer);
        let secrets = match secrets.await {
            Ok(secrets) => secrets,
            Err(error @ SecretsError::Missing(_)) => {
                return Ok(self.without_secrets(consumer, &error));
            }
            Err(error) if context.backoffs.is_lasting(self.key) => {
                let progress = self.without_secrets(consumer, &error);
                return Ok(Progress {
                    unread: Some(error),
                    ..progress
                });
            }
            Err(error) => return Err(error.into()),
        };
        let (connection, topics) = self.resolve(consumer, &secrets).await;
        let positions = match (&topics, connection) {
            (_, Some(connection)) => self.positions(consumer, connection),
            (Resolution::NoSecret(why), None) => self.unread_positions(consumer, why),
            (_, None) => None,
        };
        let mut progress = Progress {
            positions,
            topics: Some(topics),
            ..Progress::default()
        };
        progress.held = match &progress.topics {
            Some(Resolution::Found) => false,
            Some(Resolution::NoSecret(_)) => true,
            _ => self.must_wait(consumer),
        };
        if !progress.held {
            match self.apply(resource, consumer, &secrets).await {
                Ok(incomplete) => progress.incomplete = self.lasting(incomplete)?,
                Err(blocked) => progress.blocked = self.lasting(Some(blocked))?,
            }
        }
        Ok(progress)
    }

    fn without_secrets(&self, consumer: &ValidatedConsumer, error: &SecretsError) -> Progress {
        let why = error.to_string();
        Progress {
            positions: self.unread_positions(consumer, &why),
            topics: Some(Resolution::NoSecret(why)),
            ..Progress::default()
        }
    }

    /// Looks for the topics, including the dead-letter topic.
    async fn resolve(
        &self,
        consumer: &ValidatedConsumer,
        secrets: &Secrets,
    ) -> (Option<Arc<Connection>>, Resolution) {
        let connection = match connection(&self.key.namespace, consumer, secrets) {
            Ok(connection) => connection,
            Err(error) => return (None, Resolution::NoSecret(error)),
        };
        let mut topics = topic_names(consumer);
        if let FailureAction::DeadLetter(topic) = &consumer.delivery.on_failure {
            topics.push(topic.to_string());
        }
        let kafka = &self.context.kafka;
        let connection = kafka.share(connection);
        let resolution = kafka.resolve(self.key, &connection, topics).await;
        (Some(connection), resolution)
    }

    /// Returns the group's positions as last read.
    fn positions(
        &self,
        consumer: &ValidatedConsumer,
        connection: Arc<Connection>,
    ) -> Option<Arc<Positions>> {
        let lags = &self.context.lags;
        if !self.reads_positions() {
            lags.forget(self.key);
            return None;
        }
        let isolation = consumer.kafka.config.get("isolation.level");
        let target = LagTarget {
            connection,
            group: consumer.group.to_string(),
            topics: topic_names(consumer),
            reset: consumer.offset_reset,
            reads_uncommitted: isolation
                .is_some_and(|level| level.eq_ignore_ascii_case("read_uncommitted")),
        };
        lags.watch(self.key, target)
    }

    /// Returns the positions while Kafka can't be asked again: those that are still read in the
    /// background, or the reason why there are none.
    fn unread_positions(&self, consumer: &ValidatedConsumer, why: &str) -> Option<Arc<Positions>> {
        if !self.reads_positions() {
            return None;
        }
        let brokers = &consumer.kafka.bootstrap_servers;
        let lags = &self.context.lags;
        let last = lags.last(self.key, consumer.group.as_str(), brokers);
        last.or_else(|| Some(Arc::new(Positions::unread(why))))
    }

    /// Returns `true` once the consumer has been available: a group that has not begun has no
    /// positions.
    fn reads_positions(&self) -> bool {
        let before = &self.before;
        before.lag.is_some()
            || before.lag_unknown_reason.is_some()
            || before.committed.is_some()
            || self.rollout().is_some_and(|rollout| rollout.ready > 0)
    }

    /// Returns `true` if a change waits until every topic is found. Only the first start does, and,
    /// for running pods, a change of brokers or topics. All other changes are applied immediately.
    ///
    /// An earlier operator noted no digest, and it may have held back other brokers or
    /// topics. So every change waits until this operator has noted a digest, unless the earlier
    /// operator has reported that it applied this manifest.
    fn must_wait(&self, consumer: &ValidatedConsumer) -> bool {
        if !self.has_started() {
            return true;
        }
        let Some(running) = self.rollout() else {
            return false;
        };
        let is_same = match &running.kafka {
            Some(digest) => *digest == build::kafka_digest(consumer),
            None => status::was_applied(&self.before, self.found.meta().generation),
        };
        !is_same && consumer.replicas() > 0
    }

    /// Returns `true` if the consumer's pods were started at some time, even if their Deployment
    /// was deleted since: another object of the consumer exists, or its group has begun.
    fn has_started(&self) -> bool {
        let is_ours = |kind: Kind| {
            let records = self.context.existing.of_consumer(kind, self.key);
            let mut owners = records.iter().filter_map(|(_, it)| it.controller.as_ref());
            owners.any(|owner| *owner.uid == *self.uid)
        };
        Kind::ALL.into_iter().any(is_ours) || self.reads_positions()
    }

    /// Returns an error that the status reports.
    ///
    /// # Errors
    /// Returns an error that may pass; the status reports it once it lasts.
    fn lasting(&self, error: Option<ApplyError>) -> Result<Option<ApplyError>, ReconcileError> {
        match error {
            Some(error @ ApplyError::Request { .. })
                if !self.context.backoffs.is_lasting(self.key) =>
            {
                Err(error.into())
            }
            error => Ok(error),
        }
    }

    /// Builds, applies and prunes. Returns the error of an object that pods can run without.
    ///
    /// # Errors
    /// Returns the error of an object that pods need.
    async fn apply(
        &self,
        resource: &KafkaConsumer,
        consumer: &ValidatedConsumer,
        secrets: &Secrets,
    ) -> Result<Option<ApplyError>, ApplyError> {
        let context = self.context;
        let running = self.rollout();
        let objects = build::objects(&Blueprint {
            key: self.key,
            uid: self.uid,
            resource,
            consumer,
            secrets: &secrets.digest,
            runtime: &context.runtime,
            running: running.as_ref(),
            protocols: context.replica_sets.protocols(self.key),
        });
        let applier = Applier {
            client: &context.scope.client,
            existing: &context.existing,
            replica_sets: &context.replica_sets,
            consumer: self.key,
            uid: self.uid,
        };
        let applied = applier.apply(&objects).await;
        // Pruning follows a failure too: a quota may have no room until an object is deleted.
        let pruned = applier.prune(&objects).await;
        Ok(applied?.or(pruned.err()))
    }

    /// Writes the status, and returns the time of the next pass.
    async fn report(
        &self,
        consumer: Result<&ValidatedConsumer, &Refusal>,
        progress: Progress,
    ) -> Result<Action, ReconcileError> {
        let context = self.context;
        let now = Timestamp::now();
        let seen = Seen {
            key: self.key,
            generation: self.found.meta().generation,
            consumer,
            siblings: context.siblings.of(self.key),
            topics: progress.topics,
            held: progress.held,
            blocked: progress.blocked.as_ref(),
            incomplete: progress.incomplete.as_ref(),
            rollout: self.rollout(),
            troubles: context.pods.troubles(self.key),
            leaving: context.pods.leaving(self.key),
            positions: progress.positions,
            now,
        };
        let status = status::status(&seen, &self.before);
        let forgets = status::forgets_at(&seen, &status);
        let outcome = context
            .statuses
            .write(
                &context.scope,
                &context.events,
                self.found,
                &self.before,
                status,
            )
            .await?;
        match outcome {
            Outcome::Written => context.metrics.status_written(),
            Outcome::Unchanged => {}
            Outcome::Conflict => return Ok(Action::requeue(CONFLICT_RETRY)),
        }
        if let Some(error) = progress.unread {
            return Err(error.into());
        }
        match progress.blocked.or(progress.incomplete) {
            Some(error @ ApplyError::Request { .. }) => Err(error.into()),
            Some(ApplyError::Leaving { .. }) => Ok(Action::requeue(LEAVING_RETRY)),
            Some(ApplyError::Foreign { .. } | ApplyError::Refused { .. }) => {
                Ok(Action::requeue(REFUSED_RETRY))
            }
            None => Ok(forgets.map_or_else(Action::await_change, Action::requeue)),
        }
    }

    fn rollout(&self) -> Option<Rollout> {
        let record = self.context.existing.get(Kind::Deployment, self.key)?;
        let ours = record
            .controller
            .is_some_and(|owner| *owner.uid == *self.uid);
        record.rollout.filter(|_| ours).map(|rollout| *rollout)
    }
}

fn connection(
    namespace: &str,
    consumer: &ValidatedConsumer,
    secrets: &Secrets,
) -> Result<Connection, String> {
    let config = librdkafka::consumer_config(consumer);
    let properties = config
        .resolve_client_with(|entry| secrets.text(&entry.secret, &entry.key))
        .map_err(|error| error.to_string())?;
    let token = access_token(&consumer.kafka);
    let token = token.and_then(|(secret, entry)| secrets.text(&secret, &entry));
    Ok(Connection::new(namespace, properties, token))
}

fn topic_names(consumer: &ValidatedConsumer) -> Vec<String> {
    consumer.topics.iter().map(ToString::to_string).collect()
}
