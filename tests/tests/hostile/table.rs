//! The table of behaviours.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;

use penstock_tests::lane::Mode;
use penstock_tests::languages::root;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::Deserialize;

/// A kind of handler program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    Python,
    Go,
    Node,
    Rust,
    Java,
    /// The protocol without an SDK.
    Raw,
    /// The protocol Http.
    Http,
    /// The protocol BatchHttp.
    #[serde(rename = "batch-http")]
    BatchHttp,
}

impl Language {
    /// Returns `true` for a program that an SDK serves.
    fn has_sdk(self) -> bool {
        !matches!(self, Self::Raw | Self::Http | Self::BatchHttp)
    }

    /// The protocol of the manifest.
    pub fn protocol(self) -> &'static str {
        match self {
            Self::Http => "Http",
            Self::BatchHttp => "BatchHttp",
            _ => "Grpc",
        }
    }
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    Handled,
    Skipped,
    DeadLettered,
}

/// A behaviour, and what must become of the message.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub name: String,
    /// One sentence for readers.
    what: String,
    pub kind: Option<String>,
    pub end: End,
    #[serde(default = "one")]
    pub attempts: u32,
    /// One attempt may do.
    #[serde(default)]
    pub fewer: bool,
    /// Words in the dead letter's reason.
    pub reason: Option<String>,
    /// Words in the handler's log.
    pub handler: Option<String>,
    /// Words in the runtime's log.
    pub runtime: Option<String>,
    languages: Option<Vec<Language>>,
    modes: Option<Vec<String>>,
    /// The attempts at which the handler behaves so; all without it.
    pub times: Option<u32>,
    #[serde(default)]
    pub alone: bool,
    #[serde(default)]
    pub slow: bool,
    /// Another message may be charged.
    #[serde(default)]
    pub stray: bool,
    /// Its message has no key.
    #[serde(default)]
    pub keyless: bool,
    #[serde(default, rename = "in")]
    changes: BTreeMap<Language, Change>,
}

/// What differs in a language.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    end: Option<End>,
    attempts: Option<u32>,
    reason: Option<String>,
    handler: Option<String>,
    runtime: Option<String>,
}

fn one() -> u32 {
    1
}

impl Row {
    /// Returns `true` if the program of a language can do it.
    pub fn is_of(&self, language: Language) -> bool {
        match &self.languages {
            Some(languages) => languages.contains(&language),
            None => language.has_sdk(),
        }
    }

    /// Returns `true` if it is run in a language and a mode.
    pub fn is_for(&self, language: Language, mode: Mode) -> bool {
        let name = format!("{mode:?}");
        let has_mode = self
            .modes
            .as_ref()
            .is_none_or(|modes| modes.contains(&name));
        has_mode && self.is_of(language)
    }

    /// The row as it is in a language.
    pub fn within(&self, language: Language) -> Self {
        let mut row = self.clone();
        if let Some(change) = self.changes.get(&language).cloned() {
            row.end = change.end.unwrap_or(row.end);
            row.attempts = change.attempts.unwrap_or(row.attempts);
            row.reason = change.reason.or(row.reason);
            row.handler = change.handler.or(row.handler);
            row.runtime = change.runtime.or(row.runtime);
        }
        row
    }
}

/// Reads the table.
pub fn rows() -> Result<Vec<Row>, Box<dyn Error>> {
    let path = root().join("tests/hostile/behaviours.yaml");
    let text = fs::read_to_string(path)?;
    Ok(serde_yaml::from_str(&text)?)
}

/// Draws the share of a run: all rows that are quick and may be together, one that is slow,
/// and one of each kind that runs alone. Of these kinds an SDK takes every other, so that two
/// languages have all, and so do Http and BatchHttp.
/// `kinds` are those of the whole table.
pub fn draw(
    mut rows: Vec<Row>,
    kinds: &BTreeSet<String>,
    language: Language,
    seed: u64,
) -> Vec<Row> {
    rows.shuffle(&mut StdRng::seed_from_u64(seed));
    let turn = seed.wrapping_add(language as u64) % 2;
    let is_mine = |kind: &String| {
        let place = kinds.iter().position(|found| found == kind);
        language == Language::Raw || place.is_some_and(|place| place as u64 % 2 == turn)
    };
    let mut drawn = BTreeSet::new();
    rows.retain(|row| match (&row.kind, row.slow) {
        (Some(kind), _) => is_mine(kind) && drawn.insert(kind.clone()),
        (None, true) => drawn.insert("slow".to_owned()),
        (None, false) => true,
    });
    rows
}

/// The kinds of rows.
pub fn kinds(rows: &[Row]) -> BTreeSet<String> {
    rows.iter().filter_map(|row| row.kind.clone()).collect()
}

#[test]
fn two_languages_draw_each_kind() {
    let rows = rows().unwrap();
    let of = |language: Language| {
        let rows = rows.iter().filter(|row| row.is_of(language)).cloned();
        rows.collect::<Vec<_>>()
    };
    let all = kinds(&rows);
    for seed in 0..4 {
        // Neighbours in the list of languages that know the same kinds.
        let (one, other) = (Language::Python, Language::Go);
        let mut drawn = kinds(&draw(of(one), &all, one, seed));
        drawn.extend(kinds(&draw(of(other), &all, other, seed)));
        assert_eq!(drawn, kinds(&of(one)));
        let mut drawn = kinds(&draw(of(Language::Http), &all, Language::Http, seed));
        let batches = draw(of(Language::BatchHttp), &all, Language::BatchHttp, seed);
        drawn.extend(kinds(&batches));
        assert!(drawn.is_superset(&kinds(&of(Language::Http))), "{drawn:?}");
        let raw = draw(of(Language::Raw), &all, Language::Raw, seed);
        assert_eq!(kinds(&raw), kinds(&of(Language::Raw)));
        assert_eq!(raw.iter().filter(|row| row.slow).count(), 1);
    }
}

#[test]
fn the_table_is_well_formed() {
    let rows = rows().unwrap();
    let mut names: Vec<_> = rows.iter().map(|row| &row.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), rows.len(), "names are unique");
    for row in &rows {
        let name = &row.name;
        assert!(
            row.what.starts_with("It ") && row.what.ends_with('.'),
            "{name}"
        );
        assert_eq!(
            row.alone,
            row.kind.is_some(),
            "{name}: rows that run alone have a kind"
        );
        assert!((1..=2).contains(&row.attempts), "{name}");
        let is_letter = row.end == End::DeadLettered;
        assert_eq!(
            row.reason.is_some(),
            is_letter,
            "{name}: a dead letter has a reason"
        );
    }
    assert!(rows.len() >= 60, "{} rows", rows.len());
}
