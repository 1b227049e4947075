//! Nodes of a YAML document to one JSON value.

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Value};

use super::{Fault, scalar};

/// The deepest nesting. No manifest that the API server accepts comes near it.
const MAX_DEPTH: usize = 100;

/// The most bytes that anchors and aliases may add to a document. kubectl's parser has such
/// a limit too: a few lines of aliases to aliases would fill any memory. The API server takes
/// no object of this size.
const MAX_ALIASED: usize = 4 * 1024 * 1024;

/// Returns the value of the first document of a text, null if there is none.
///
/// # Errors
/// Where kubectl can't read the text, or reads something else than a person would.
pub(super) fn value(text: &str) -> Result<Value, Fault> {
    let mut composer = Composer {
        // The parser keeps few comments, and refuses a text with more in one place.
        parser: Parser::new_from_str_with_options(
            text,
            granit_parser::options! { emit_comments: false },
        ),
        anchors: HashMap::new(),
        aliased: 0,
    };
    loop {
        let (event, span) = composer.next()?;
        match event {
            Event::StreamEnd | Event::DocumentEnd => return Ok(Value::Null),
            Event::StreamStart | Event::DocumentStart(..) => {}
            event => {
                let value = composer.node(event, &span, 0)?.value;
                composer.end()?;
                return Ok(value);
            }
        }
    }
}

/// The message about text behind `...`.
pub(super) const BEHIND_THE_END: &str =
    "kubectl ignores all that follows '...'; begin the next document with '---'";

struct Composer<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    /// The values of finished nodes that have an anchor.
    anchors: HashMap<usize, Value>,
    /// Bytes that anchors and aliases have added.
    aliased: usize,
}

/// A node, and whether it is the plain scalar `<<`, which merges when it is a key.
struct Node {
    value: Value,
    is_merge: bool,
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        Self {
            value,
            is_merge: false,
        }
    }
}

impl<'a> Composer<'a> {
    /// Returns the next event that is no comment.
    fn next(&mut self) -> Result<(Event<'a>, Span), Fault> {
        loop {
            match self.parser.next_event() {
                None => return Ok((Event::StreamEnd, Span::default())),
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(event)) => return Ok(event),
                Some(Err(error)) => {
                    let marker = error.marker();
                    let message = error.info();
                    return Err(Fault::at(marker.line(), marker.col() + 1, message));
                }
            }
        }
    }

    /// Refuses a document after the first.
    fn end(&mut self) -> Result<(), Fault> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::DocumentStart(..), span) => {
                    return Err(Fault::at(span.start.line(), 1, BEHIND_THE_END));
                }
                _ => {}
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node, Fault> {
        let fault = |message: String| Fault::at(span.start.line(), span.start.col() + 1, message);
        if depth > MAX_DEPTH {
            return Err(fault(format!("is nested deeper than {MAX_DEPTH} levels")));
        }
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => (
                scalar_node(&text, style, tag.as_deref()).map_err(fault)?,
                anchor,
            ),
            Event::SequenceStart(_, anchor, _) => (self.sequence(depth)?.into(), anchor),
            Event::MappingStart(_, anchor, _) => (self.mapping(depth)?.into(), anchor),
            Event::Alias(anchor) => (self.alias(anchor).map_err(fault)?.into(), 0),
            _ => return Err(fault("a value is missing here".to_owned())),
        };
        if anchor != 0 {
            let kept = copy(&mut self.aliased, &node.value).map_err(fault)?;
            self.anchors.insert(anchor, kept);
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize) -> Result<Value, String> {
        let value = self.anchors.get(&anchor);
        let value = value.ok_or("an anchor's value contains itself")?;
        copy(&mut self.aliased, value)
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, Fault> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Array(items)),
                (event, span) => items.push(self.node(event, &span, depth + 1)?.value),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, Fault> {
        let mut fields = Map::new();
        // The keys that stand in this mapping, not only in one that was merged.
        let mut own: HashSet<String> = HashSet::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(Value::Object(fields));
            }
            let fault =
                |message: String| Fault::at(span.start.line(), span.start.col() + 1, message);
            let key = self.node(event, &span, depth + 1)?;
            let (event, value_span) = self.next()?;
            let value = self.node(event, &value_span, depth + 1)?.value;
            if key.is_merge {
                merge(&mut fields, value).map_err(fault)?;
                continue;
            }
            let key = scalar::key(key.value).map_err(fault)?;
            if !own.insert(key.clone()) {
                return Err(fault(format!("duplicate entry with key {key:?}")));
            }
            fields.insert(key, value);
        }
    }
}

/// In kubectl's parser a merged field replaces one that stands above it, and is replaced
/// by one that stands below. Of several mappings the first has precedence.
fn merge(fields: &mut Map<String, Value>, value: Value) -> Result<(), String> {
    const WANTED: &str = "'<<' merges a mapping, or a list of mappings";
    match value {
        Value::Object(merged) => fields.extend(merged),
        Value::Array(mappings) => {
            for mapping in mappings.into_iter().rev() {
                match mapping {
                    Value::Object(merged) => fields.extend(merged),
                    _ => return Err(WANTED.to_owned()),
                }
            }
        }
        _ => return Err(WANTED.to_owned()),
    }
    Ok(())
}

fn scalar_node(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Node, String> {
    let tag = tag.map(|tag| format!("{}{}", tag.handle(), tag.suffix()));
    let plain = style == ScalarStyle::Plain;
    Ok(Node {
        value: scalar::value(text, tag.as_deref(), plain)?,
        is_merge: plain && tag.is_none() && text == "<<",
    })
}

/// Returns a copy of a value, and adds its size to that of all copies.
fn copy(aliased: &mut usize, value: &Value) -> Result<Value, String> {
    *aliased = aliased.saturating_add(size(value));
    if *aliased > MAX_ALIASED {
        return Err("the document has too many aliases, or too large ones".to_owned());
    }
    Ok(value.clone())
}

/// Returns the bytes that a value takes, nearly.
fn size(value: &Value) -> usize {
    let below: usize = match value {
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, field)| name.len() + size(field))
            .sum(),
        Value::String(text) => text.len(),
        _ => 0,
    };
    size_of::<Value>() + below
}
