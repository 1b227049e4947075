//! The requests that run at the same time as others, and those that run alone.

use std::future::Future;
use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The time between two calls of `alive` during a wait.
const TICK: Duration = Duration::from_secs(5);

/// Turns of requests. Most requests run at the same time. After the handler's process has died, a
/// request that may be the cause runs alone, so that no other message is charged for it.
#[derive(Default)]
pub(super) struct Turns(RwLock<()>);

impl Turns {
    /// Waits for a turn at the same time as others. Calls `alive` during a long wait.
    pub(super) async fn together(&self, alive: &(dyn Fn() + Sync)) -> RwLockReadGuard<'_, ()> {
        patiently(self.0.read(), alive).await
    }

    /// Waits for a turn alone. Calls `alive` during a long wait.
    pub(super) async fn alone(&self, alive: &(dyn Fn() + Sync)) -> RwLockWriteGuard<'_, ()> {
        patiently(self.0.write(), alive).await
    }
}

async fn patiently<O>(turn: impl Future<Output = O>, alive: &(dyn Fn() + Sync)) -> O {
    tokio::pin!(turn);
    let turn = loop {
        match tokio::time::timeout(TICK, &mut turn).await {
            Ok(turn) => break turn,
            Err(_) => alive(),
        }
    };
    alive();
    turn
}
