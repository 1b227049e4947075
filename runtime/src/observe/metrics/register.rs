//! Makes the series, and describes them for the reference.

use std::cell::RefCell;

use prometheus::core::Collector;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
};

use super::PARTITION_LABELS;

/// The description of a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// "counter", "gauge" or "histogram".
    pub kind: &'static str,
    /// Its labels.
    pub labels: Vec<String>,
    /// Its help text.
    pub help: String,
}

/// Makes series, registers them and keeps their descriptions.
pub(super) struct Register<'a> {
    pub(super) registry: &'a Registry,
    pub(super) descriptions: RefCell<Vec<Description>>,
}

impl Register<'_> {
    pub(super) fn add<C: Collector + Clone + 'static>(
        &self,
        kind: &'static str,
        series: C,
    ) -> Result<C, prometheus::Error> {
        for description in series.desc() {
            let fixed = description.const_label_pairs.iter();
            self.descriptions.borrow_mut().push(Description {
                name: description.fq_name.clone(),
                kind,
                labels: fixed
                    .map(|label| label.name().to_owned())
                    .chain(description.variable_labels.iter().cloned())
                    .collect(),
                help: description.help.clone(),
            });
        }
        self.registry.register(Box::new(series.clone()))?;
        Ok(series)
    }

    pub(super) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.add(
            "counter",
            IntCounterVec::new(Opts::new(name, help), labels)?,
        )
    }

    pub(super) fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.add("gauge", IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    /// Gauges of partitions, in seconds.
    pub(super) fn seconds(&self, name: &str, help: &str) -> Result<GaugeVec, prometheus::Error> {
        let labels = &PARTITION_LABELS;
        self.add("gauge", GaugeVec::new(Opts::new(name, help), labels)?)
    }

    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add("histogram", HistogramVec::new(options, labels)?)
    }
}
