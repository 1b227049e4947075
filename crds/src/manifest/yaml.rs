//! YAML and JSON text to JSON values, document by document, as kubectl reads them.
//!
//! kubectl follows YAML 1.1 in the meaning of plain scalars: `yes` is true and `0644` is
//! 420. A reader of YAML 1.2 would accept manifests that the API server refuses, and the
//! reverse. [`scalar`] has these meanings, [`compose`] the structure. libyaml, from which
//! kubectl's parser was translated, decides about the syntax.

mod compose;
mod json;
mod scalar;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::Problem;

/// A document that is not empty.
pub(super) struct YamlDocument {
    /// The line of the text that it begins on, from 1.
    pub line: usize,
    /// Its value, or why there is none.
    pub value: Result<Value, Problem>,
}

/// An error in a document: a line and a column of it, from 1, and a message.
#[derive(Debug, PartialEq)]
struct Fault {
    position: Option<(usize, usize)>,
    message: String,
}

impl Fault {
    /// An error at a line and a column, both from 1.
    fn at(line: usize, column: usize, message: impl Into<String>) -> Self {
        Self {
            position: Some((line, column)),
            message: message.into(),
        }
    }
}

/// Splits a text at its document markers, so that a fault in one document does
/// not hide the others.
pub(super) fn documents(text: &str) -> Vec<YamlDocument> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(documents) = json::documents(text) {
        return documents;
    }
    chunks(text)
        .into_iter()
        .filter(Chunk::has_content)
        .filter_map(|chunk| {
            let value = chunk.parse();
            // Such as a document that is just `null`.
            (value != Ok(Value::Null)).then(|| YamlDocument {
                line: chunk.first_line(),
                value,
            })
        })
        .collect()
}

/// Returns `true` if a text has this one document with this value.
pub(super) fn is_read_as(text: &str, value: &Value) -> bool {
    match documents(text).as_slice() {
        [document] => document.value.as_ref().is_ok_and(|it| is_same(it, value)),
        _ => false,
    }
}

/// Returns `true` if two values are equal. The number 2.0 is read as 2.
fn is_same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => {
            left == right || left.as_f64() == right.as_f64()
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(l, r)| is_same(l, r))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .all(|(name, field)| right.get(name).is_some_and(|other| is_same(field, other)))
        }
        _ => left == right,
    }
}

/// The lines between two document markers.
struct Chunk {
    /// Lines of the text before it.
    before: usize,
    text: String,
    /// The text behind the marker in front of it, unless that is a comment.
    behind_marker: Option<String>,
}

fn chunks(text: &str) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut current = Chunk {
        before: 0,
        text: String::new(),
        behind_marker: None,
    };
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let Some(rest) = line.strip_prefix("---") else {
            current.text.push_str(line);
            continue;
        };
        let rest = rest.trim();
        let next = Chunk {
            before: index,
            // The marker's line, so that lines are counted from it.
            text: "\n".to_owned(),
            behind_marker: (!rest.is_empty() && !rest.starts_with('#')).then(|| rest.to_owned()),
        };
        chunks.push(std::mem::replace(&mut current, next));
    }
    chunks.push(current);
    chunks
}

impl Chunk {
    fn content_line(&self) -> Option<usize> {
        self.text.lines().position(|line| {
            let line = line.trim_start();
            !line.is_empty() && !line.starts_with('#')
        })
    }

    fn has_content(&self) -> bool {
        self.behind_marker.is_some() || self.content_line().is_some()
    }

    fn first_line(&self) -> usize {
        let line = if self.behind_marker.is_some() {
            0
        } else {
            self.content_line().unwrap_or_default()
        };
        self.before + line + 1
    }

    fn parse(&self) -> Result<Value, Problem> {
        self.read().map_err(|fault| {
            let (line, column) = match fault.position {
                Some((line, column)) => (self.before + line, column),
                None => (self.first_line(), 1),
            };
            Problem::Syntax {
                line,
                column,
                message: fault.message,
            }
        })
    }

    fn read(&self) -> Result<Value, Fault> {
        if self.behind_marker.is_some() {
            return Err(Fault::at(
                1,
                1,
                "kubectl takes only a comment behind '---'; begin the document on the next line",
            ));
        }
        let first = self.content_line().unwrap_or_default();
        if self
            .text
            .lines()
            .nth(first)
            .is_some_and(|line| line.starts_with('%'))
        {
            return Err(Fault::at(
                first + 1,
                1,
                "kubectl takes no directives such as %YAML; leave it out",
            ));
        }
        let composed = compose::value(&self.text);
        // libyaml needs a time that is the square of the depth of flow collections.
        let opened = self.text.bytes().filter(|byte| matches!(byte, b'[' | b'{'));
        if composed.is_ok() || opened.count() <= MAX_OPENED {
            self.hold_to_syntax()?;
        }
        composed
    }

    /// Refuses text that libyaml refuses, with its message. The value is ignored, so that no
    /// alias is followed.
    fn hold_to_syntax(&self) -> Result<(), Fault> {
        let deserializer = serde_yaml::Deserializer::from_str(&self.text);
        match IgnoredAny::deserialize(deserializer) {
            Ok(_) => Ok(()),
            Err(error) if error.to_string().contains(MORE_THAN_ONE) => Err(Fault::at(
                self.end_marker_line(),
                1,
                compose::BEHIND_THE_END,
            )),
            Err(error) => Err(Fault {
                position: error.location().map(|it| (it.line(), it.column())),
                message: without_position(&error.to_string()),
            }),
        }
    }

    /// The line of the first document end marker.
    fn end_marker_line(&self) -> usize {
        let index = self.text.lines().position(|line| line.starts_with("..."));
        index.unwrap_or_default() + 1
    }
}

/// The most flow collections in a text that is held to libyaml though it cannot be composed.
const MAX_OPENED: usize = 500;

/// In the parser's message about text behind `...`.
const MORE_THAN_ONE: &str = "more than one document";

/// The parser's message names a position in its own document; the problem names
/// the one in the whole text.
fn without_position(message: &str) -> String {
    let end = message.find(" at line ").unwrap_or(message.len());
    message[..end].to_owned()
}
