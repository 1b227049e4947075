//! The installation's own life in a real cluster: its pods end, it is upgraded,
//! uninstalled and installed again, while consumers go on.
//!
//! The tests disturb what all of them share, so they run one after the other.

#![forbid(unsafe_code)]

mod helm;
mod operator;
mod removal;

use std::error::Error;
use std::time::Duration;

use penstock_tests::kubernetes::{Cluster, Installation, Scene};
use penstock_tests::load::Load;
use penstock_tests::oracle::{Disruption, Rule};
use penstock_tests::wait;
use tokio::sync::{Mutex, MutexGuard};

/// Any failure of a test.
type Outcome = Result<(), Box<dyn Error>>;

/// Longest time for what takes seconds on a quiet machine.
const LIMIT: Duration = Scene::LIMIT;

/// A test's turn.
struct Turn {
    installation: Installation,
    _turn: MutexGuard<'static, ()>,
}

impl Turn {
    /// Waits until no other test is at work, and installs Penstock as tests share it,
    /// whatever the one before has left.
    async fn wait() -> Result<Self, Box<dyn Error>> {
        static TURN: Mutex<()> = Mutex::const_new(());
        let turn = TURN.lock().await;
        let cluster = Cluster::shared().await?;
        let turn = Self {
            installation: Installation::install(cluster, NAMESPACE, &VALUES)?,
            _turn: turn,
        };
        wait::value("two operators, one of them leading", LIMIT, async || {
            turn.is_settled().map_err(|error| error.to_string())
        })
        .await?;
        Ok(turn)
    }

    /// An error when operators of an earlier test are not gone yet, or none leads.
    fn is_settled(&self) -> Result<(), Box<dyn Error>> {
        let pods = ["get", "pods", "-o", "jsonpath={.items[*].metadata.name}"];
        let pods = self.installation.run_kubectl(pods)?;
        let leader = self.installation.leader()?;
        let names: Vec<_> = pods.split_whitespace().collect();
        match names.len() == 2 && names.contains(&leader.as_str()) {
            true => Ok(()),
            false => Err(format!("'{leader}' leads among {names:?}").into()),
        }
    }

    /// Waits until another pod of the operator than `before` leads.
    async fn wait_for_other_leader(&self, before: &str) -> Outcome {
        let what = format!("another leader than {before}");
        wait::value(what, LIMIT, async || match self.installation.leader() {
            Ok(leader) if !leader.is_empty() && leader != before => Ok(()),
            Ok(leader) => Err(leader),
            Err(error) => Err(error.to_string()),
        })
        .await?;
        Ok(())
    }
}

/// Where tests share an installation, and its values.
const NAMESPACE: &str = "penstock-system";
const VALUES: [&str; 1] = ["recheckInterval=2s"];

/// Longest time for some messages of a steady load to be handled.
const STALL: Duration = Duration::from_secs(20);

/// Waits until some more messages are handled.
async fn goes_on(scene: &Scene) -> Outcome {
    let more = scene.recorder.handled() + 50;
    scene.recorder.wait_for_handled(more, STALL).await?;
    Ok(())
}

/// Ends the load, and waits until all of it was handled; each message once, unless
/// `disruption` explains more.
async fn all_handled(scene: &Scene, load: Load, disruption: Option<Disruption>) -> Outcome {
    let produced = load.stop().await?;
    let rules = [Rule::NothingLost, Rule::DuplicatesExplained];
    scene.all_handled(&produced, disruption, &rules).await
}
