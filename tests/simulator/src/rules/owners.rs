//! The owners of partitions, and the deliveries that do not count.
//!
//! A process that was frozen, cut off or evicted continues for a moment although its partition is
//! assigned to another. No client can prevent that, and no verdict from then on counts. The
//! successor of a process is the one that the group's coordinator assigned the partition later,
//! not the one that began a message later: a process may begin its first message late.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_runtime::simulation::{Delivery, Happened, Run, Scenario, Tenure};

/// The time within which a process that was frozen notices that its partitions are
/// others': it polls twice a second.
const NOTICE: Duration = Duration::from_secs(1);

/// An assignment of a partition: the partition, the process, and its epoch.
type Assignment = (i32, usize, u64);

/// The processes that had the partitions of a run.
pub(super) struct Owners<'a> {
    run: &'a Run,
    stop_timeout: Duration,
    /// From when on a process may be evicted without a freeze.
    evicts_from: Option<Duration>,
    tenures: BTreeMap<Assignment, &'a Tenure>,
}

impl<'a> Owners<'a> {
    pub(super) fn new(scenario: &Scenario, run: &'a Run) -> Self {
        let mut first: BTreeMap<Assignment, Duration> = BTreeMap::new();
        for it in &run.deliveries {
            let begun = first.entry(assignment(it)).or_insert(it.begun);
            *begun = it.begun.min(*begun);
        }
        let tenures = first.into_iter().filter_map(|(name, begun)| {
            let (partition, process, _) = name;
            let ours = run.tenures.iter().rev();
            let mut ours = ours.filter(|it| (it.partition, it.process) == (partition, process));
            Some((name, ours.find(|it| it.from <= begun)?))
        });
        Self {
            run,
            stop_timeout: Duration::from_millis(scenario.stop_timeout.into()),
            evicts_from: scenario.may_evict_from(),
            tenures: tenures.collect(),
        }
    }

    /// Returns the moment from which on a delivery does not count, if it lasted until then.
    pub(super) fn void_from(&self, delivery: &Delivery) -> Option<Duration> {
        let moments = [
            self.frozen_out(delivery),
            self.thawed_out(delivery),
            self.cut_off(delivery),
            self.evicted(delivery),
        ];
        moments.into_iter().flatten().min()
    }

    /// The moment at which a delivery was frozen, if its partition was another's before it
    /// ended.
    fn frozen_out(&self, delivery: &Delivery) -> Option<Duration> {
        let ended = delivery.ended.unwrap_or(Duration::MAX);
        freezes(self.run, delivery.process)
            .map(|(frozen, _)| frozen)
            .find(|frozen| {
                (delivery.begun..=ended).contains(frozen)
                    && self.successor_began(delivery, *frozen, ended).is_some()
            })
    }

    /// The moment at which the successor began, if the delivery began after a freeze that
    /// outlasted its assignment: the process goes on until it notices.
    fn thawed_out(&self, delivery: &Delivery) -> Option<Duration> {
        let had_it = |frozen: Duration| {
            let mut deliveries = self.run.deliveries.iter();
            deliveries.any(|it| assignment(it) == assignment(delivery) && it.begun <= frozen)
        };
        freezes(self.run, delivery.process)
            .filter(|(frozen, thawed)| {
                let noticed = thawed.saturating_add(NOTICE);
                (*thawed..=noticed).contains(&delivery.begun) && had_it(*frozen)
            })
            .find_map(|(frozen, _)| self.successor_began(delivery, frozen, delivery.begun))
    }

    /// The moment at which a call was cut off, if it took longer than a revocation waits for:
    /// then its partition was given to another process, and its verdict does not count.
    fn cut_off(&self, delivery: &Delivery) -> Option<Duration> {
        let ended = delivery.ended.unwrap_or(Duration::MAX);
        let given = self.successors(delivery).map(|it| it.given);
        given
            .filter(|given| (delivery.given + self.stop_timeout..=ended).contains(given))
            .min()
    }

    /// The moment at which the successor of an evicted process began: that goes on next to it
    /// until it notices.
    fn evicted(&self, delivery: &Delivery) -> Option<Duration> {
        let possible = self.evicts_from?;
        let tenure = self.tenures.get(&assignment(delivery))?;
        if !tenure.is_evicted || tenure.until < Some(possible) {
            return None;
        }
        let ended = delivery.ended.unwrap_or(Duration::MAX);
        self.successor_began(delivery, possible, ended)
    }

    /// When a process that was assigned the partition later first began a message of it in
    /// this time.
    fn successor_began(
        &self,
        delivery: &Delivery,
        from: Duration,
        to: Duration,
    ) -> Option<Duration> {
        let begun = self.successors(delivery).map(|it| it.begun);
        begun.filter(|begun| (from..=to).contains(begun)).min()
    }

    /// Deliveries of a partition by processes that were assigned it after this one had it.
    fn successors(&self, delivery: &Delivery) -> impl Iterator<Item = &Delivery> {
        let tenure = self.tenures.get(&assignment(delivery)).copied();
        let until = tenure.and_then(|it| it.until).unwrap_or(Duration::MAX);
        self.run.deliveries.iter().filter(move |it| {
            let theirs = self.tenures.get(&assignment(it));
            it.partition == delivery.partition
                && it.process != delivery.process
                && theirs.is_some_and(|theirs| theirs.from >= until)
        })
    }
}

fn assignment(delivery: &Delivery) -> Assignment {
    (delivery.partition, delivery.process, delivery.epoch)
}

/// When a process was frozen, and thawed.
fn freezes(run: &Run, of: usize) -> impl Iterator<Item = (Duration, Duration)> {
    let moments = move |wanted: Happened| {
        let moments = run.processes.iter();
        moments
            .filter(move |(_, process, happened)| *process == of && *happened == wanted)
            .map(|(at, ..)| *at)
    };
    let thawed = moments(Happened::Thawed).chain([Duration::MAX]);
    moments(Happened::Frozen).zip(thawed)
}
