//! YAML text to JSON values, document by document.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Problem;

/// A document that is not empty.
pub(super) struct YamlDocument {
    /// The line of the text that it begins on, from 1.
    pub line: usize,
    /// Its value, or why there is none.
    pub value: Result<Value, Problem>,
}

/// Splits a text at its document markers, so that a fault in one document does
/// not hide the others.
pub(super) fn documents(text: &str) -> Vec<YamlDocument> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    chunks(text)
        .into_iter()
        .filter(|chunk| chunk.has_content())
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

/// The lines between two document markers.
struct Chunk {
    /// Lines of the text before it.
    before: usize,
    text: String,
}

fn chunks(text: &str) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut current = Chunk {
        before: 0,
        text: String::new(),
    };
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line, "---") || is_marker(line, "...") {
            let next = Chunk {
                before: index,
                text: String::new(),
            };
            chunks.push(std::mem::replace(&mut current, next));
            // Text after the marker keeps its column.
            current.text.push_str("   ");
            current.text.push_str(&line[3..]);
        } else {
            current.text.push_str(line);
        }
    }
    chunks.push(current);
    chunks
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

impl Chunk {
    fn content_line(&self) -> Option<usize> {
        self.text.lines().position(|line| {
            let line = line.trim_start();
            !line.is_empty() && !line.starts_with(['#', '%'])
        })
    }

    fn has_content(&self) -> bool {
        self.content_line().is_some()
    }

    fn first_line(&self) -> usize {
        self.before + self.content_line().unwrap_or_default() + 1
    }

    fn parse(&self) -> Result<Value, Problem> {
        let syntax = |error: serde_yaml::Error| self.syntax(&error);
        let deserializer = serde_yaml::Deserializer::from_str(&self.text);
        let mut value = serde_yaml::Value::deserialize(deserializer).map_err(syntax)?;
        value.apply_merge().map_err(syntax)?;
        Ok(to_json(value))
    }

    fn syntax(&self, error: &serde_yaml::Error) -> Problem {
        let (line, column) = error.location().map_or((self.first_line(), 1), |location| {
            (self.before + location.line(), location.column())
        });
        Problem::Syntax {
            line,
            column,
            message: without_position(&error.to_string()),
        }
    }
}

/// The parser's message names a position in its own document; the problem names
/// the one in the whole text.
fn without_position(message: &str) -> String {
    let end = message.find(" at line ").unwrap_or(message.len());
    message[..end].to_owned()
}

/// Keys become text, as in kubectl. Numbers that JSON does not have (`.nan`, `.inf`)
/// become text too, and are rejected if a number is required.
fn to_json(value: serde_yaml::Value) -> Value {
    match value {
        serde_yaml::Value::Null => Value::Null,
        serde_yaml::Value::Bool(it) => Value::Bool(it),
        serde_yaml::Value::Number(it) => number(&it),
        serde_yaml::Value::String(it) => Value::String(it),
        serde_yaml::Value::Sequence(items) => items.into_iter().map(to_json).collect(),
        serde_yaml::Value::Mapping(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(key, value)| (key_text(to_json(key)), to_json(value)))
                .collect::<Map<_, _>>(),
        ),
        serde_yaml::Value::Tagged(tagged) => to_json(tagged.value),
    }
}

fn number(it: &serde_yaml::Number) -> Value {
    if let Some(integer) = it.as_i64() {
        return Value::from(integer);
    }
    if let Some(integer) = it.as_u64() {
        return Value::from(integer);
    }
    match it.as_f64().and_then(serde_json::Number::from_f64) {
        Some(number) => Value::Number(number),
        None => Value::String(it.to_string()),
    }
}

fn key_text(key: Value) -> String {
    match key {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
