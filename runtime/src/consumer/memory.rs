//! The memory for messages: the defaults, or less in a small container.

use std::collections::BTreeMap;
use std::fs;

/// The files with the memory limit of this process's container, by the version of its cgroups.
const LIMITS: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];

/// The limits of messages' bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Messages that wait for a handler; one larger message is taken alone.
    pub(crate) queued: usize,
    /// Messages that are held behind others of their key.
    pub(crate) held: usize,
    /// Messages in handlers' batches, which share it evenly. A batch has at least one message,
    /// regardless of its weight.
    batched: usize,
    /// Messages that librdkafka may fetch ahead, if that is less than its default.
    pub(crate) fetched: usize,
}

/// The limits without a container limit, or with one that has room for all of them.
const USUAL: Budget = Budget {
    queued: 16 << 20,
    held: 16 << 20,
    batched: 8 << 20,
    fetched: usize::MAX,
};

/// The property that limits prefetched messages, in KiB.
const FETCHED: &str = "queued.max.messages.kbytes";

/// The minimum of a limit: below it, a message of an ordinary size is taken alone.
const LEAST: usize = 256 << 10;

impl Budget {
    /// Returns the limits for the container of this process.
    pub(crate) fn of_container() -> Self {
        let limit = LIMITS.iter().find_map(|path| fs::read_to_string(path).ok());
        limit
            .and_then(|text| parse(&text))
            .map_or(USUAL, Self::within)
    }

    /// Together they take at most a quarter of the limit: the brokers' responses are
    /// additional, and the process needs its own memory.
    fn within(limit: usize) -> Self {
        let part = |usual: usize, share: usize| usual.min(limit / share).max(LEAST);
        Self {
            queued: part(USUAL.queued, 15),
            held: part(USUAL.held, 15),
            batched: part(USUAL.batched, 30),
            fetched: part(USUAL.fetched, 30),
        }
    }

    /// Returns the limit for handlers' batches. In KeyOrdered mode it is twice as much: such a
    /// batch takes held messages along, and short batches cost more.
    pub(crate) fn batched(self, is_key_ordered: bool) -> usize {
        match is_key_ordered {
            true => 2 * self.batched,
            false => self.batched,
        }
    }

    /// Limits the messages that a client fetches ahead.
    pub(crate) fn apply(self, properties: &mut BTreeMap<String, String>) {
        let bound = self.fetched >> 10;
        if let Some(kbytes) = properties.get_mut(FETCHED)
            && kbytes.parse().is_ok_and(|kbytes: usize| kbytes > bound)
        {
            *kbytes = bound.to_string();
        }
    }
}

/// Parses a limit of the kernel; `None` if there is none.
fn parse(text: &str) -> Option<usize> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is fetched ahead of the usual 8 MiB.
    fn applied(budget: Budget) -> String {
        let mut properties = BTreeMap::from([(FETCHED.into(), "8192".into())]);
        budget.apply(&mut properties);
        properties.remove(FETCHED).unwrap()
    }

    #[test]
    fn a_container_of_the_usual_size_has_all_of_it() {
        for limit in [256 << 20, usize::MAX] {
            let budget = Budget::within(limit);
            assert_eq!((budget.queued, budget.held), (USUAL.queued, USUAL.held));
            assert_eq!(budget.batched, USUAL.batched);
            assert_eq!(applied(budget), "8192");
        }
        assert_eq!(applied(USUAL), "8192");
    }

    #[test]
    fn a_small_container_has_less() {
        let small = Budget::within(60 << 20);
        assert_eq!((small.queued, small.held), (4 << 20, 4 << 20));
        assert_eq!(
            [false, true].map(|keys| small.batched(keys)),
            [2 << 20, 4 << 20]
        );
        assert_eq!(applied(small), "2048");
        assert_eq!(Budget::within(0).queued, LEAST);
    }

    #[test]
    fn no_limit_is_read_as_none() {
        assert_eq!(parse("max\n"), None);
        assert_eq!(parse("268435456\n"), Some(256 << 20));
    }
}
