//! What is wrong with a manifest, with the place of each fault in its file.

use std::fmt;

use penstock_crds::manifest::Problem;
use serde::Serialize;
use serde_json::Value;

use crate::locate::line_of;

/// One fault.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// Line in the file, from 1.
    pub line: usize,
    /// Column, from 1, where the text is not YAML.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// The field, such as `spec.topics[1]`; absent where the text is not YAML.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What the field holds; absent when nothing, and when a credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// What it must be, and the remedy.
    pub message: String,
    /// The message with the value, for people.
    #[serde(skip)]
    explanation: String,
}

impl Finding {
    /// Every fault of the document that begins on line `first` of `text`, from
    /// the top of the document to its end.
    pub fn all(text: &str, first: usize, problem: &Problem) -> Vec<Self> {
        let mut findings = Self::unsorted(text, first, problem);
        findings.sort_by_key(|finding| finding.line);
        findings
    }

    fn unsorted(text: &str, first: usize, problem: &Problem) -> Vec<Self> {
        match problem {
            Problem::Syntax {
                line,
                column,
                message,
            } => vec![Self {
                line: *line,
                column: Some(*column),
                path: None,
                value: None,
                message: message.clone(),
                explanation: message.clone(),
            }],
            Problem::Violations(violations) => violations
                .iter()
                .map(|violation| Self {
                    line: line_of(text, first, &violation.path),
                    column: None,
                    path: Some(violation.path.clone()),
                    value: violation.value.clone(),
                    message: violation.message.clone(),
                    explanation: violation.explain(),
                })
                .collect(),
        }
    }

    /// The fault as a line that begins with the file's name.
    pub fn in_file<'a>(&'a self, file: &'a str) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| {
            write!(f, "{file}:{}", self.line)?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
            if let Some(path) = &self.path {
                write!(f, ": {path}")?;
            }
            write!(f, ": {}", self.explanation)
        })
    }
}
