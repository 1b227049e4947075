//! The errors of a manifest, in terms of its fields.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// One thing that is wrong: the field, its value and what to do about it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Violation {
    /// The field, such as `spec.topics[1]` or `spec.kafka.config[fetch.min.bytes]`.
    pub path: String,
    /// The value of the field; absent if the field is empty or holds a credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// The required value, and the remedy.
    pub message: String,
}

/// Longest value that is shown in full, in characters.
const SHOWN: usize = 120;

impl Violation {
    /// The message with the value behind it, without the path.
    pub fn explain(&self) -> String {
        match &self.value {
            Some(value) => format!("{} (found {})", self.message, shown(value)),
            None => self.message.clone(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.explain())
    }
}

/// Text in single quotes, anything else as JSON; what is long is cut.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => format!("'{text}'"),
        other => other.to_string(),
    };
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Everything that is wrong with a manifest; never empty when it is an error.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Violations(pub Vec<Violation>);

impl Violations {
    /// The violations, in the order of the rules.
    pub fn iter(&self) -> std::slice::Iter<'_, Violation> {
        self.0.iter()
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            violation.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}

impl<'a> IntoIterator for &'a Violations {
    type Item = &'a Violation;
    type IntoIter = std::slice::Iter<'a, Violation>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for Violations {
    type Item = Violation;
    type IntoIter = std::vec::IntoIter<Violation>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
