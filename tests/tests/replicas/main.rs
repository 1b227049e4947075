//! Three brokers with three replicas of everything: leaders and coordinators that move, a
//! broker that is killed under load, and a log that goes back.
//!
//! All tests share one cluster and take turns at it.

#![forbid(unsafe_code)]

mod run;
mod troubles;
mod unclean;

use std::error::Error;
use std::time::Duration;

use penstock_tests::kafka::Cluster;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(90);

/// The cluster, whole, for one test at a time.
async fn cluster() -> Result<MutexGuard<'static, Cluster>, Box<dyn Error>> {
    static SHARED: OnceCell<Mutex<Cluster>> = OnceCell::const_new();
    let shared = SHARED.get_or_try_init(async || Cluster::start().await.map(Mutex::new));
    let cluster = shared.await?.lock().await;
    cluster.restore().await?;
    Ok(cluster)
}
