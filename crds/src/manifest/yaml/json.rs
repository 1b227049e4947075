//! JSON documents. kubectl reads a text that begins with `{` as JSON first, which has
//! escapes that YAML lacks, and in which several objects may follow each other.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{YamlDocument, scalar};
use crate::manifest::Problem;

/// Returns the objects of a text that is JSON. Returns `None` if it is not; it may be
/// YAML.
pub(super) fn documents(text: &str) -> Option<Vec<YamlDocument>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut documents = Vec::new();
    let (mut line, mut counted) = (1, 0);
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Unrepeated>();
    loop {
        let rest = &text[stream.byte_offset()..];
        let begin = text.len() - rest.trim_start().len();
        line += text[counted..begin].matches('\n').count();
        counted = begin;
        let value = match stream.next() {
            None => return Some(documents),
            Some(Ok(value)) => Ok(value.0),
            Some(Err(error)) if error.is_data() => Err(Problem::Syntax {
                line: error.line(),
                column: error.column(),
                message: without_position(&error.to_string()),
            }),
            Some(Err(_)) => return None,
        };
        let failed = value.is_err();
        documents.push(YamlDocument { line, value });
        if failed {
            return Some(documents);
        }
    }
}

fn without_position(message: &str) -> String {
    let end = message.rfind(" at line ").unwrap_or(message.len());
    message[..end].to_owned()
}

/// A value in which no object has two fields of one name. The API server refuses them, and
/// serde_json drops the first.
struct Unrepeated(Value);

impl<'de> Deserialize<'de> for Unrepeated {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor).map(Self)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, it: bool) -> Result<Value, E> {
        Ok(Value::from(it))
    }

    fn visit_i64<E>(self, it: i64) -> Result<Value, E> {
        Ok(Value::from(it))
    }

    fn visit_u64<E>(self, it: u64) -> Result<Value, E> {
        Ok(Value::from(it))
    }

    /// kubectl writes 1.0 as 1.
    fn visit_f64<E>(self, it: f64) -> Result<Value, E> {
        Ok(scalar::float(it).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, it: &str) -> Result<Value, E> {
        Ok(Value::from(it))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut found = Vec::new();
        while let Some(Unrepeated(item)) = items.next_element()? {
            found.push(item);
        }
        Ok(Value::Array(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut found = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let Unrepeated(value) = fields.next_value()?;
            if found.contains_key(&name) {
                let message = format!("duplicate entry with key {name:?}");
                return Err(de::Error::custom(message));
            }
            found.insert(name, value);
        }
        Ok(Value::Object(found))
    }
}
