//! The metrics reference, `docs/metrics.md`, generated from the series.

use crate::observe::metrics::{Description, LATENCY_BUCKETS, Metrics, PROCESSING_BUCKETS};

const HEAD: &str = "\
<!-- Generated from runtime/src/observe/metrics.rs; do not edit.
     Regenerate: cargo run -p penstock-runtime --example metrics_reference -->

# Metrics

The runtime serves its metrics at `/metrics`, port 6060, in Prometheus' text format. The first three
have the names, labels, help and buckets of the Python consumer that Penstock continues, so its
dashboards and alerts still work.

- `kafka_client_name` is the manifest's `prometheusClientName`, which may be blank.
- `kafka_success` is `true` if the handler succeeded (and, in InOrder mode, the commit too). For
  invalid, skipped, dead-lettered and failed messages it is `false`.
- `consumer` is the consumer's name, `kafka_consumer.group_name`.
- A gauge of a partition is absent until its value is known, and again after the partition is
  revoked. An unknown lag is never reported as zero.
- `kafka_consumer_message_processing_time_seconds` measures a message from its first attempt until it is
  settled, with the back-off between attempts.
";

/// The end of the page.
const ALERTS: &str = r#"
## Alerts and queries

Prometheus adds the labels of the target, here `namespace` and `pod`. Two consumers with the same group
name in different services have the same `consumer`, so group by the namespace too.

| alert | expression |
|---|---|
| the lag is too high | `sum by (namespace, consumer, kafka_topic) (penstock_lag) > 10000` |
| messages wait too long | `max by (namespace, consumer, kafka_topic) (penstock_time_lag_seconds) > 300` |
| the handler takes no messages | `penstock_handler_available == 0` |
| messages are dead-lettered | `sum by (namespace, consumer, kafka_topic) (increase(penstock_dead_lettered_messages_total[15m])) > 0` |
| messages are skipped | `sum by (namespace, consumer, kafka_topic) (increase(penstock_skipped_messages_total[15m])) > 0` |
| messages are invalid | `sum by (namespace, consumer, kafka_topic) (increase(penstock_invalid_messages_total[15m])) > 0` |
| messages are lost | `sum by (namespace, consumer, kafka_topic) (increase(penstock_lost_messages_total[1h])) > 0` |
| commits fail | `sum by (namespace, consumer) (increase(penstock_commit_failures_total[15m])) > 0` |
| no pod runs | `absent(penstock_assigned_partitions{namespace="shop", consumer="kafka_consumer.orders"})` |

While no pod runs, the consumer has no series. Its lag is then in the status, which the operator
renews: `kubectl get kc`.

The series `kafka_consumer_…` have no label `consumer`. This query joins it to them:

    sum by (namespace, consumer) (
        rate(kafka_consumer_messages_processed_total[5m])
        * on (namespace, pod) group_left (consumer) (penstock_assigned_partitions >= bool 0)
    )
"#;

/// Returns the page.
pub fn markdown() -> Result<String, prometheus::Error> {
    let metrics = Metrics::new("", "")?;
    let mut page = format!("{HEAD}\n| name | type | labels | meaning |\n|---|---|---|---|\n");
    for Description {
        name,
        kind,
        labels,
        help,
    } in metrics.descriptions()
    {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        page += &format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", "));
    }
    page += "\n## Buckets, in seconds\n\n";
    for (name, buckets) in [
        (
            "kafka_consumer_message_processing_time_seconds",
            &PROCESSING_BUCKETS[..],
        ),
        ("penstock_message_latency_seconds", &LATENCY_BUCKETS[..]),
    ] {
        let bounds: Vec<_> = buckets.iter().map(f64::to_string).collect();
        page += &format!("- `{name}`: {}, +Inf\n", bounds.join(", "));
    }
    page += ALERTS;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn the_committed_reference_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == super::markdown().unwrap(),
            "docs/metrics.md is out of date; run: \
             cargo run -p penstock-runtime --example metrics_reference"
        );
    }
}
