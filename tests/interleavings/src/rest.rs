//! The few items of the rest of the runtime that the checked modules name. No thread waits
//! for another in them, so they are as small as those modules let them be.

pub(crate) mod kafka {
    use std::ffi::CString;

    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) struct TopicPartition {
        pub(crate) topic: String,
        pub(crate) partition: i32,
    }

    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) struct StartOffset {
        pub(crate) partition: TopicPartition,
        pub(crate) offset: Option<i64>,
        pub(crate) leader_epoch: Option<i32>,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct TopicId(pub(crate) u128);

    pub(crate) fn c_name(topic: &str) -> CString {
        CString::new(topic).unwrap_or_default()
    }
}

pub(crate) mod metrics {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicI64, Ordering};

    #[derive(Default)]
    pub(crate) struct Series(AtomicI64);

    impl Series {
        pub(crate) fn inc(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        pub(crate) fn inc_by(&self, number: u64) {
            self.0.fetch_add(number as i64, Ordering::Relaxed);
        }

        pub(crate) fn set(&self, value: i64) {
            self.0.store(value, Ordering::Relaxed);
        }
    }

    pub(crate) struct Metrics;

    impl Metrics {
        pub(crate) fn new(_: &str, _: &str) -> Result<Self, Infallible> {
            Ok(Self)
        }

        pub(crate) fn topic(&self, _: &str) -> TopicMetrics {
            TopicMetrics::default()
        }

        pub(crate) fn partition(&self, _: &str, _: i32) -> PartitionMetrics {
            PartitionMetrics::default()
        }
    }

    #[derive(Default)]
    pub(crate) struct TopicMetrics {
        pub(crate) abandoned: Series,
        pub(crate) already_handled: Series,
    }

    #[derive(Default)]
    pub(crate) struct PartitionMetrics {
        pub(crate) committed: Series,
    }
}

pub(crate) mod produce {
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct ProducerRecord(pub(crate) i64);

    pub(crate) trait Outgoing {
        fn weight(&self) -> usize;
    }

    impl Outgoing for ProducerRecord {
        fn weight(&self) -> usize {
            size_of::<Self>()
        }
    }
}

pub(crate) mod strategy {
    // The scenarios commit as each strategy does, by calls of their own.
    #[allow(dead_code)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Strategy {
        Read,
        Handled,
        Transaction,
        EachMessage,
    }
}

pub(crate) mod handler {
    pub(crate) use super::produce;
}

pub(crate) mod observe {
    pub(crate) use super::metrics;
}
