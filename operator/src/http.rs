//! The operator's own pages: /livez, /readyz and /metrics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use parking_lot::Mutex;

use crate::metrics::Metrics;
use crate::passes::Passes;

/// The loop that keeps the Lease goes round at least this often; much longer
/// without is a standstill.
const SILENCE: Duration = Duration::from_secs(60);

/// A pass ends within a minute, whatever it waits for. So passes that are under way for
/// this long, none of which ends, are a standstill.
const STANDSTILL: Duration = Duration::from_secs(180);

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
pub struct Health {
    state: Arc<Mutex<State>>,
    passes: Passes,
}

struct State {
    phase: Phase,
    /// When the loop that keeps the Lease last went round.
    alive: Instant,
}

impl Default for Health {
    /// At the start.
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
    /// From now on it is at this.
    pub fn enter(&self, phase: Phase) {
        let mut state = self.state.lock();
        if state.phase != phase {
            tracing::debug!("now {phase:?}");
            state.phase = phase;
        }
    }

    /// Everything has been listed.
    pub fn synced(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Syncing {
            state.phase = Phase::Leading;
        }
    }

    /// Returns `true` while it leads and nothing has been looked at: not everything has
    /// been listed.
    pub fn is_syncing(&self) -> bool {
        self.state.lock().phase == Phase::Syncing
    }

    /// The loop has gone round.
    pub fn alive(&self) {
        self.state.lock().alive = Instant::now();
    }

    /// Returns the passes that it looks at.
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

    /// A standby is ready too: it is there to take over.
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
