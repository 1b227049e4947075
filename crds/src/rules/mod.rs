//! Every rule that needs no cluster state, in one table.
//!
//! The table is used twice: [`crate::crd`] turns it into the CRD's
//! `x-kubernetes-validations`, so that `kubectl apply` refuses a bad manifest;
//! and [`check`] runs it here, for the command line, the runtime and the
//! operator. The tests hold both to the same cases.

mod consumer;
mod containers;
mod delivery;
mod handler;
mod kafka;
mod kafka_config;
mod kinds;
mod pod;
mod rollout;

pub(crate) use consumer::MAX_TOPICS;
pub(crate) use kafka_config::is_refused as refuses_property;
pub(crate) use kinds::quoted;
pub use pod::OWN_VOLUMES;

use std::sync::LazyLock;

use serde_json::Value;

use crate::spec::KafkaConsumerSpec;
use crate::violation::Violation;

/// One rule.
pub struct Rule {
    /// Short name, for tests and for people who work on the rules.
    pub id: String,
    /// The fields that the rule speaks of, with `[]` for any item of a list.
    pub fields: Vec<String>,
    /// The required value and the remedy, in one line.
    pub message: String,
    /// The rule for the API server.
    pub cel: Cel,
    check: Check,
}

type Check = Box<dyn Fn(&KafkaConsumerSpec) -> Vec<Finding> + Send + Sync>;

/// The form of a rule for the API server.
pub enum Cel {
    /// A validation at one or more places of the schema.
    At {
        /// The places, such as `spec.topics[]`.
        nodes: Vec<String>,
        /// True when the rule is kept. `self` is the value at the place.
        rule: String,
        /// The field below the place, as a relative JSON path, if it is not the
        /// place itself.
        field_path: Option<String>,
        /// The message about a violation.
        message: CelMessage,
    },
    /// Not told, for this reason; only Rust checks the rule.
    RustOnly(&'static str),
}

/// The API server's message about a violation.
pub enum CelMessage {
    /// The rule's message.
    Fixed,
    /// The rule's message, and behind it what was found: a CEL expression of
    /// type string, shown as it is.
    Found(String),
    /// The text that this CEL expression gives.
    Expression(String),
}

/// A place where a rule is broken.
pub(crate) struct Finding {
    path: String,
    value: Option<Value>,
    message: Option<String>,
}

impl Finding {
    /// The field at `path` holds `value`.
    fn of(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self {
            path: path.into(),
            value: Some(value.into()),
            message: None,
        }
    }

    /// The field at `path` holds nothing, or something that must not be shown.
    fn at(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            value: None,
            message: None,
        }
    }

    /// Says this instead of the rule's message.
    fn saying(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }
}

impl Rule {
    /// The places where the spec breaks the rule.
    pub fn violations(&self, spec: &KafkaConsumerSpec) -> Vec<Violation> {
        (self.check)(spec)
            .into_iter()
            .map(|finding| Violation {
                path: finding.path,
                value: finding.value,
                message: finding.message.unwrap_or_else(|| self.message.clone()),
            })
            .collect()
    }
}

/// All rules.
pub fn all() -> &'static [Rule] {
    static TABLE: LazyLock<Vec<Rule>> = LazyLock::new(|| {
        [
            consumer::rules(),
            kafka::rules(),
            kafka_config::rules(),
            handler::rules(),
            delivery::rules(),
            rollout::rules(),
            pod::rules(),
            containers::rules(),
        ]
        .into_iter()
        .flatten()
        .collect()
    });
    &TABLE
}

/// Everything in the spec that breaks a rule.
pub fn check(spec: &KafkaConsumerSpec) -> Vec<Violation> {
    all()
        .iter()
        .flat_map(|rule| rule.violations(spec))
        .collect()
}
