//! docs/reliability.md against the rules and the tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use penstock_simulator::rules::ALL;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The rows of the table of promises: promise, rule, test.
fn promises() -> Vec<[String; 3]> {
    let page = fs::read_to_string(root().join("docs/reliability.md")).expect("the page");
    let table = page
        .split("## Promises")
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next())
        .expect("the table");
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let cells = |line: &str| -> Vec<String> {
        let cells = line.trim_matches('|').split('|');
        cells
            .map(|cell| cell.trim().trim_matches('`').to_owned())
            .collect()
    };
    rows.skip(1)
        .map(|line| cells(line).try_into().expect("three cells"))
        .collect()
}

fn sources(folder: &Path, found: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push_str(&fs::read_to_string(&path).expect("a file"));
        }
    }
}

#[test]
fn every_rule_has_a_promise_and_every_promise_a_rule() {
    let rules: BTreeSet<_> = ALL.iter().map(|rule| format!("{rule:?}")).collect();
    let promised: BTreeSet<_> = promises().into_iter().map(|[_, rule, _]| rule).collect();
    assert_eq!(promised, rules);
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let mut tests = String::new();
    sources(&root().join("tests/tests"), &mut tests);
    for [promise, _, test] in promises() {
        let function = format!("fn {test}(");
        assert!(tests.contains(&function), "{promise} names no test: {test}");
    }
}
