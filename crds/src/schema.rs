//! Holding a value to the CRD's schema, as the API server does, but with every
//! fault reported at its full path, and with a remedy.

use std::collections::{BTreeMap, HashSet};
use std::sync::{LazyLock, Mutex, PoisonError};

use regex::Regex;
use serde_json::{Map, Value};

use crate::crd;
use crate::spec::{HumanDuration, KafkaConsumerSpec, PodCount};
use crate::suggest::did_you_mean;
use crate::violation::Violation;

/// The schema of the whole resource.
pub(crate) fn root() -> &'static Value {
    static ROOT: LazyLock<Value> = LazyLock::new(crd::schema);
    &ROOT
}

/// Returns the schema's violations in a spec with correct fields and types: lengths,
/// numbers of items, duplicate items.
pub(crate) fn check_spec(spec: &KafkaConsumerSpec) -> Vec<Violation> {
    let value = serde_json::to_value(spec).expect("a spec is JSON");
    check(&root()["properties"]["spec"], &value, "spec")
}

/// Everything the schema has against the value at `path`.
pub(crate) fn check(schema: &Value, value: &Value, path: &str) -> Vec<Violation> {
    let mut walk = Walk {
        violations: Vec::new(),
    };
    walk.value(schema, value, path);
    walk.violations
}

/// Removes the fields that hold null: they count as absent.
pub(crate) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

struct Walk {
    violations: Vec<Violation>,
}

impl Walk {
    fn report(&mut self, path: &str, value: Option<&Value>, message: impl Into<String>) {
        self.violations.push(Violation {
            path: path.to_owned(),
            value: value.cloned(),
            message: message.into(),
        });
    }

    fn value(&mut self, schema: &Value, value: &Value, path: &str) {
        if is_set(schema, "x-kubernetes-int-or-string") {
            match value {
                Value::String(text) => self.text(schema, text, path),
                Value::Number(number) if number.is_i64() => self.integer(schema, value, path),
                Value::Number(_) if schema["pattern"] == crd::QUANTITY => {
                    self.wrong_type(value, path, "text or a whole number; put it in quotes");
                }
                _ => self.wrong_type(value, path, "text or a whole number"),
            }
            return;
        }
        match (schema["type"].as_str(), value) {
            (Some("object"), Value::Object(fields)) => self.object(schema, fields, path),
            (Some("array"), Value::Array(items)) => self.array(schema, items, path),
            (Some("string"), Value::String(text)) => self.text(schema, text, path),
            (Some("integer"), Value::Number(number)) if number.is_i64() => {
                self.integer(schema, value, path);
            }
            (Some("number"), Value::Number(_)) | (Some("boolean"), Value::Bool(_)) | (None, _) => {}
            (Some("object"), _) => self.wrong_type(value, path, "an object, with its fields"),
            (Some("array"), _) => self.wrong_type(value, path, "a list"),
            (Some("string"), Value::Number(_) | Value::Bool(_)) => {
                self.wrong_type(value, path, "text; put it in quotes");
            }
            (Some("string"), _) => self.wrong_type(value, path, "text"),
            (Some("integer"), Value::String(_)) => {
                self.wrong_type(value, path, "a whole number, without quotes");
            }
            (Some("integer"), _) => self.wrong_type(value, path, "a whole number"),
            (Some("number"), _) => self.wrong_type(value, path, "a number, without quotes"),
            (Some(_), _) => self.wrong_type(value, path, "true or false, without quotes"),
        }
    }

    fn wrong_type(&mut self, value: &Value, path: &str, expected: &str) {
        let hide = may_be_secret(path) || value.is_object() || value.is_array();
        let message = match value {
            Value::Object(_) => format!("must be {expected}, not an object"),
            Value::Array(_) => format!("must be {expected}, not a list"),
            Value::Null => format!("must be {expected}, not empty"),
            _ => format!("must be {expected}"),
        };
        let shown = (!hide && !value.is_null()).then_some(value);
        self.report(path, shown, message);
    }

    fn object(&mut self, schema: &Value, fields: &Map<String, Value>, path: &str) {
        let declared = schema["properties"].as_object();
        let values = schema.get("additionalProperties");
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            if let Some(field) = declared.and_then(|declared| declared.get(name)) {
                self.value(field, value, &join(path, name));
            } else if let Some(values) = values {
                self.value(values, value, &format!("{path}[{name}]"));
            } else if !is_set(schema, "x-kubernetes-preserve-unknown-fields") {
                self.unknown(declared, path, name);
            }
        }
        let required = schema["required"].as_array().into_iter().flatten();
        for name in required.filter_map(Value::as_str) {
            if fields.get(name).is_none_or(Value::is_null) {
                let about = schema["properties"][name]["description"].as_str();
                let message = match about {
                    Some(about) => format!("is required: {about}"),
                    None => "is required".to_owned(),
                };
                self.report(&join(path, name), None, message);
            }
        }
        if let Some(max) = bound(schema, "maxProperties").filter(|max| fields.len() > *max) {
            let message = format!("has {} entries; at most {max} are allowed", fields.len());
            self.report(path, None, message);
        }
    }

    /// Never shows the value: a misplaced field may well be a password.
    fn unknown(&mut self, declared: Option<&Map<String, Value>>, path: &str, name: &str) {
        let names: Vec<&str> = declared
            .into_iter()
            .flat_map(|declared| declared.keys().map(String::as_str))
            .collect();
        let message = match did_you_mean(name, names.iter().copied()) {
            suggestion if suggestion.is_empty() => format!(
                "unknown field; remove it, or use one of: {}",
                names.join(", ")
            ),
            suggestion => format!("unknown field{suggestion}"),
        };
        self.report(&join(path, name), None, message);
    }

    fn array(&mut self, schema: &Value, items: &[Value], path: &str) {
        if let Some(max) = bound(schema, "maxItems").filter(|max| items.len() > *max) {
            let message = format!("has {} items; at most {max} are allowed", items.len());
            self.report(path, None, message);
            // Nobody reads what is wrong with each of them.
            return;
        }
        for (index, item) in items.iter().enumerate() {
            self.value(&schema["items"], item, &format!("{path}[{index}]"));
        }
        // A set's repetitions are left to the rules, which say more.
        if schema["x-kubernetes-list-type"] == "map" {
            let keys = &schema["x-kubernetes-list-map-keys"];
            for key in keys
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
            {
                self.repeated(items, key, path);
            }
        }
    }

    fn repeated(&mut self, items: &[Value], key: &str, path: &str) {
        let mut seen = HashSet::new();
        for (index, item) in items.iter().enumerate() {
            let Some(value) = item.get(key).filter(|value| !value.is_null()) else {
                continue;
            };
            if !seen.insert(value) {
                let path = format!("{path}[{index}].{key}");
                let message = format!("is the {key} of an earlier item too; keep one of them");
                self.report(&path, Some(value), message);
            }
        }
    }

    fn text(&mut self, schema: &Value, text: &str, path: &str) {
        let value = Value::from(text);
        if let Some(words) = schema["enum"].as_array() {
            let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
            if !words.contains(&text) {
                let suggestion = did_you_mean(text, words.iter().copied());
                let message = format!("must be one of {}{suggestion}", words.join(", "));
                self.report(path, Some(&value), message);
            }
        }
        let length = text.chars().count();
        let is_duration = schema["pattern"] == HumanDuration::PATTERN;
        if let Some(max) = bound(schema, "maxLength").filter(|max| length > *max) {
            let message = format!("has {length} characters; at most {max} are allowed");
            self.report(path, None, message);
        } else if schema["pattern"]
            .as_str()
            .is_some_and(|it| !matches(it, text))
        {
            let message = format!("must look like {}", described(schema));
            // Such as a password behind a variable's name.
            let shown = (!may_be_secret(path)).then_some(&value);
            self.report(path, shown, message);
        } else if is_duration && text.parse::<HumanDuration>().is_err() {
            // The API server's rules fail on it, because Go can't hold it.
            let message = "is longer than 292 years; shorten it";
            self.report(path, Some(&value), message);
        }
    }

    fn integer(&mut self, schema: &Value, value: &Value, path: &str) {
        let number = value.as_i64().unwrap_or_default();
        let format = match schema["format"].as_str() {
            Some("int32") => (i64::from(i32::MIN), i64::from(i32::MAX)),
            _ => (i64::MIN, i64::MAX),
        };
        let min = whole(schema, "minimum").unwrap_or(format.0);
        let max = whole(schema, "maximum").unwrap_or(format.1);
        if (min..=max).contains(&number) {
            return;
        }
        let message = match (min, max == format.1) {
            (0, true) => "must not be negative".to_owned(),
            (1, true) => "must be at least 1".to_owned(),
            _ => format!("must be {min} to {max}"),
        };
        self.report(path, Some(value), message);
    }
}

/// Returns `true` if users put credentials there, by design or by mistake.
fn may_be_secret(path: &str) -> bool {
    [
        "spec.kafka.config[",
        "spec.kafka.authentication.",
        "spec.handler.env[",
        "spec.pod.env[",
    ]
    .iter()
    .any(|prefix| path.starts_with(prefix))
}

/// Returns `true` if a text matches a pattern of the schema. Each is compiled once.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    static COMPILED: Mutex<BTreeMap<String, Regex>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(regex) = compiled.get(pattern) {
        return regex.is_match(text);
    }
    let regex = Regex::new(pattern).expect("the schema's patterns are valid");
    let is_match = regex.is_match(text);
    compiled.insert(pattern.to_owned(), regex);
    is_match
}

fn is_set(schema: &Value, keyword: &str) -> bool {
    schema[keyword] == Value::Bool(true)
}

fn bound(schema: &Value, keyword: &str) -> Option<usize> {
    schema[keyword].as_u64()?.try_into().ok()
}

/// Bounds may be written with a fraction of zero.
fn whole(schema: &Value, keyword: &str) -> Option<i64> {
    let bound = &schema[keyword];
    bound.as_i64().or_else(|| Some(bound.as_f64()? as i64))
}

/// Returns the meaning of a pattern, in words if there are any.
fn described(schema: &Value) -> String {
    match schema["pattern"].as_str() {
        Some(HumanDuration::PATTERN) => {
            "250ms, 30s or 1h30m: numbers with a unit, which is ms, s, m or h".to_owned()
        }
        Some(PodCount::PATTERN) => {
            "25%: a percentage up to 100%; write a number of pods without quotes".to_owned()
        }
        Some(pattern) => match crd::described(pattern) {
            Some(words) => words.to_owned(),
            None => format!("the pattern {pattern}"),
        },
        None => "something else".to_owned(),
    }
}

pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}
