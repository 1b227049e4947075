//! Health: baseplate's check with its callback, and probes for Kubernetes.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::observe::progress::{FailingCommits, Progress};

/// The error of a health check without a result.
pub type HealthCheckError = Box<dyn Error + Send + Sync>;

/// A check that returns `true` if the application is healthy. Each request of `/health` calls
/// it.
pub type HealthCheck = Arc<dyn Fn() -> Result<bool, HealthCheckError> + Send + Sync>;

/// The maximum silence of the pump, which runs at least once a second.
const PUMP_SILENCE: Duration = Duration::from_secs(60);

/// The time after an attempt's timeout, which should have ended it, until its thread counts as
/// blocked.
const ATTEMPT_GRACE: Duration = Duration::from_secs(60);

/// The maximum time of failing commits. Commits are sent every 5 seconds, and a broker may need
/// minutes to restart.
const COMMITS_FAILING: Duration = Duration::from_secs(300);

/// The state that the probes check.
#[derive(Clone)]
pub(crate) struct Health {
    pub(crate) name: String,
    pub(crate) progress: Arc<Progress>,
    pub(crate) check: Option<HealthCheck>,
    /// The maximum time of one attempt.
    pub(crate) timeout: Duration,
}

type Answer = (StatusCode, Json<Value>);

impl Health {
    /// Returns baseplate's check: 200 when healthy, 503 when the callback returns `false`, 500
    /// when it fails.
    fn health(&self) -> Answer {
        let Some(check) = &self.check else {
            return self.answer(StatusCode::OK, "healthy", None);
        };
        match catch_unwind(AssertUnwindSafe(|| check())) {
            Ok(Ok(true)) => self.answer(StatusCode::OK, "healthy", None),
            Ok(Ok(false)) => self.answer(
                StatusCode::SERVICE_UNAVAILABLE,
                "unhealthy",
                Some("the health check returned false".into()),
            ),
            Ok(Err(error)) => self.answer(
                StatusCode::INTERNAL_SERVER_ERROR,
                "unknown",
                Some(format!("the health check failed: {error}")),
            ),
            Err(_) => self.answer(
                StatusCode::INTERNAL_SERVER_ERROR,
                "unknown",
                Some("the health check panicked".into()),
            ),
        }
    }

    /// Fails if no progress is possible, but never because of a rebalance.
    fn live(&self) -> Answer {
        let silence = self.progress.pump_silence();
        let attempt = self.progress.longest_attempt().unwrap_or_default();
        let failing = self.progress.failing_commits();
        let failing = failing.filter(|commits| commits.duration > COMMITS_FAILING);
        let stuck = if silence > PUMP_SILENCE {
            Some(format!("the pump has been silent for {silence:?}"))
        } else if attempt > self.timeout + ATTEMPT_GRACE {
            Some(format!(
                "a handler has been busy with one message for {attempt:?}"
            ))
        } else {
            failing.map(|FailingCommits { name, duration }| {
                format!("commits of {name} have been failing for {duration:?}")
            })
        };
        match stuck {
            None => self.answer(StatusCode::OK, "alive", None),
            Some(reason) => self.answer(StatusCode::SERVICE_UNAVAILABLE, "stuck", Some(reason)),
        }
    }

    /// Succeeds once the group has assigned partitions to this process, even none.
    fn ready(&self) -> Answer {
        match self.progress.assigned() {
            true => self.answer(StatusCode::OK, "ready", None),
            false => self.answer(
                StatusCode::SERVICE_UNAVAILABLE,
                "joining",
                Some("waiting for the group to assign partitions".into()),
            ),
        }
    }

    fn answer(&self, code: StatusCode, status: &str, reason: Option<String>) -> Answer {
        let mut body = json!({ "status": status, "consumer": self.name });
        if let Some(reason) = reason {
            body["reason"] = reason.into();
        }
        (code, Json(body))
    }
}

/// `/health`, `/livez` and `/readyz`.
pub(crate) fn health_pages(health: Health) -> Router {
    let (live, ready) = (health.clone(), health.clone());
    Router::new()
        .route("/health", get(move || async move { health.health() }))
        .route("/livez", get(move || async move { live.live() }))
        .route("/readyz", get(move || async move { ready.ready() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(check: Option<HealthCheck>) -> Health {
        Health {
            name: "kafka_consumer.test".into(),
            progress: Progress::new(1),
            check,
            timeout: Duration::from_secs(1),
        }
    }

    fn code(check: impl Fn() -> Result<bool, HealthCheckError> + Send + Sync + 'static) -> u16 {
        let (code, body) = health(Some(Arc::new(check))).health();
        assert!(body.is_object());
        code.as_u16()
    }

    #[test]
    fn without_a_callback_it_is_healthy_and_gives_a_json_object() {
        let (code, body) = health(None).health();
        assert_eq!(code, StatusCode::OK);
        assert_eq!(body["consumer"], "kafka_consumer.test");
    }

    #[test]
    fn the_callback_decides() {
        assert_eq!(code(|| Ok(true)), 200);
        assert_eq!(code(|| Ok(false)), 503);
        assert_eq!(code(|| Err("database".into())), 500);
        assert_eq!(code(|| panic!("callback")), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn commits_that_fail_for_minutes_end_it_but_not_those_of_a_partition_that_left() {
        let health = health(None);
        health.progress.commit_ended("orders", 3, false);
        tokio::time::advance(COMMITS_FAILING).await;
        health.progress.pumped();
        assert_eq!(health.live().0, StatusCode::OK);
        tokio::time::advance(Duration::from_secs(1)).await;
        health.progress.pumped();
        let (code, body) = health.live();
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            body["reason"],
            "commits of orders/3 have been failing for 301s"
        );
        health.progress.retain_owed(|| vec![("orders", 4)]);
        assert_eq!(health.live().0, StatusCode::OK);
    }

    #[test]
    fn it_is_ready_once_partitions_are_assigned_and_alive_before() {
        let health = health(None);
        assert_eq!(health.ready().0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(health.live().0, StatusCode::OK);
        health.progress.set_assigned(true);
        assert_eq!(health.ready().0, StatusCode::OK);
    }
}
