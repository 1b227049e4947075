//! Leader election: of several operators, the one that holds the Lease works.
//!
//! The rules are those of Kubernetes' own components (client-go's
//! `leaderelection`): a Lease is taken when it is free, or when its holder has
//! not renewed it for its duration by the taker's own clock; a holder that could
//! not renew it stops well before that. No well-kept crate does this for the
//! version of `kube` that is used here.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::time::{Instant, sleep, timeout};

/// How long a Lease is good for after its renewal.
pub const DURATION: Duration = Duration::from_secs(15);

/// How often it is renewed.
pub const PERIOD: Duration = Duration::from_secs(5);

/// How often a standby looks whether it is free: the longest that a Lease which was given
/// back stays without a holder.
pub const STANDBY_PERIOD: Duration = Duration::from_secs(2);

/// How long after its last renewal its holder goes on working. The rest of the
/// duration is for requests under way, so that no two work at once.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// How soon a renewal that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Longest time for one request.
const REQUEST: Duration = Duration::from_secs(3);

/// How long a Lease is tried to be given back, and how soon again. By then it is about to
/// run out by itself.
const RELEASE: Duration = Duration::from_secs(8);
const RELEASE_RETRY: Duration = Duration::from_millis(200);

/// Somebody who wants the Lease, or has it.
pub struct Candidate {
    leases: Api<Lease>,
    name: String,
    identity: String,
    /// The Lease as last seen, and when it was first seen like this.
    seen: Option<(Lease, Instant)>,
}

/// What an attempt to take the Lease came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It is ours.
    Held,
    /// It is this one's.
    Other(String),
    /// Somebody was faster, or the API server did not answer.
    Failed(String),
}

impl Candidate {
    /// Creates a candidate for the Lease of this name among `leases`, those of the operator's
    /// namespace. `identity` must be another for each candidate.
    pub fn new(leases: Api<Lease>, name: String, identity: String) -> Self {
        Self {
            leases,
            name,
            identity,
            seen: None,
        }
    }

    /// Waits until the Lease is ours. Each attempt is told to `progress`.
    pub async fn acquire(&mut self, mut progress: impl FnMut(&Attempt)) {
        loop {
            let attempt = self.attempt().await;
            progress(&attempt);
            match attempt {
                Attempt::Held => return,
                Attempt::Other(_) => sleep(STANDBY_PERIOD).await,
                Attempt::Failed(_) => sleep(RETRY).await,
            }
        }
    }

    /// Renews the Lease for as long as that works. Each attempt is told to
    /// `progress`. Returns why it is lost.
    pub async fn keep(&mut self, mut progress: impl FnMut(&Attempt)) -> String {
        let mut renewed = Instant::now();
        loop {
            sleep(PERIOD).await;
            loop {
                let left = DEADLINE.saturating_sub(renewed.elapsed());
                let began = Instant::now();
                let attempt = match timeout(left, self.attempt()).await {
                    Ok(attempt) => attempt,
                    Err(_) => return "it could not be renewed in time".to_owned(),
                };
                progress(&attempt);
                match attempt {
                    Attempt::Held => {
                        renewed = began;
                        break;
                    }
                    Attempt::Other(holder) => return format!("'{holder}' holds it"),
                    Attempt::Failed(error) if renewed.elapsed() + RETRY > DEADLINE => return error,
                    Attempt::Failed(_) => sleep(RETRY).await,
                }
            }
        }
    }

    /// Gives the Lease back if it is ours, so that another need not wait for its
    /// end.
    ///
    /// A request that was cut off may still reach the API server: a claim or a renewal
    /// that was under way at the stop. So this looks first, and again when the Lease was
    /// touched meanwhile.
    pub async fn release(&mut self) {
        let mut error = String::new();
        let released = timeout(RELEASE, async {
            while let Err(reason) = self.try_release().await {
                tracing::debug!("the Lease is given back again: {reason}");
                error = reason;
                sleep(RELEASE_RETRY).await;
            }
        });
        if released.await.is_err() {
            tracing::warn!("the Lease could not be given back: {error}");
        }
    }

    async fn try_release(&mut self) -> Result<(), String> {
        self.seen = None;
        let Some(mut lease) = self.look().await? else {
            return Ok(());
        };
        if holder(&lease) != Some(&self.identity) {
            return Ok(());
        }
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
        }
        self.replace(&lease).await.map(drop)
    }

    /// Takes or renews the Lease, if that may be.
    pub async fn attempt(&mut self) -> Attempt {
        match self.try_once().await {
            Ok(attempt) => attempt,
            Err(error) => Attempt::Failed(error),
        }
    }

    async fn try_once(&mut self) -> Result<Attempt, String> {
        // A holder whose Lease nobody has touched renews it in one request.
        let ours = |seen: &(Lease, Instant)| holder(&seen.0) == Some(&self.identity);
        let current = match self.seen.clone().filter(ours) {
            Some((lease, _)) => lease,
            None => match self.look().await? {
                Some(lease) => lease,
                None => return self.create().await,
            },
        };
        if let Some(other) = holder(&current).filter(|holder| **holder != self.identity)
            && !self.has_expired(&current)
        {
            return Ok(Attempt::Other(other.clone()));
        }
        match self.replace(&self.claim(&current)).await {
            Ok(lease) => {
                self.see(lease);
                Ok(Attempt::Held)
            }
            Err(error) => {
                // Somebody has touched it: look again.
                self.seen = None;
                match self.look().await? {
                    Some(lease)
                        if holder(&lease).is_some_and(|holder| *holder != self.identity) =>
                    {
                        Ok(Attempt::Other(holder(&lease).cloned().unwrap_or_default()))
                    }
                    _ => Err(error),
                }
            }
        }
    }

    /// Reads the Lease and notes when it was first seen like this.
    async fn look(&mut self) -> Result<Option<Lease>, String> {
        let lease = request(self.leases.get_opt(&self.name)).await?;
        if let Some(lease) = &lease {
            self.see(lease.clone());
        }
        Ok(lease)
    }

    fn see(&mut self, lease: Lease) {
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        let since = self
            .seen
            .take()
            .filter(|(seen, _)| version(seen) == version(&lease))
            .map_or_else(Instant::now, |(_, since)| since);
        self.seen = Some((lease, since));
    }

    /// By our own clock, since clocks differ: the Lease has stood untouched for
    /// as long as its holder said.
    fn has_expired(&self, lease: &Lease) -> bool {
        let spec = lease.spec.as_ref();
        let seconds = spec
            .and_then(|spec| spec.lease_duration_seconds)
            .unwrap_or_default();
        let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        self.seen
            .as_ref()
            .is_some_and(|(_, since)| since.elapsed() >= duration)
    }

    async fn create(&mut self) -> Result<Attempt, String> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        };
        let lease = self.claim(&lease);
        let created = request(self.leases.create(&PostParams::default(), &lease)).await?;
        self.see(created);
        Ok(Attempt::Held)
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, String> {
        request(
            self.leases
                .replace(&self.name, &PostParams::default(), lease),
        )
        .await
    }

    /// The Lease as it is when it is ours.
    fn claim(&self, lease: &Lease) -> Lease {
        let before = lease.spec.clone().unwrap_or_default();
        let ours = before.holder_identity.as_ref() == Some(&self.identity);
        let now = MicroTime(Timestamp::now());
        let transitions = before.lease_transitions.unwrap_or_default();
        Lease {
            metadata: lease.metadata.clone(),
            spec: Some(LeaseSpec {
                acquire_time: match ours {
                    true => before.acquire_time.clone(),
                    false => Some(now.clone()),
                },
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                lease_transitions: Some(transitions + i32::from(!ours)),
                renew_time: Some(now),
                ..before
            }),
        }
    }
}

fn holder(lease: &Lease) -> Option<&String> {
    let holder = lease.spec.as_ref()?.holder_identity.as_ref()?;
    Some(holder).filter(|holder| !holder.is_empty())
}

async fn request<T>(answer: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match timeout(REQUEST, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("the API server did not answer in time".to_owned()),
    }
}
