//! The tables of manifests, for the tests that read them.
// Each test reads a part of it.
#![allow(
    dead_code,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::path::PathBuf;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Value, json};

/// One manifest, and the verdict about it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub name: String,
    /// A JSON merge patch of the base.
    #[serde(default)]
    pub patch: Value,
    /// Long values by their JSON pointers.
    #[serde(default)]
    pub long: Vec<Long>,
    /// Replacements in the base's text.
    #[serde(default)]
    pub edit: Vec<(String, String)>,
    /// The whole text.
    #[serde(default)]
    pub text: Option<String>,
    /// Words that both refusals contain. Absent: it is accepted.
    #[serde(default)]
    pub refused: Option<Vec<String>>,
    /// More words of `penstock check`.
    #[serde(default)]
    pub check: Vec<String>,
    /// Words of the API server or kubectl, instead of `refused`.
    #[serde(default)]
    pub server: Option<Vec<String>>,
    /// Only `penstock check` refuses it, for this reason.
    #[serde(default)]
    pub only_check: Option<String>,
}

/// A value that is too long to be written out: a text of a beginning and repeated text, or
/// a list or an object of numbered entries.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Long {
    at: String,
    #[serde(default)]
    kind: Kind,
    #[serde(default)]
    begin: String,
    repeat: String,
    times: usize,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    Text,
    List,
    Object,
}

impl Long {
    fn value(&self) -> Value {
        let numbered = (0..self.times).map(|number| format!("{}{number}", self.repeat));
        match self.kind {
            Kind::Text => format!("{}{}", self.begin, self.repeat.repeat(self.times)).into(),
            Kind::List => numbered.map(Value::from).collect(),
            Kind::Object => numbered.map(|name| (name, Value::from("x"))).collect(),
        }
    }
}

/// What is sent to the API server: JSON as kubectl sends it, or a file for kubectl.
pub enum Manifest {
    Object(Value),
    Text(String),
}

impl Manifest {
    /// The text as a file has it.
    pub fn text(&self) -> String {
        match self {
            Self::Object(object) => object.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

impl Row {
    pub fn manifest(&self) -> Manifest {
        if let Some(text) = &self.text {
            return Manifest::Text(text.clone());
        }
        if !self.edit.is_empty() {
            let mut text = BASE.to_owned();
            for (old, new) in &self.edit {
                assert!(text.contains(old), "{}: no {old:?}", self.name);
                text = text.replacen(old, new, 1);
            }
            return Manifest::Text(text);
        }
        let mut object = base();
        merge(&mut object, &self.patch);
        for long in &self.long {
            put(&mut object, &long.at, long.value());
        }
        Manifest::Object(object)
    }

    pub fn is_refused_by_server(&self) -> bool {
        self.refused.is_some() && self.only_check.is_none()
    }
}

/// The text that rows edit.
const BASE: &str = include_str!("base.txt");

fn base() -> Value {
    let base: &Value = &BASE_OBJECT;
    base.clone()
}

static BASE_OBJECT: LazyLock<Value> =
    LazyLock::new(|| serde_yaml::from_str(BASE).expect("the base is YAML"));

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    target.remove(name);
                } else {
                    merge(target.entry(name).or_insert_with(|| json!({})), value);
                }
            }
        }
        (_, Value::Null) => {}
        (target, Value::Object(_)) => {
            *target = json!({});
            merge(target, patch);
        }
        (target, patch) => *target = patch.clone(),
    }
}

/// Puts a value at a JSON pointer. Objects on the way are created.
fn put(object: &mut Value, pointer: &str, value: Value) {
    let mut place = object;
    for name in pointer.split('/').skip(1) {
        place = match name.parse::<usize>() {
            Ok(index) => &mut place[index],
            Err(_) => &mut place[name],
        };
    }
    *place = value;
}

/// The rows of every table, each with the name of its file in front.
pub fn rows() -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/agreement"));
    let mut rows = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|ending| ending != "yaml") {
            continue;
        }
        let stem = path.file_stem().unwrap_or_default().display().to_string();
        let table: Vec<Row> = serde_yaml::from_str(&std::fs::read_to_string(&path)?)
            .map_err(|error| format!("{stem}: {error}"))?;
        rows.extend(table.into_iter().map(|row| Row {
            name: format!("{stem}: {}", row.name),
            ..row
        }));
    }
    rows.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(rows)
}
