//! What is seen of a consumer, for statuses.

use std::sync::Arc;

use jiff::Timestamp;
use penstock_crds::manifest;
use penstock_crds::spec::{CommittedTopics, KafkaConsumerStatus, LossReason};
use penstock_crds::validate::ValidatedConsumer;
use penstock_crds::violation::{Violation, Violations};
use penstock_operator::apply::ApplyError;
use penstock_operator::existing::deployment::Rollout;
use penstock_operator::kafka::{Lag, Loss, Positions, Resolution};
use penstock_operator::key::Key;
use penstock_operator::pods::Trouble;
use penstock_operator::status::{Reason, Refusal, Seen, status};

/// What is seen in a scenario. The default is a consumer of three replicas whose
/// pods are all ready.
pub struct World {
    pub generation: i64,
    pub refusal: Option<Refusal>,
    pub replicas: u32,
    pub siblings: Vec<Key>,
    pub topics: Option<Resolution>,
    pub held: bool,
    pub blocked: Option<ApplyError>,
    pub incomplete: Option<ApplyError>,
    pub rollout: Option<Rollout>,
    pub troubles: Vec<Trouble>,
    pub leaving: Vec<Timestamp>,
    pub positions: Option<Positions>,
    /// What an earlier pass has reported.
    pub before: KafkaConsumerStatus,
    /// Where the group begins without a committed offset.
    pub reset: &'static str,
}

impl World {
    pub fn running() -> Self {
        Self {
            generation: 4,
            refusal: None,
            replicas: 3,
            siblings: Vec::new(),
            topics: Some(Resolution::Found),
            held: false,
            blocked: None,
            incomplete: None,
            rollout: Some(rollout(3)),
            troubles: Vec::new(),
            leaving: Vec::new(),
            positions: None,
            before: KafkaConsumerStatus::default(),
            reset: "Latest",
        }
    }

    /// Pods exist, but none is ready.
    pub fn starting() -> Self {
        Self {
            rollout: Some(Rollout {
                ready: 0,
                ..rollout(3)
            }),
            ..Self::running()
        }
    }

    /// Nothing has been made yet, and nothing is known of the topics.
    pub fn new() -> Self {
        Self {
            topics: None,
            rollout: None,
            ..Self::running()
        }
    }

    pub fn refused(refusal: fn(Violations) -> Refusal) -> Self {
        let violation = Violation {
            path: "spec.group".into(),
            value: Some("orders".into()),
            message: "group_id must start with 'SERVICENAME.'".into(),
        };
        Self {
            refusal: Some(refusal(Violations(vec![violation]))),
            ..Self::new()
        }
    }

    pub fn resolved(topics: Resolution) -> Self {
        Self {
            topics: Some(topics),
            ..Self::new()
        }
    }

    pub fn troubled(reason: Reason, message: &str) -> Self {
        Self {
            troubles: vec![trouble(reason, message, None)],
            ..Self::starting()
        }
    }

    pub fn blocked(error: ApplyError) -> Self {
        Self {
            topics: Some(Resolution::Found),
            blocked: Some(error),
            ..Self::new()
        }
    }

    pub fn status_after(
        &self,
        before: &KafkaConsumerStatus,
        now: Timestamp,
    ) -> KafkaConsumerStatus {
        let key = Key::new("shop", "orders");
        let consumer = consumer_with(self.replicas, self.reset);
        let seen = self.seen(&key, &consumer, now);
        status(&seen, before)
    }

    pub fn status(&self) -> KafkaConsumerStatus {
        self.status_after(&self.before, now())
    }

    pub fn seen<'a>(
        &'a self,
        key: &'a Key,
        consumer: &'a ValidatedConsumer,
        now: Timestamp,
    ) -> Seen<'a> {
        Seen {
            key,
            generation: Some(self.generation),
            consumer: match &self.refusal {
                Some(refusal) => Err(refusal),
                None => Ok(consumer),
            },
            siblings: self.siblings.clone(),
            topics: self.topics.clone(),
            held: self.held,
            blocked: self.blocked.as_ref(),
            incomplete: self.incomplete.as_ref(),
            rollout: self.rollout.clone(),
            troubles: self.troubles.clone(),
            leaving: self.leaving.clone(),
            positions: self.positions.clone().map(Arc::new),
            now,
        }
    }
}

pub fn consumer(replicas: u32) -> ValidatedConsumer {
    consumer_with(replicas, "Latest")
}

fn consumer_with(replicas: u32, reset: &str) -> ValidatedConsumer {
    let text = format!(
        "{{apiVersion: penstock.dev/v1alpha1, kind: KafkaConsumer, metadata: {{name: orders}}, \
         spec: {{group: billing.orders, topics: [orders], mode: Fast, maxConcurrency: 4, \
         replicas: {replicas}, offsetReset: {reset}, kafka: {{bootstrapServers: 'kafka:9092'}}, \
         handler: {{image: 'registry.example/billing:1'}}}}}}"
    );
    manifest::read_one(&text).expect("a consumer").1
}

pub fn rollout(pods: i32) -> Rollout {
    Rollout {
        generation: 2,
        observed: 2,
        replicas: pods,
        updated: pods,
        ready: pods,
        ..Rollout::default()
    }
}

/// The group has committed everything in `orders`.
pub fn positions() -> Positions {
    Positions {
        lag: Lag {
            known: Some(0),
            ..Lag::default()
        },
        committed: ["orders".to_owned()].into(),
        ..Positions::default()
    }
}

/// The group has committed nothing in `orders`, or nothing any more.
pub fn no_offsets() -> Positions {
    Positions {
        committed: Default::default(),
        uncommitted: ["orders".to_owned()].into(),
        ..positions()
    }
}

/// The same as [`positions`], with this loss in partition 0.
pub fn loss(reason: LossReason, committed: i64, log: i64) -> Positions {
    let messages = (reason == LossReason::RetentionPassed).then(|| log - committed);
    Positions {
        losses: vec![Loss {
            topic: "orders".into(),
            partition: 0,
            reason,
            committed,
            log,
            messages,
        }],
        ..positions()
    }
}

/// The status in which the consumer's group has had committed offsets.
pub fn with_offsets() -> KafkaConsumerStatus {
    KafkaConsumerStatus {
        committed: Some(CommittedTopics {
            group: "billing.orders".into(),
            bootstrap_servers: "kafka:9092".into(),
            topics: vec!["orders".into()],
        }),
        ..KafkaConsumerStatus::default()
    }
}

pub fn trouble(reason: Reason, message: &str, ended: Option<Timestamp>) -> Trouble {
    Trouble {
        reason,
        message: message.into(),
        ended,
        trusted: ended,
    }
}

pub fn now() -> Timestamp {
    "2026-03-04T05:06:07Z".parse().expect("a time")
}

pub fn seconds_ago(seconds: i64) -> Timestamp {
    now() - jiff::SignedDuration::from_secs(seconds)
}

pub fn object(of: fn(&'static str, String) -> ApplyError) -> ApplyError {
    of("Deployment", "orders".into())
}
