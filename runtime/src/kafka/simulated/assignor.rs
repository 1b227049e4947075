//! How partitions are assigned to members.

use std::collections::{BTreeMap, BTreeSet};

use super::super::seam::TopicPartition;

/// The partitions of each member.
pub(super) type Plan = BTreeMap<String, BTreeSet<TopicPartition>>;

/// A member, as an assignor sees it.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) member: String,
    pub(super) topics: Vec<String>,
    pub(super) owned: BTreeSet<TopicPartition>,
}

/// Assigns each topic's partitions in contiguous ranges (rdkafka_range_assignor.c).
pub(super) fn range(members: &[Candidate], topics: &BTreeMap<String, i32>) -> Plan {
    let mut plan = empty(members);
    for (topic, count) in topics {
        let readers = members.iter().filter(|it| it.topics.contains(topic));
        let readers: BTreeSet<_> = readers.map(|it| &it.member).collect();
        let mut next = 0;
        for (index, reader) in readers.iter().enumerate() {
            let (readers, index) = (to_i32(readers.len()), to_i32(index));
            let share = count / readers + i32::from(index < count % readers);
            for partition in next..next + share {
                add(&mut plan, reader, topic, partition);
            }
            next += share;
        }
    }
    plan
}

/// Assigns so that members have equally many partitions and keep what they own.
pub(super) fn sticky(members: &[Candidate], topics: &BTreeMap<String, i32>) -> Plan {
    let mut plan = empty(members);
    let all: i32 = topics.values().sum();
    let most = usize::try_from(all)
        .unwrap_or(0)
        .div_ceil(members.len().max(1));
    let mut free = Vec::new();
    for (topic, count) in topics {
        for partition in 0..*count {
            let named = named(topic, partition);
            let owner = members.iter().find(|it| it.owned.contains(&named));
            let owner = owner.filter(|it| it.topics.contains(topic));
            match owner.and_then(|owner| plan.get_mut(&owner.member)) {
                Some(kept) if kept.len() < most => {
                    kept.insert(named);
                }
                _ => free.push(named),
            }
        }
    }
    for partition in free {
        let readers = members
            .iter()
            .filter(|it| it.topics.contains(&partition.topic));
        let least =
            readers.min_by_key(|it| (plan.get(&it.member).map_or(0, BTreeSet::len), &it.member));
        if let Some(member) = least.map(|it| it.member.clone()) {
            plan.entry(member).or_default().insert(partition);
        }
    }
    balance(&mut plan, members);
    plan
}

/// Moves partitions until no member has two more than another that could read them.
fn balance(plan: &mut Plan, members: &[Candidate]) {
    loop {
        let mut moved = None;
        'search: for giver in members {
            for taker in members {
                let (has, lacks) = (plan[&giver.member].len(), plan[&taker.member].len());
                if has < lacks + 2 {
                    continue;
                }
                let partitions = plan[&giver.member].iter().rev();
                let found = partitions
                    .into_iter()
                    .find(|it| taker.topics.contains(&it.topic));
                if let Some(partition) = found {
                    moved = Some((giver, taker, partition.clone()));
                    break 'search;
                }
            }
        }
        let Some((giver, taker, partition)) = moved else {
            return;
        };
        plan.entry(giver.member.clone())
            .or_default()
            .remove(&partition);
        plan.entry(taker.member.clone())
            .or_default()
            .insert(partition);
    }
}

/// As [`sticky`], but a partition that changes hands is assigned to nobody until its owner
/// has revoked it (rdkafka_sticky_assignor.c, "cooperative-sticky").
pub(super) fn cooperative(members: &[Candidate], topics: &BTreeMap<String, i32>) -> Plan {
    let mut plan = sticky(members, topics);
    for (member, partitions) in &mut plan {
        partitions.retain(|partition| {
            let owner = members.iter().find(|it| it.owned.contains(partition));
            owner.is_none_or(|owner| owner.member == *member)
        });
    }
    plan
}

fn empty(members: &[Candidate]) -> Plan {
    let names = members.iter().map(|it| it.member.clone());
    names.map(|name| (name, BTreeSet::new())).collect()
}

fn add(plan: &mut Plan, member: &str, topic: &str, partition: i32) {
    let partitions = plan.entry(member.to_owned()).or_default();
    partitions.insert(named(topic, partition));
}

fn named(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition {
        topic: topic.to_owned(),
        partition,
    }
}

fn to_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
