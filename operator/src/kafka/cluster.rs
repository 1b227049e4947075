//! One cluster over one connection: the topics that consumers name, and the consumers to wake after
//! a change. A separate task asks the brokers, so that no pass has to.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::Resolution;
use super::client::{self, ListError, Partitions, Topics};
use super::policy::BrokerPolicy;
use super::settings::Connection;
use super::slots::{Slot, Slots};
use crate::key::Key;
use crate::triggers::Triggers;

/// The maximum age of a listing that may answer that a topic is missing.
const FRESH: Duration = Duration::from_secs(2);

/// The time after which missing topics are looked for again.
const MISSING_RECHECK: Duration = Duration::from_secs(10);

/// The first wait after brokers did not answer; it doubles up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(5);

/// The time for which a pass with a seat waits for the brokers' answer.
const PATIENCE: Duration = Duration::from_secs(25);

/// The maximum number of topics in one listing. If consumers name more, the topics with the oldest
/// answers are next.
const MAX_TOPICS_LISTED: usize = 500;

pub(super) struct Cluster {
    connection: Arc<Connection>,
    policy: Arc<BrokerPolicy>,
    listing: watch::Sender<Option<Arc<Listing>>>,
    members: Mutex<HashMap<Key, Member>>,
    /// Notified when a pass needs an answer before the interval ends.
    wanted: Arc<Notify>,
}

struct Listing {
    at: Instant,
    topics: Result<HashMap<String, Topic>, ListError>,
}

#[derive(Clone)]
struct Topic {
    asked: Instant,
    /// `None` if the topic does not exist.
    partitions: Option<Partitions>,
}

struct Member {
    topics: Vec<String>,
    /// The result of the last pass; `None` while a pass waits for it.
    told: Option<Resolution>,
}

impl Cluster {
    pub(super) fn new(connection: Arc<Connection>, policy: Arc<BrokerPolicy>) -> Self {
        Self {
            connection,
            policy,
            listing: watch::Sender::new(None),
            members: Mutex::default(),
            wanted: Arc::default(),
        }
    }

    /// Returns the result of the search for a consumer's topics. If the brokers have not been asked
    /// for one of them yet, or an older listing lacks it, they are asked. The pass waits for their
    /// answer if a seat is free. While the brokers do not answer, they are only asked periodically.
    pub(super) async fn resolve(
        &self,
        consumer: &Key,
        topics: Vec<String>,
        seats: &Slots,
    ) -> Resolution {
        let mut listings = self.listing.subscribe();
        let known = listings.borrow_and_update().clone();
        self.enter(consumer, topics.clone());
        if must_ask(known.as_deref(), &topics) {
            self.wanted.notify_one();
            if let Some(_seat) = seats.try_take(self.connection.namespace()) {
                let answers = |listing: &Option<Arc<Listing>>| {
                    listing.as_ref().is_some_and(|listing| {
                        let is_new = !known
                            .as_ref()
                            .is_some_and(|known| Arc::ptr_eq(known, listing));
                        is_new && listing.covers(&topics)
                    })
                };
                // Without an answer now, the consumer is woken when it arrives.
                let _ = timeout(PATIENCE, listings.wait_for(answers)).await;
            }
        }
        self.tell(consumer, &topics)
    }

    /// Forgets a consumer. Returns `true` if any remains.
    pub(super) fn forget(&self, consumer: &Key) -> bool {
        let mut members = self.members.lock();
        members.remove(consumer);
        !members.is_empty()
    }

    /// Returns the partitions of topics, as last listed.
    pub(super) fn partitions(&self, topics: &[String]) -> Vec<(String, Partitions)> {
        let listing = self.listing.borrow().clone();
        let Some(Ok(known)) = listing.as_ref().map(|listing| &listing.topics) else {
            return Vec::new();
        };
        let partitions =
            |topic: &String| Some((topic.clone(), known.get(topic)?.partitions.clone()?));
        topics.iter().filter_map(partitions).collect()
    }

    fn enter(&self, consumer: &Key, topics: Vec<String>) {
        let member = Member { topics, told: None };
        self.members.lock().insert(consumer.clone(), member);
    }

    /// Notes and returns the result. The lock is the one under which [`Self::renew`] looks for
    /// consumers with another result.
    fn tell(&self, consumer: &Key, topics: &[String]) -> Resolution {
        let mut members = self.members.lock();
        let listing = self.listing.borrow().clone();
        let told = self.resolution(listing.as_deref(), topics);
        if let Some(member) = members.get_mut(consumer) {
            member.told = Some(told.clone());
        }
        told
    }

    fn resolution(&self, listing: Option<&Listing>, topics: &[String]) -> Resolution {
        let known = match listing.map(|listing| &listing.topics) {
            Some(Ok(known)) => known,
            Some(Err(error)) => return error.resolution(&self.connection),
            None => return Resolution::Pending,
        };
        let is_missing = |topic: &&String| {
            let known = known.get(*topic);
            known.is_some_and(|topic| topic.partitions.is_none())
        };
        let missing: Vec<String> = topics.iter().filter(is_missing).cloned().collect();
        if !missing.is_empty() {
            return Resolution::Missing(missing);
        }
        if topics.iter().all(|topic| known.contains_key(topic)) {
            Resolution::Found
        } else {
            Resolution::Pending
        }
    }

    /// Lists the topics again and wakes the consumers for which the answer changed.
    /// Returns `true` if brokers answered.
    async fn renew(&self, slot: Slot, triggers: &Triggers) -> bool {
        let topics = self.topics_to_list();
        let slot = Arc::new(slot);
        let answer = client::list_topics(&slot, &self.connection, &self.policy, topics).await;
        drop(slot);
        if let Err(error) = &answer {
            tracing::warn!(
                namespace = self.connection.namespace(),
                brokers = self.connection.brokers(),
                %error,
                "the topics could not be listed; the attempt is repeated"
            );
        }
        let answered = answer.is_ok();
        let listing = Arc::new(self.merged(answer));
        let members = self.members.lock();
        self.listing.send_replace(Some(Arc::clone(&listing)));
        for (consumer, member) in members.iter() {
            let answer = self.resolution(Some(&listing), &member.topics);
            if member.told.as_ref().is_some_and(|told| *told != answer) {
                triggers.wake(consumer);
            }
        }
        let unasked = |member: &Member| !listing.covers(&member.topics);
        if answered && members.values().any(unasked) {
            self.wanted.notify_one();
        }
        answered
    }

    /// Returns the topics that consumers name: first topics without an answer, then topics with the
    /// oldest answers.
    fn topics_to_list(&self) -> Vec<String> {
        let members = self.members.lock();
        let names: BTreeSet<&String> = members.values().flat_map(|member| &member.topics).collect();
        let listing = self.listing.borrow().clone();
        let known = listing
            .as_ref()
            .and_then(|listing| listing.topics.as_ref().ok());
        let asked = |name: &String| known.and_then(|known| Some(known.get(name)?.asked));
        let mut names: Vec<&String> = names.into_iter().collect();
        names.sort_by_key(|name| asked(name));
        names.into_iter().take(MAX_TOPICS_LISTED).cloned().collect()
    }

    /// Returns the answer, with earlier answers for the topics that were not asked for this time.
    fn merged(&self, answer: Result<Topics, ListError>) -> Listing {
        let at = Instant::now();
        let members = self.members.lock();
        let named: BTreeSet<&String> = members.values().flat_map(|member| &member.topics).collect();
        let before = self.listing.borrow().clone();
        let topics = answer.map(|answer| {
            let before = before
                .as_ref()
                .and_then(|listing| listing.topics.as_ref().ok());
            let mut topics: HashMap<String, Topic> = before
                .into_iter()
                .flatten()
                .filter(|(name, _)| named.contains(name))
                .map(|(name, topic)| (name.clone(), topic.clone()))
                .collect();
            topics.extend(answer.into_iter().map(|(name, partitions)| {
                let topic = Topic {
                    asked: at,
                    partitions,
                };
                (name, topic)
            }));
            topics
        });
        Listing { at, topics }
    }

    fn misses_topics(&self) -> bool {
        let members = self.members.lock();
        let mut told = members.values().filter_map(|member| member.told.as_ref());
        told.any(|told| matches!(told, Resolution::Missing(_)))
    }
}

impl Listing {
    /// Returns `true` if the listing has an answer for every topic.
    fn covers(&self, topics: &[String]) -> bool {
        match &self.topics {
            Ok(known) => topics.iter().all(|topic| known.contains_key(topic)),
            Err(_) => true,
        }
    }
}

fn must_ask(listing: Option<&Listing>, topics: &[String]) -> bool {
    let Some(listing) = listing else {
        return true;
    };
    let Ok(known) = &listing.topics else {
        return false;
    };
    let is_there = |topic: &String| known.get(topic).is_some_and(|it| it.partitions.is_some());
    let is_fresh = listing.at.elapsed() < FRESH && listing.covers(topics);
    !is_fresh && !topics.iter().all(is_there)
}

/// Asks the brokers while a consumer holds the cluster: immediately, periodically, and when a pass
/// needs an answer. Each time it waits for a slot of the namespace.
pub(super) async fn keep(
    cluster: Arc<Cluster>,
    slots: Arc<Slots>,
    interval: Duration,
    triggers: Triggers,
) {
    let wanted = Arc::clone(&cluster.wanted);
    let namespace = cluster.connection.namespace().to_owned();
    let cluster: Weak<Cluster> = {
        let held = Arc::downgrade(&cluster);
        drop(cluster);
        held
    };
    let mut failures = 0;
    loop {
        let Some(slot) = slots.take(&namespace).await else {
            return;
        };
        let Some(held) = cluster.upgrade() else {
            return;
        };
        // The next listing answers all requests until now.
        let _ = wanted.notified().now_or_never();
        failures = match held.renew(slot, &triggers).await {
            true => 0,
            false => failures + 1,
        };
        let wait = if failures > 0 {
            interval.min(FIRST_RETRY * 2_u32.pow((failures - 1).min(5)))
        } else if held.misses_topics() {
            interval.min(MISSING_RECHECK)
        } else {
            interval
        };
        drop(held);
        tokio::select! {
            () = sleep(jittered(wait)) => {}
            () = wanted.notified() => {}
        }
    }
}

/// Returns a wait that is up to a tenth shorter: consumers that were found at the same time are not
/// asked for at the same time forever.
pub(super) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(1.0 - rand::random::<f64>() / 10.0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn names(numbers: std::ops::Range<usize>) -> Vec<String> {
        numbers.map(|number| format!("topic-{number:03}")).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn only_topics_that_are_named_are_listed_and_each_in_its_turn() {
        let connection = Connection::new("shop", BTreeMap::new(), None);
        let cluster = Cluster::new(Arc::new(connection), Arc::default());
        let consumers = ["a", "b"].map(|name| Key::new("shop", name));
        cluster.enter(&consumers[0], names(0..400));
        cluster.enter(&consumers[1], names(300..600));
        let answer = |topics: &[String]| -> Topics {
            let topics = topics.iter();
            topics
                .map(|topic| (topic.clone(), Some(Partitions::default())))
                .collect()
        };
        let first = cluster.topics_to_list();
        assert_eq!(first.len(), MAX_TOPICS_LISTED);
        let listing = cluster.merged(Ok(answer(&first)));
        cluster.listing.send_replace(Some(Arc::new(listing)));
        assert_eq!(
            cluster.tell(&consumers[0], &names(0..400)),
            Resolution::Found
        );
        assert_eq!(
            cluster.tell(&consumers[1], &names(300..600)),
            Resolution::Pending,
            "the last hundred have not been asked for"
        );
        tokio::time::sleep(Duration::from_secs(60)).await;
        let second = cluster.topics_to_list();
        let (unasked, _) = second.split_at(100);
        assert!(unasked.iter().all(|topic| !first.contains(topic)));
        let listing = cluster.merged(Ok(answer(&second)));
        cluster.listing.send_replace(Some(Arc::new(listing)));
        let all = [&consumers[0], &consumers[1]].map(|key| cluster.tell(key, &names(0..600)));
        assert_eq!(all, [Resolution::Found, Resolution::Found]);
        // Topics that nobody names any more are forgotten.
        cluster.forget(&consumers[1]);
        cluster.enter(&consumers[0], names(0..1));
        assert_eq!(cluster.topics_to_list(), names(0..1));
        let listing = cluster.merged(Ok(Topics::new()));
        assert_eq!(listing.topics.unwrap().len(), 1);
    }
}
