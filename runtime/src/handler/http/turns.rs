//! Whose requests run at the same time.

use std::future::Future;
use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The time between two signs of life in a wait.
const TICK: Duration = Duration::from_secs(5);

/// Turns of requests: most run side by side. After the handler's process has died, one that it
/// may have died of runs alone, so that nothing else is charged for it.
#[derive(Default)]
pub(super) struct Turns(RwLock<()>);

impl Turns {
    /// Waits for a turn beside others. Calls `alive` while that takes long.
    pub(super) async fn together(&self, alive: &(dyn Fn() + Sync)) -> RwLockReadGuard<'_, ()> {
        patiently(self.0.read(), alive).await
    }

    /// Waits for a turn alone. Calls `alive` while that takes long.
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
