//! The progress of a run at one moment, read from the text of a metrics page.

/// Sums over all topics and partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Messages handled with success.
    pub handled: u64,
    /// Messages that ended otherwise; those below among them.
    pub failed: u64,
    /// Messages that could not be decoded.
    pub invalid: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Messages given up by `onFailure: Skip`.
    pub skipped: u64,
    /// Messages written to the dead-letter topic.
    pub dead_lettered: u64,
    /// Messages with a handler now.
    pub in_flight: u64,
    /// Messages from the offset that a successor would begin at, to the end;
    /// absent until it is known.
    pub lag: Option<u64>,
    /// Partitions that the consumer has.
    pub partitions: u64,
}

impl Snapshot {
    /// Reads a page in Prometheus' text format.
    pub fn parse(page: &str) -> Self {
        let mut snapshot = Self::default();
        for line in page.lines() {
            if let Some((series, value)) = sample(line) {
                snapshot.add(series, value);
            }
        }
        snapshot
    }

    /// Messages that need no more work.
    pub fn settled(&self) -> u64 {
        self.handled + self.invalid + self.skipped + self.dead_lettered
    }

    fn add(&mut self, series: &str, value: u64) {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let sum = match name {
            "kafka_consumer_messages_processed_total" => {
                match labels.contains("kafka_success=\"true\"") {
                    true => &mut self.handled,
                    false => &mut self.failed,
                }
            }
            "kafka_consumer_active_messages" => &mut self.in_flight,
            "penstock_invalid_messages_total" => &mut self.invalid,
            "penstock_retries_total" => &mut self.retries,
            "penstock_skipped_messages_total" => &mut self.skipped,
            "penstock_dead_lettered_messages_total" => &mut self.dead_lettered,
            "penstock_assigned_partitions" => &mut self.partitions,
            "penstock_lag" => self.lag.get_or_insert(0),
            _ => return,
        };
        *sum += value;
    }
}

/// A series with its labels, and its value. All that is read here counts whole
/// things.
fn sample(line: &str) -> Option<(&str, u64)> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let value: f64 = value.parse().ok()?;
    Some((series, value.max(0.0) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# HELP kafka_consumer_messages_processed_total total count
# TYPE kafka_consumer_messages_processed_total counter
kafka_consumer_messages_processed_total{kafka_client_name=\"\",kafka_success=\"true\",kafka_topic=\"a\"} 1000
kafka_consumer_messages_processed_total{kafka_client_name=\"\",kafka_success=\"true\",kafka_topic=\"b\"} 20
kafka_consumer_messages_processed_total{kafka_client_name=\"\",kafka_success=\"false\",kafka_topic=\"a\"} 6
kafka_consumer_active_messages{kafka_client_name=\"\",kafka_topic=\"a b\"} 3
penstock_invalid_messages_total{consumer=\"c\",kafka_topic=\"a\"} 1
penstock_skipped_messages_total{consumer=\"c\",kafka_topic=\"a\"} 2
penstock_dead_lettered_messages_total{consumer=\"c\",kafka_topic=\"a\"} 3
penstock_retries_total{consumer=\"c\",kafka_topic=\"a\"} 9
penstock_lag{consumer=\"c\",kafka_partition=\"0\",kafka_topic=\"a\"} 70
penstock_lag{consumer=\"c\",kafka_partition=\"1\",kafka_topic=\"a\"} 7
penstock_assigned_partitions{consumer=\"c\"} 2
";

    #[test]
    fn series_are_summed() {
        let snapshot = Snapshot::parse(PAGE);
        let expected = Snapshot {
            handled: 1020,
            failed: 6,
            invalid: 1,
            retries: 9,
            skipped: 2,
            dead_lettered: 3,
            in_flight: 3,
            lag: Some(77),
            partitions: 2,
        };
        assert_eq!(snapshot, expected);
        assert_eq!(snapshot.settled(), 1026);
    }

    /// The counters of the reference, and whether `--exit-when-done` counts their messages.
    #[test]
    fn every_counter_either_settles_messages_or_does_not() {
        const SETTLE: [&str; 4] = [
            "kafka_consumer_messages_processed_total",
            "penstock_invalid_messages_total",
            "penstock_skipped_messages_total",
            "penstock_dead_lettered_messages_total",
        ];
        const DO_NOT: [&str; 10] = [
            "penstock_abandoned_messages_total",
            "penstock_already_handled_total",
            "penstock_commit_failures_total",
            "penstock_fetch_errors_total",
            "penstock_lost_messages_total",
            "penstock_lost_positions_total",
            "penstock_produced_messages_total",
            "penstock_rebalances_total",
            "penstock_retries_total",
            "penstock_transactions_total",
        ];
        let reference = include_str!("../../../docs/metrics.md");
        let rows = reference
            .lines()
            .filter(|line| line.contains("| counter |"));
        let counters: Vec<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
        assert!(!counters.is_empty());
        for counter in counters {
            let page = format!("{counter}{{kafka_success=\"true\"}} 1\n");
            let settled = Snapshot::parse(&page).settled();
            assert_eq!(settled == 1, SETTLE.contains(&counter), "{counter}");
            assert_eq!(
                settled == 0,
                DO_NOT.contains(&counter),
                "{counter}: add it to Snapshot::settled or to this list"
            );
        }
    }

    #[test]
    fn an_unknown_lag_is_not_zero() {
        assert_eq!(Snapshot::parse("").lag, None);
    }
}
