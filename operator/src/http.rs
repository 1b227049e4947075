//! The operator's pages: /livez, /readyz and /metrics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use parking_lot::Mutex;

use crate::metrics::Metrics;
use crate::passes::Passes;

/// The maximum time between two rounds of the loop that keeps the Lease. After it, the operator is
/// not alive.
const SILENCE: Duration = Duration::from_secs(60);

/// The maximum time in which no running pass ends. A pass ends within a minute, whatever it waits
/// for.
const STANDSTILL: Duration = Duration::from_secs(180);

/// The phase of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The operator has not seen the Lease yet.
    Starting,
    /// Another operator works. This one takes over when that one ends.
    Standby {
        /// The name of the operator that works.
        leader: String,
    },
    /// The operator leads, and lists the existing objects.
    Syncing,
    /// The operator works.
    Leading,
    /// The operator waits for the passes that have begun.
    Stopping,
}

/// The state that the probes report.
#[derive(Clone)]
pub struct Health {
    state: Arc<Mutex<State>>,
    passes: Passes,
}

struct State {
    phase: Phase,
    /// The last round of the loop that keeps the Lease.
    alive: Instant,
}

impl Default for Health {
    /// Creates the state of an operator that starts.
    fn default() -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                phase: Phase::Starting,
                alive: Instant::now(),
            })),
            passes: Passes::default(),
        }
    }
}

impl Health {
    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        let mut state = self.state.lock();
        if state.phase != phase {
            tracing::debug!(?phase, "the operator enters a phase");
            state.phase = phase;
        }
    }

    /// Notes that all objects have been listed.
    pub fn synced(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Syncing {
            state.phase = Phase::Leading;
        }
    }

    /// Returns `true` while the operator leads and has not listed all objects, so that no pass has
    /// begun.
    pub fn is_syncing(&self) -> bool {
        self.state.lock().phase == Phase::Syncing
    }

    /// Notes a round of the loop that keeps the Lease.
    pub fn alive(&self) {
        self.state.lock().alive = Instant::now();
    }

    /// Returns the passes that the liveness probe observes.
    pub fn passes(&self) -> Passes {
        self.passes.clone()
    }

    fn live(&self) -> (StatusCode, String) {
        let silence = self.state.lock().alive.elapsed();
        let standstill = self.passes.standstill();
        if silence >= SILENCE {
            (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("leader election has stood still for {silence:?}\n"),
            )
        } else if standstill >= STANDSTILL {
            (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("no pass has ended for {standstill:?}\n"),
            )
        } else {
            (StatusCode::OK, "alive\n".to_owned())
        }
    }

    /// A standby is ready too: it can take over.
    fn ready(&self) -> (StatusCode, String) {
        let phase = self.state.lock().phase.clone();
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

/// Returns the router of all pages.
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

    #[tokio::test(start_paused = true)]
    async fn it_is_not_alive_when_no_pass_ends() {
        let health = Health::default();
        let (passes, key) = (health.passes(), crate::key::Key::new("shop", "orders"));
        tokio::time::sleep(STANDSTILL * 10).await;
        assert_eq!(health.live().0, 200, "nothing is to be done");
        passes.saw(key.clone());
        passes.begin(&key);
        tokio::time::sleep(STANDSTILL / 2).await;
        assert_eq!(health.live().0, 200);
        tokio::time::sleep(STANDSTILL / 2).await;
        assert_eq!(health.live().0, 503);
        passes.end(&key);
        assert_eq!(health.live().0, 200);
    }
}
