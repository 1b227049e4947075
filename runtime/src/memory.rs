//! How much memory messages may take: what is usual, or less in a small container.

use std::collections::BTreeMap;
use std::fs;

/// Where the limit of this process's container is, by the version of its cgroups.
const LIMITS: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];

/// Bytes of messages, as far as they are bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Those that wait for a handler; one larger message is taken alone.
    pub(crate) queued: usize,
    /// Those that are held behind others of their key.
    pub(crate) held: usize,
    /// Those that handlers have in batches, which share it evenly. A batch has one message
    /// at least, whatever it weighs.
    batched: usize,
    /// Those that librdkafka may fetch ahead, if that is less than it would.
    pub(crate) fetched: usize,
}

/// Without a limit, or with one that leaves room for all of it.
const USUAL: Budget = Budget {
    queued: 16 << 20,
    held: 16 << 20,
    batched: 8 << 20,
    fetched: usize::MAX,
};

/// The property that bounds what is fetched ahead, in KiB.
const FETCHED: &str = "queued.max.messages.kbytes";

/// At least this much: below it, a message of a usual size is taken alone.
const LEAST: usize = 256 << 10;

impl Budget {
    /// That of the container in which this process runs.
    pub(crate) fn of_container() -> Self {
        let limit = LIMITS.iter().find_map(|path| fs::read_to_string(path).ok());
        limit
            .and_then(|text| parse(&text))
            .map_or(USUAL, Self::within)
    }

    /// Together they take at most a quarter of the limit: responses of the brokers come on
    /// top, and the process needs its own share.
    fn within(limit: usize) -> Self {
        let part = |usual: usize, share: usize| usual.min(limit / share).max(LEAST);
        Self {
            queued: part(USUAL.queued, 15),
            held: part(USUAL.held, 15),
            batched: part(USUAL.batched, 30),
            fetched: part(USUAL.fetched, 30),
        }
    }

    /// What handlers have in batches. In the order of keys that is twice as much: such a
    /// batch takes along what was held, and short ones cost more.
    pub(crate) fn batched(self, is_key_ordered: bool) -> usize {
        match is_key_ordered {
            true => 2 * self.batched,
            false => self.batched,
        }
    }

    /// Bounds what a client fetches ahead.
    pub(crate) fn apply(self, properties: &mut BTreeMap<String, String>) {
        let bound = self.fetched >> 10;
        if let Some(kbytes) = properties.get_mut(FETCHED)
            && kbytes.parse().is_ok_and(|kbytes: usize| kbytes > bound)
        {
            *kbytes = bound.to_string();
        }
    }
}

/// A limit as the kernel writes it; `None`: there is none.
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
