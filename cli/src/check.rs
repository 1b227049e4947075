//! `penstock check`: manifests checked without a cluster.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use penstock_crds::manifest::{self, Content, Document};
use serde::Serialize;

use crate::args::{CheckArguments, Output};
use crate::findings::Finding;
use crate::input;

/// What was found. Its JSON is an interface: docs/local-mode.md describes it.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Whether there is a KafkaConsumer, all are valid, and all files were read.
    valid: bool,
    files: Vec<CheckedFile>,
    summary: Summary,
}

#[derive(Debug, Serialize)]
struct CheckedFile {
    file: String,
    /// Why the file can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    documents: Vec<CheckedDocument>,
}

#[derive(Debug, Serialize)]
struct CheckedDocument {
    /// Its place among the documents that are not empty, from 1.
    index: usize,
    /// The line that it begins on, from 1.
    line: usize,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    verdict: Verdict,
    errors: Vec<Finding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Verdict {
    Valid,
    Invalid,
    /// Another kind of object.
    Ignored,
}

#[derive(Debug, Default, Serialize)]
struct Summary {
    valid: usize,
    invalid: usize,
    ignored: usize,
    unreadable: usize,
}

/// Checks every file and prints everything that is wrong.
pub fn main(arguments: &CheckArguments) -> ExitCode {
    let report = check(arguments.files.iter().map(AsRef::as_ref));
    let printed = match arguments.output {
        Output::Text => report.print_text(),
        Output::Json => report.print_json(),
    };
    if let Err(error) = printed {
        eprintln!("error: the result can't be written: {error}");
        return ExitCode::from(2);
    }
    report.exit_code()
}

fn check<'a>(paths: impl Iterator<Item = &'a Path>) -> Report {
    let files: Vec<_> = paths.map(check_file).collect();
    let mut summary = Summary::default();
    for file in &files {
        summary.unreadable += usize::from(file.error.is_some());
        for document in &file.documents {
            *match document.verdict {
                Verdict::Valid => &mut summary.valid,
                Verdict::Invalid => &mut summary.invalid,
                Verdict::Ignored => &mut summary.ignored,
            } += 1;
        }
    }
    Report {
        valid: summary.valid > 0 && summary.invalid == 0 && summary.unreadable == 0,
        files,
        summary,
    }
}

fn check_file(path: &Path) -> CheckedFile {
    let (documents, error) = match input::read(path) {
        Ok(text) => {
            let documents = manifest::read(&text);
            let checked = documents.into_iter().map(|it| check_document(&text, it));
            (checked.collect(), None)
        }
        Err(unreadable) => (Vec::new(), Some(unreadable.reason)),
    };
    CheckedFile {
        file: input::name(path),
        error,
        documents,
    }
}

fn check_document(text: &str, document: Document) -> CheckedDocument {
    let (kind, name, verdict, errors) = match document.content {
        Content::Consumer(consumer) => (
            CONSUMER.to_owned(),
            consumer.resource.metadata.name,
            Verdict::Valid,
            Vec::new(),
        ),
        Content::Other(other) => (other.kind, other.name, Verdict::Ignored, Vec::new()),
        Content::Refused(refusal) => (
            CONSUMER.to_owned(),
            refusal.name,
            Verdict::Invalid,
            Finding::all(text, document.line, &refusal.problem),
        ),
    };
    CheckedDocument {
        index: document.index,
        line: document.line,
        kind,
        name,
        verdict,
        errors,
    }
}

const CONSUMER: &str = "KafkaConsumer";

impl Report {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self { valid: true, .. } => ExitCode::SUCCESS,
            Self { summary, .. } if summary.unreadable > 0 => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }

    fn print_json(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, self)?;
        writeln!(out)
    }

    fn print_text(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for CheckedFile {
            file,
            error,
            documents,
        } in &self.files
        {
            if let Some(error) = error {
                writeln!(io::stderr(), "{file}: {error}")?;
            }
            for document in documents {
                let place = format!("{file}:{}", document.line);
                match document.verdict {
                    Verdict::Valid => writeln!(out, "{place}: {}: valid", document.title())?,
                    Verdict::Ignored => {
                        writeln!(
                            out,
                            "{place}: {}: ignored, not a {CONSUMER}",
                            document.title()
                        )?;
                    }
                    Verdict::Invalid => {
                        for finding in &document.errors {
                            writeln!(out, "{}", finding.in_file(file))?;
                        }
                    }
                }
            }
        }
        writeln!(out, "{}", self.conclusion())
    }

    fn conclusion(&self) -> String {
        let Summary {
            valid,
            invalid,
            ignored,
            unreadable,
        } = self.summary;
        if valid + invalid == 0 && unreadable == 0 {
            return format!(
                "found no {CONSUMER}; a manifest begins with 'apiVersion: penstock.dev/v1alpha1' and 'kind: {CONSUMER}'"
            );
        }
        let counts = [
            (valid, "valid"),
            (invalid, "invalid"),
            (ignored, "ignored"),
            (unreadable, "unreadable"),
        ];
        let parts: Vec<_> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        parts.join(", ")
    }
}

impl CheckedDocument {
    fn title(&self) -> String {
        match &self.name {
            Some(name) => format!("{} '{name}'", self.kind),
            None => self.kind.clone(),
        }
    }
}
