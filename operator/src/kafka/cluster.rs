//! One cluster, as seen over one connection: its topics, and the consumers that
//! wait to hear of changes.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use super::Resolution;
use super::client::{self, Connection, ListError, Partitions, Topics};
use crate::controller::Triggers;
use crate::key::Key;

/// A listing of this age answers even for a topic that is not in it.
const FRESH: Duration = Duration::from_secs(2);

/// How soon topics that are missing are looked for again.
const MISSING_RECHECK: Duration = Duration::from_secs(10);

/// The first wait after brokers did not answer; it doubles up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(5);

pub(super) struct Cluster {
    connection: Arc<Connection>,
    listing: AsyncMutex<Option<Listing>>,
    members: Mutex<HashMap<Key, Member>>,
}

struct Listing {
    at: Instant,
    topics: Result<Topics, ListError>,
}

struct Member {
    topics: Vec<String>,
    /// What its last pass was told.
    told: Resolution,
}

impl Cluster {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self {
            connection,
            listing: AsyncMutex::default(),
            members: Mutex::default(),
        }
    }

    /// What became of a consumer's topics. The brokers are asked when they have
    /// not been yet, or when a topic is not in a listing that is no longer fresh;
    /// while they don't answer, only the timer asks.
    pub(super) async fn resolve(&self, consumer: &Key, topics: Vec<String>) -> Resolution {
        let mut listing = self.listing.lock().await;
        let known = listing
            .as_ref()
            .is_some_and(|listing| match &listing.topics {
                Ok(known) => {
                    listing.at.elapsed() < FRESH
                        || topics.iter().all(|topic| known.contains_key(topic))
                }
                Err(_) => true,
            });
        if !known {
            *listing = Some(self.ask().await);
        }
        let told = self.resolution(listing.as_ref(), &topics);
        let member = Member {
            topics,
            told: told.clone(),
        };
        self.members.lock().insert(consumer.clone(), member);
        told
    }

    /// Forgets a consumer. Tells whether any is left.
    pub(super) fn forget(&self, consumer: &Key) -> bool {
        let mut members = self.members.lock();
        members.remove(consumer);
        !members.is_empty()
    }

    /// Partitions of each of some topics, as last listed.
    pub(super) async fn partitions(&self, topics: &[String]) -> Vec<(String, Partitions)> {
        let listing = self.listing.lock().await;
        let Some(Ok(known)) = listing.as_ref().map(|listing| &listing.topics) else {
            return Vec::new();
        };
        let partitions = |topic: &String| Some((topic.clone(), known.get(topic)?.clone()));
        topics.iter().filter_map(partitions).collect()
    }

    async fn ask(&self) -> Listing {
        let topics = client::list_topics(&self.connection).await;
        if let Err(error) = &topics {
            tracing::warn!(
                brokers = self.connection.brokers(),
                "topics can't be listed: {error}"
            );
        }
        Listing {
            at: Instant::now(),
            topics,
        }
    }

    fn resolution(&self, listing: Option<&Listing>, topics: &[String]) -> Resolution {
        let known = match listing.map(|listing| &listing.topics) {
            Some(Ok(known)) => known,
            Some(Err(error)) => return error.resolution(&self.connection),
            None => return Resolution::Missing(topics.to_vec()),
        };
        let missing: Vec<String> = topics
            .iter()
            .filter(|topic| !known.contains_key(*topic))
            .cloned()
            .collect();
        match missing.is_empty() {
            true => Resolution::Found,
            false => Resolution::Missing(missing),
        }
    }

    /// Lists the topics anew and wakes the consumers for which the answer changed.
    /// Returns whether brokers answered.
    async fn renew(&self, triggers: &Triggers) -> bool {
        let renewed = self.ask().await;
        let answered = renewed.topics.is_ok();
        let changed: Vec<Key> = self
            .members
            .lock()
            .iter()
            .filter(|(_, member)| self.resolution(Some(&renewed), &member.topics) != member.told)
            .map(|(consumer, _)| consumer.clone())
            .collect();
        *self.listing.lock().await = Some(renewed);
        changed.iter().for_each(|consumer| triggers.wake(consumer));
        answered
    }

    fn misses_topics(&self) -> bool {
        let members = self.members.lock();
        let mut resolutions = members.values().map(|member| &member.told);
        resolutions.any(|told| matches!(told, Resolution::Missing(_)))
    }

    fn is_unreachable(&self) -> bool {
        let members = self.members.lock();
        let mut resolutions = members.values().map(|member| &member.told);
        resolutions.any(|told| {
            matches!(
                told,
                Resolution::Unreachable { .. } | Resolution::Refused { .. }
            )
        })
    }
}

/// Renews a cluster's listing for as long as somebody holds it.
pub(super) async fn keep(cluster: Weak<Cluster>, interval: Duration, triggers: Triggers) {
    let mut failures = 0;
    loop {
        let Some(held) = cluster.upgrade() else {
            return;
        };
        let wait = if failures > 0 || held.is_unreachable() {
            interval.min(FIRST_RETRY * 2_u32.pow(failures.min(5)))
        } else if held.misses_topics() {
            interval.min(MISSING_RECHECK)
        } else {
            interval
        };
        drop(held);
        tokio::time::sleep(wait).await;
        let Some(held) = cluster.upgrade() else {
            return;
        };
        failures = match held.renew(&triggers).await {
            true => 0,
            false => failures + 1,
        };
    }
}
