//! The operator's own pages: /livez, /readyz and /metrics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use parking_lot::Mutex;

use crate::metrics::Metrics;

/// The loop that keeps the Lease goes round at least this often; much longer
/// without is a standstill.
const SILENCE: Duration = Duration::from_secs(60);

/// What the operator is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has not heard of the Lease yet.
    Starting,
    /// Another one works; this one takes over when that one goes.
    Standby {
        /// Who works.
        leader: String,
    },
    /// It leads and lists what there is.
    Syncing,
    /// It works.
    Leading,
    /// It finishes what it has begun.
    Stopping,
}

/// What the probes look at.
#[derive(Clone)]
pub struct Health(Arc<Mutex<State>>);

struct State {
    phase: Phase,
    /// When the loop that keeps the Lease last went round.
    alive: Instant,
}

impl Default for Health {
    /// At the start.
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            phase: Phase::Starting,
            alive: Instant::now(),
        })))
    }
}

impl Health {
    /// From now on it is at this.
    pub fn enter(&self, phase: Phase) {
        let mut state = self.0.lock();
        if state.phase != phase {
            tracing::debug!("now {phase:?}");
            state.phase = phase;
        }
    }

    /// Everything has been listed.
    pub fn synced(&self) {
        let mut state = self.0.lock();
        if state.phase == Phase::Syncing {
            state.phase = Phase::Leading;
        }
    }

    /// Returns `true` while it leads and nothing has been looked at: not everything has
    /// been listed.
    pub fn is_syncing(&self) -> bool {
        self.0.lock().phase == Phase::Syncing
    }

    /// The loop has gone round.
    pub fn alive(&self) {
        self.0.lock().alive = Instant::now();
    }

    fn live(&self) -> (StatusCode, String) {
        let silence = self.0.lock().alive.elapsed();
        match silence < SILENCE {
            true => (StatusCode::OK, "alive\n".to_owned()),
            false => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("leader election has stood still for {silence:?}\n"),
            ),
        }
    }

    /// A standby is ready too: it is there to take over.
    fn ready(&self) -> (StatusCode, String) {
        let phase = self.0.lock().phase.clone();
        let (ready, text) = match phase {
            Phase::Starting => (false, "waiting to hear of the Lease".to_owned()),
            Phase::Standby { leader } => (true, format!("standing by for {leader}")),
            Phase::Syncing => (
                false,
                "waiting for the first lists of all objects".to_owned(),
            ),
            Phase::Leading => (true, "leading".to_owned()),
            Phase::Stopping => (false, "stopping".to_owned()),
        };
        let status = match ready {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, format!("{text}\n"))
    }
}

/// All pages.
pub fn pages(health: Health, metrics: Metrics) -> Router {
    let ready = health.clone();
    Router::new()
        .route("/livez", get(move || async move { health.live() }))
        .route("/readyz", get(move || async move { ready.ready() }))
        .route(
            "/metrics",
            get(move || async move {
                let text = metrics.text();
                ([("content-type", "text/plain; version=0.0.4")], text)
            }),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_when_it_works_or_stands_by() {
        let health = Health::default();
        assert_eq!(health.ready().0, 503);
        health.enter(Phase::Standby { leader: "a".into() });
        assert_eq!(
            health.ready(),
            (StatusCode::OK, "standing by for a\n".into())
        );
        health.enter(Phase::Syncing);
        assert_eq!(health.ready().0, 503);
        health.synced();
        assert_eq!(health.ready().0, 200);
        health.enter(Phase::Stopping);
        health.synced();
        assert_eq!(health.ready().0, 503);
        assert_eq!(health.live().0, 200);
    }
}
