//! The rules that a manifest breaks besides the structure.
//!
//! A rule needs a spec whose fields have the right types. So the wrong fields are left out, and
//! fields that are required then get a value of the right type. The rules that may depend on such
//! a field are not judged: what they say could be untrue once the field is corrected.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value, json};

use crate::rules::{self, Cel, CelMessage, Rule};
use crate::schema::{self, join};
use crate::spec::KafkaConsumerSpec;
use crate::suggest::nearest;
use crate::violation::Violation;

/// The maximum number of faults beside which rules are judged. Each rule is compared with each
/// fault.
const MAX_FAULTS: usize = 200;

/// Returns the broken rules that do not depend on a field with a fault. With very many faults,
/// there are none.
pub(super) fn broken_rules(object: &Value, faults: &[Violation]) -> Vec<Violation> {
    let faults = faults.iter().map(|fault| fault.path.as_str());
    let faults: HashSet<&str> = faults.filter(|path| is_within(path, "spec")).collect();
    if faults.len() > MAX_FAULTS {
        return Vec::new();
    }
    let mut mending = Mending {
        faults: &faults,
        spoilt: faults.iter().map(|path| (*path).to_owned()).collect(),
    };
    let mut spec = object["spec"].clone();
    mending.mend(&schema::root()["properties"]["spec"], &mut spec, "spec");
    let Ok(spec) = serde_json::from_value::<KafkaConsumerSpec>(spec) else {
        return Vec::new();
    };
    let spoilt = mending.spoilt.iter();
    let spoilt: BTreeSet<_> = spoilt
        .map(|path| (without_indices(path), name_of(path)))
        .collect();
    let concerns_any = |rule: &&Rule| {
        let mut spoilt = spoilt.iter();
        spoilt.any(|(path, name)| concerns(rule, path, name))
    };
    let rules = rules::all().iter();
    let independent = rules.filter(|rule| !concerns_any(rule));
    independent
        .flat_map(|rule| rule.violations(&spec))
        .collect()
}

struct Mending<'a> {
    faults: &'a HashSet<&'a str>,
    /// The fields whose values are not the user's.
    spoilt: Vec<String>,
}

impl Mending<'_> {
    /// Leaves out what is wrong below `path`, and adds what is required.
    fn mend(&mut self, schema: &Value, value: &mut Value, path: &str) {
        match value {
            Value::Object(fields) => self.mend_object(schema, fields, path),
            Value::Array(items) => {
                let mut index = 0..;
                items.retain_mut(|item| {
                    let path = format!("{path}[{}]", index.next().unwrap_or(usize::MAX));
                    self.mend(&schema["items"], item, &path);
                    !self.faults.contains(path.as_str())
                });
            }
            _ => {}
        }
    }

    fn mend_object(&mut self, schema: &Value, fields: &mut Map<String, Value>, path: &str) {
        let declared = schema["properties"].as_object();
        let keeps_unknown = schema["x-kubernetes-preserve-unknown-fields"] == true;
        fields.retain(|name, value| {
            let (schema, path) = match declared.and_then(|declared| declared.get(name)) {
                Some(schema) => (schema, join(path, name)),
                None if schema.get("additionalProperties").is_some() => {
                    (&schema["additionalProperties"], format!("{path}[{name}]"))
                }
                None if keeps_unknown => return true,
                None => {
                    let names = declared.into_iter().flat_map(Map::keys);
                    match nearest(name, names.map(String::as_str)) {
                        Some(meant) => self.spoilt.push(join(path, meant)),
                        // Any field of the object may be meant. At the top these would be all.
                        None if path != "spec" => self.spoilt.push(path.to_owned()),
                        None => {}
                    }
                    return false;
                }
            };
            self.mend(schema, value, &path);
            !self.faults.contains(path.as_str())
        });
        let required = schema["required"].as_array().into_iter().flatten();
        for name in required.filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                let path = join(path, name);
                let mut value = placeholder(&schema["properties"][name]);
                self.mend(&schema["properties"][name], &mut value, &path);
                self.spoilt.push(path);
                fields.insert(name.to_owned(), value);
            }
        }
    }
}

fn placeholder(schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("object") => json!({}),
        Some("array") => json!([]),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(1)),
        Some("boolean") => json!(false),
        _ => schema["enum"].get(0).cloned().unwrap_or(json!("a")),
    }
}

/// Returns `true` if a rule may depend on the field at a path without indices: it speaks of it,
/// of a field around it or within it, or it has the field's name in its text.
fn concerns(rule: &Rule, path: &str, name: &str) -> bool {
    let nodes: &[String] = match &rule.cel {
        Cel::At { nodes, .. } => nodes,
        Cel::RustOnly(_) => &[],
    };
    let mut fields = rule.fields.iter().map(|field| without_indices(field));
    if fields.any(|field| is_within(&field, path) || is_within(path, &field)) {
        return true;
    }
    let mut texts = vec![rule.message.as_str()];
    if let Cel::At { rule, message, .. } = &rule.cel {
        texts.push(rule);
        match message {
            CelMessage::Fixed => {}
            CelMessage::Found(text) | CelMessage::Expression(text) => texts.push(text),
        }
    }
    texts.extend(nodes.iter().map(String::as_str));
    let has_name = |text: &str| {
        let is_end = |it: Option<char>| it.is_none_or(|it| !it.is_alphanumeric() && it != '_');
        text.match_indices(name).any(|(at, _)| {
            let (before, after) = (&text[..at], &text[at + name.len()..]);
            is_end(before.chars().next_back()) && is_end(after.chars().next())
        })
    };
    texts.into_iter().any(has_name)
}

/// Returns the last name of a path: that of a field, or the key in a map of texts. An index says
/// nothing, and then it is the name of the list.
fn name_of(path: &str) -> &str {
    match path.strip_suffix(']').and_then(|it| it.rsplit_once('[')) {
        Some((list, index)) if index.bytes().all(|it| it.is_ascii_digit()) => name_of(list),
        Some((_, key)) => key,
        None => path.rsplit_once('.').map_or(path, |(_, name)| name),
    }
}

/// Returns `true` if a path is another one, or below it.
fn is_within(path: &str, other: &str) -> bool {
    let rest = path.strip_prefix(other);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Puts `[]` in the place of each index and key.
fn without_indices(path: &str) -> String {
    let mut parts = path.split('[');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str("[]");
        plain.push_str(part.split_once(']').map_or("", |(_, rest)| rest));
    }
    plain
}
