//! Asks the brokers for the offsets of a group and of its partitions.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use penstock_runtime::gaps::Gaps;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

use super::client::{Client, Partitions};
use super::positions::{Committed, Offsets, PartitionOffsets};

/// The maximum time for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum number of partitions in one request. A committed offset may come with
/// 4 KiB of metadata, and an answer may have 512 KiB (see `settings`).
const MAX_PARTITIONS: usize = 100;

/// The maximum time for all partitions of a group.
const BUDGET: Duration = Duration::from_secs(40);

/// Asks for the offsets of every partition. The log's start is read first and its end last, so an
/// offset that is committed meanwhile lies between them.
pub(super) fn ask(
    client: &Client,
    topics: &[(String, Partitions)],
) -> Result<Vec<PartitionOffsets>, KafkaError> {
    let mut answers = Vec::new();
    let mut names = Vec::new();
    for (topic, partitions) in topics {
        for partition in 0..partitions.count {
            // librdkafka would wait for the leader of one partition, and then fail for all.
            if partitions.leaderless.contains(&partition) {
                answers.push(PartitionOffsets {
                    topic: topic.clone(),
                    partition,
                    offsets: Err("it has no leader".to_owned()),
                });
            } else {
                names.push((topic, partition));
            }
        }
    }
    let ends = Instant::now() + BUDGET;
    for names in names.chunks(MAX_PARTITIONS) {
        if Instant::now() > ends {
            answers.extend(names.iter().map(|(topic, partition)| PartitionOffsets {
                topic: (*topic).clone(),
                partition: *partition,
                offsets: Err("the brokers answer too slowly".to_owned()),
            }));
            continue;
        }
        let mut list = TopicPartitionList::new();
        for (topic, partition) in names {
            list.add_partition(topic, *partition);
        }
        answers.extend(ask_some(client, &list)?);
    }
    Ok(answers)
}

fn ask_some(
    client: &Client,
    names: &TopicPartitionList,
) -> Result<Vec<PartitionOffsets>, KafkaError> {
    let mut answers = Vec::new();
    let starts = edges(client, names, Offset::Beginning)?;
    let committed = client.committed_offsets(names.clone(), TIMEOUT)?;
    let committed = by_partition(&committed, |answer, at| {
        let start = starts.get(at).and_then(|start| start.as_ref().ok());
        Ok(committed_offset(answer, start.copied()))
    });
    let ends = edges(client, names, Offset::End)?;
    for name in names.elements() {
        let at = (name.topic().to_owned(), name.partition());
        let offsets = offsets_of(starts.get(&at), committed.get(&at), ends.get(&at));
        answers.push(PartitionOffsets {
            topic: at.0,
            partition: at.1,
            offsets,
        });
    }
    Ok(answers)
}

/// Corrects the ends of the log for committed offsets beyond the newest message that the group may
/// read. `client` reads uncommitted messages too: an offset within an open transaction is in the
/// log.
pub(super) fn ask_log_ends(
    client: &Client,
    partitions: &mut [PartitionOffsets],
) -> Result<(), KafkaError> {
    let mut names = TopicPartitionList::new();
    for partition in partitions.iter().filter(|partition| is_beyond(partition)) {
        names.add_partition(&partition.topic, partition.partition);
    }
    let ends = edges(client, &names, Offset::End)?;
    for partition in partitions
        .iter_mut()
        .filter(|partition| is_beyond(partition))
    {
        let at = (partition.topic.clone(), partition.partition);
        match (ends.get(&at), &mut partition.offsets) {
            (Some(Ok(end)), Ok(offsets)) => offsets.log_end = *end,
            (Some(Err(why)), _) => partition.offsets = Err(why.clone()),
            (_, _) => partition.offsets = Err(NO_OFFSET.to_owned()),
        }
    }
    Ok(())
}

/// Returns `true` if the group has committed an offset beyond the end.
pub(super) fn is_beyond(partition: &PartitionOffsets) -> bool {
    partition.offsets.as_ref().is_ok_and(|offsets| {
        let committed = offsets.committed.as_ref();
        committed.is_some_and(|committed| committed.offset > offsets.log_end)
    })
}

type ByPartition<T> = HashMap<(String, i32), Result<T, String>>;

const NO_OFFSET: &str = "the broker returned no offset";

fn offsets_of(
    start: Option<&Result<i64, String>>,
    committed: Option<&Result<Option<Committed>, String>>,
    end: Option<&Result<i64, String>>,
) -> Result<Offsets, String> {
    let end = end.ok_or(NO_OFFSET)?.clone()?;
    Ok(Offsets {
        start: start.ok_or(NO_OFFSET)?.clone()?,
        end,
        log_end: end,
        committed: committed.ok_or(NO_OFFSET)?.clone()?,
    })
}

/// Returns the offsets at which the logs begin or end.
fn edges(
    client: &Client,
    names: &TopicPartitionList,
    edge: Offset,
) -> Result<ByPartition<i64>, KafkaError> {
    let mut asked = names.clone();
    asked.set_all_offsets(edge)?;
    let answers = client.offsets_for_times(asked, TIMEOUT)?;
    Ok(by_partition(&answers, |answer, _| match answer.offset() {
        Offset::Offset(offset) if offset >= 0 => Ok(offset),
        _ => Err(NO_OFFSET.to_owned()),
    }))
}

/// Returns the committed offset of an answer, if any. The messages settled beyond it matter only if
/// the log begins after it.
fn committed_offset(answer: &TopicPartitionListElem<'_>, start: Option<i64>) -> Option<Committed> {
    let Offset::Offset(offset) = answer.offset() else {
        return None;
    };
    let gaps = match start {
        Some(start) if offset < start => {
            // An unusable text has no meaning, as for the runtime.
            Gaps::decode(answer.metadata().as_bytes(), offset).unwrap_or_default()
        }
        Some(_) | None => None,
    };
    (offset >= 0).then_some(Committed { offset, gaps })
}

fn by_partition<T>(
    answers: &TopicPartitionList,
    read: impl Fn(&TopicPartitionListElem<'_>, &(String, i32)) -> Result<T, String>,
) -> ByPartition<T> {
    let read = |answer: TopicPartitionListElem<'_>| {
        let at = (answer.topic().to_owned(), answer.partition());
        let value = match answer.error() {
            Ok(()) => read(&answer, &at),
            Err(error) => Err(error.to_string()),
        };
        (at, value)
    };
    answers.elements().into_iter().map(read).collect()
}
