//! Each manifest of `tests/golden` comes to exactly the objects that stand
//! beside it. `PENSTOCK_UPDATE_GOLDEN=1` rewrites them: read the difference.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use penstock_operator::build::Kind;
use serde::Serialize;

use crate::manifest::{Manifest, body};

const EXPECTED: &str = ".expected.yaml";

/// A digest that shows in the files as what it is.
const SECRETS: &str = "digest-of-the-secrets";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The manifests' names, less `.yaml`.
fn names() -> BTreeSet<String> {
    let files = fs::read_dir(directory()).expect("the directory");
    files
        .map(|file| {
            file.expect("a file")
                .file_name()
                .into_string()
                .expect("a name in UTF-8")
        })
        .filter(|file| !file.ends_with(EXPECTED))
        .map(|file| file.strip_suffix(".yaml").expect("a manifest").to_owned())
        .collect()
}

fn objects(name: &str) -> String {
    let path = directory().join(format!("{name}.yaml"));
    let manifest = Manifest::read(&fs::read_to_string(path).expect("a manifest"));
    let mut yaml = String::new();
    for object in manifest.objects(SECRETS) {
        yaml.push_str("---\n");
        let mut text = Vec::new();
        object
            .body
            .serialize(&mut serde_yaml::Serializer::new(&mut text))
            .expect("an object is YAML");
        yaml.push_str(&String::from_utf8(text).expect("YAML is text"));
    }
    yaml
}

#[test]
fn manifests_come_to_the_objects_that_stand_beside_them() {
    let update = std::env::var_os("PENSTOCK_UPDATE_GOLDEN").is_some();
    let names = names();
    assert!(names.len() >= 7, "{names:?}");
    let mut differences = String::new();
    for name in names {
        let path = directory().join(format!("{name}{EXPECTED}"));
        let built = objects(&name);
        if update {
            fs::write(&path, &built).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if expected != built {
            differences.push_str(&format!("{name}{EXPECTED}:\n{}", diff(&expected, &built)));
        }
    }
    assert!(
        differences.is_empty(),
        "objects changed; if they should, rewrite them with PENSTOCK_UPDATE_GOLDEN=1\n{differences}"
    );
}

#[test]
fn every_expectation_has_its_manifest() {
    let names = names();
    for file in fs::read_dir(directory()).unwrap() {
        let file = file.unwrap().file_name().into_string().unwrap();
        if let Some(name) = file.strip_suffix(EXPECTED) {
            assert!(names.contains(name), "{file} is of no manifest");
        }
    }
}

/// The lines that differ, each with a few around it.
fn diff(expected: &str, built: &str) -> String {
    const AROUND: usize = 3;
    let lines = script(
        &expected.lines().collect::<Vec<_>>(),
        &built.lines().collect::<Vec<_>>(),
    );
    let changed: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].0 != ' ').collect();
    let mut text = String::new();
    let mut last = None;
    for (at, (sign, line)) in lines.iter().enumerate() {
        if !changed.iter().any(|changed| changed.abs_diff(at) <= AROUND) {
            continue;
        }
        if last.is_some_and(|last| last + 1 < at) {
            text.push_str("  …\n");
        }
        text.push_str(&format!("{sign} {line}\n"));
        last = Some(at);
    }
    text
}

/// Which lines stay (' '), go ('-') and come ('+'): the longest common
/// subsequence.
fn script<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(char, &'a str)> {
    let mut common = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = match old[i] == new[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push((' ', old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(('-', old[i]));
            i += 1;
        } else {
            lines.push(('+', new[j]));
            j += 1;
        }
    }
    lines
}

#[test]
fn a_difference_shows_what_went_and_what_came() {
    let old = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk";
    let new = "a\nB\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl";
    assert_eq!(
        diff(old, new),
        "  a\n- b\n+ B\n  c\n  d\n  e\n  …\n  i\n  j\n  k\n+ l\n"
    );
}

/// The API server refuses two mounts at one path and says so; a handler that sees
/// another volume than the runtime would never be reached, and nobody told why.
#[test]
fn a_mount_of_the_user_never_takes_the_place_of_the_socket() {
    let manifest = Manifest::read(
        "
        apiVersion: penstock.dev/v1alpha1
        kind: KafkaConsumer
        metadata: { name: mails }
        spec:
          group: mail.mails
          topics: [mails]
          mode: InOrder
          kafka: { bootstrapServers: 'kafka:9092' }
          handler:
            image: registry.example/mail:3
            socket: /run/mail/handler.sock
            volumeMounts: [{ name: own, mountPath: /run/mail }]
          pod: { volumes: [{ name: own, emptyDir: {} }] }
        ",
    );
    let objects = manifest.objects(SECRETS);
    let pod = &body(&objects, Kind::Deployment)["spec"]["template"]["spec"];
    let mounts = pod["initContainers"][0]["volumeMounts"].as_array().unwrap();
    let at_socket = mounts
        .iter()
        .filter(|mount| mount["mountPath"] == "/run/mail");
    let names: Vec<_> = at_socket.map(|mount| mount["name"].as_str()).collect();
    assert_eq!(names, [Some("penstock-socket"), Some("own")]);
}
