//! Leader election: of several operators, the one that holds the Lease works.
//!
//! The rules are those of client-go's `leaderelection`, which Kubernetes' components use. A
//! contender takes a free Lease, or a Lease that its holder has not renewed for its duration by the
//! contender's own clock. A holder that can't renew the Lease stops well before that. No maintained
//! crate does this for the version of `kube` that Penstock uses.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::time::{Instant, sleep, timeout};

/// The duration of a Lease after its renewal.
pub const DURATION: Duration = Duration::from_secs(15);

/// The time between two renewals.
pub const PERIOD: Duration = Duration::from_secs(5);

/// The time between two attempts of a standby, and so the maximum time without a holder after a
/// release.
pub const STANDBY_PERIOD: Duration = Duration::from_secs(2);

/// The time after the last renewal for which the holder continues to work. The rest of the duration
/// is for running requests, so that two operators never work at the same time.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// The wait before a failed renewal is repeated.
const RETRY: Duration = Duration::from_secs(1);

/// The maximum time for one request.
const REQUEST: Duration = Duration::from_secs(3);

/// The maximum time for a release, and the wait before it is repeated. After that time, the Lease
/// soon expires.
const RELEASE: Duration = Duration::from_secs(8);
const RELEASE_RETRY: Duration = Duration::from_millis(200);

/// A contender for the Lease, or its holder.
pub struct Candidate {
    leases: Api<Lease>,
    name: String,
    identity: String,
    /// The Lease as last seen, and the time at which it was first seen in this state.
    seen: Option<(Lease, Instant)>,
}

/// The result of an attempt to acquire or renew the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// This operator holds the Lease.
    Held,
    /// The operator with this name holds the Lease.
    Other(String),
    /// Another operator was faster, or the API server did not answer.
    Failed(String),
}

impl Candidate {
    /// Creates a candidate for the Lease of this name. `leases` are those of the operator's
    /// namespace. Each candidate needs a different `identity`.
    pub fn new(leases: Api<Lease>, name: String, identity: String) -> Self {
        Self {
            leases,
            name,
            identity,
            seen: None,
        }
    }

    /// Waits until this operator holds the Lease. Reports each attempt to `progress`.
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

    /// Renews the Lease until a renewal fails for too long. Reports each attempt to `progress`.
    /// Returns the reason of the loss.
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

    /// Releases the Lease if this operator holds it, so that another need not wait until it
    /// expires.
    ///
    /// A claim or a renewal that was interrupted at the stop may still reach the API server. So
    /// this reads the Lease first, and again if it has changed meanwhile.
    pub async fn release(&mut self) {
        let mut error = String::new();
        let released = timeout(RELEASE, async {
            while let Err(reason) = self.try_release().await {
                tracing::debug!(
                    error = reason,
                    "the release of the Lease failed and is repeated"
                );
                error = reason;
                sleep(RELEASE_RETRY).await;
            }
        });
        if released.await.is_err() {
            tracing::warn!(
                error,
                duration = ?DURATION,
                "the Lease could not be released; it expires after its duration"
            );
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

    /// Takes or renews the Lease if the rules allow it.
    pub async fn attempt(&mut self) -> Attempt {
        match self.try_once().await {
            Ok(attempt) => attempt,
            Err(error) => Attempt::Failed(error),
        }
    }

    async fn try_once(&mut self) -> Result<Attempt, String> {
        // A holder whose Lease is unchanged renews it in one request.
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
                // The Lease has changed: read it again.
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

    /// Reads the Lease, and notes when it was first seen in this state.
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

    /// Returns `true` if the Lease has been unchanged for the duration that its holder set, by the
    /// local clock: clocks of machines differ.
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

    /// Returns the Lease as this operator writes it when it holds it.
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
