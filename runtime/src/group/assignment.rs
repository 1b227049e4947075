//! The partitions that are assigned to this process.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::group::partition::{Keeper, Partition};
use crate::group::start::Inherited;
use crate::kafka::{PartitionHandle, TopicPartition};
use crate::observe::metrics::Metrics;
use crate::offsets::gaps::Gaps;

/// All assigned partitions, found by name or, for each message, by handle.
pub(crate) struct Assignment {
    /// Sorted, so that each iteration has the same order.
    partitions: BTreeMap<TopicPartition, Arc<Partition>>,
    handles: HashMap<PartitionHandle, Arc<Partition>>,
    /// Messages come in runs of one partition.
    last: Option<(PartitionHandle, Arc<Partition>)>,
    epoch: u64,
    metrics: Metrics,
    pump: Arc<Notify>,
}

impl Assignment {
    pub(crate) fn new(metrics: Metrics, pump: Arc<Notify>) -> Self {
        Self {
            partitions: BTreeMap::new(),
            handles: HashMap::new(),
            last: None,
            epoch: 0,
            metrics,
            pump,
        }
    }

    /// Adds partitions, with a new epoch and the state of earlier owners.
    pub(crate) fn add(
        &mut self,
        partitions: &[TopicPartition],
        mut inherited: Inherited,
        client: Option<&Keeper>,
    ) -> Vec<Arc<Partition>> {
        self.epoch += 1;
        self.forget_handles();
        let added: Vec<_> = partitions
            .iter()
            .map(|named| self.insert(named, inherited.remove(named), client))
            .collect();
        self.publish();
        added
    }

    /// Replaces a partition by a new assignment, with a new epoch.
    pub(crate) fn replace(
        &mut self,
        partition: &Partition,
        gaps: Option<Gaps>,
        client: &Keeper,
    ) -> Arc<Partition> {
        self.epoch += 1;
        self.forget_handles();
        self.insert(&partition.name(), gaps, Some(client))
    }

    fn insert(
        &mut self,
        named: &TopicPartition,
        gaps: Option<Gaps>,
        client: Option<&Keeper>,
    ) -> Arc<Partition> {
        let new = Partition::new(
            &named.topic,
            named.partition,
            self.epoch,
            &self.metrics,
            Arc::clone(&self.pump),
            client.cloned(),
        );
        let new = Arc::new(match gaps {
            Some(gaps) => new.resume(gaps),
            None => new,
        });
        self.partitions.insert(named.clone(), Arc::clone(&new));
        new
    }

    /// Returns `true` if a partition belongs to exactly this assignment.
    pub(crate) fn has(&self, partition: &Arc<Partition>) -> bool {
        let current = self.get(&partition.topic, partition.number);
        current.is_some_and(|current| Arc::ptr_eq(current, partition))
    }

    /// Removes partitions. Their messages have no owner from now on.
    pub(crate) fn remove(&mut self, partitions: &[TopicPartition]) -> Vec<Arc<Partition>> {
        self.forget_handles();
        let removed = partitions
            .iter()
            .filter_map(|named| self.partitions.remove(named))
            .collect();
        self.publish();
        removed
    }

    /// Returns a partition by its name.
    pub(crate) fn get(&self, topic: &str, partition: i32) -> Option<&Arc<Partition>> {
        let topic = topic.to_owned();
        self.partitions.get(&TopicPartition { topic, partition })
    }

    /// Returns the partition of a message. `topic` is called only once for each handle.
    pub(crate) fn owner(
        &mut self,
        handle: PartitionHandle,
        topic: &dyn Fn() -> String,
    ) -> Option<Arc<Partition>> {
        if let Some((last, partition)) = &self.last
            && *last == handle
        {
            return Some(Arc::clone(partition));
        }
        let partition = match self.handles.get(&handle) {
            Some(partition) => Arc::clone(partition),
            None => {
                let partition = Arc::clone(self.get(&topic(), handle.partition)?);
                self.handles.insert(handle, Arc::clone(&partition));
                partition
            }
        };
        self.last = Some((handle, Arc::clone(&partition)));
        Some(partition)
    }

    /// Returns the number of partitions.
    pub(crate) fn len(&self) -> usize {
        self.partitions.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Partition>> + Clone {
        self.partitions.values()
    }

    fn forget_handles(&mut self) {
        self.handles.clear();
        self.last = None;
    }

    fn publish(&self) {
        let count = i64::try_from(self.partitions.len()).unwrap_or(i64::MAX);
        self.metrics.assigned.set(count);
        self.metrics.rebalances.inc();
    }
}
