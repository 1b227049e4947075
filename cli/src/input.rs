//! Manifests from files or standard input.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A file that can't be read.
#[derive(Debug, Error)]
#[error("{}: {reason}", name(path))]
pub struct Unreadable {
    path: PathBuf,
    /// Why, and what to do.
    pub reason: String,
}

impl Unreadable {
    /// For what the system said.
    pub fn new(path: &Path, error: &io::Error) -> Self {
        Self {
            path: path.to_owned(),
            reason: explain(error),
        }
    }
}

/// Whether a path stands for standard input.
pub fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// A path as messages show it.
pub fn name(path: &Path) -> String {
    match is_stdin(path) {
        true => "<stdin>".to_owned(),
        false => path.display().to_string(),
    }
}

/// Reads a file, or standard input for `-`.
pub fn read(path: &Path) -> Result<String, Unreadable> {
    let bytes = if is_stdin(path) {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else if path.is_dir() {
        Err(io::ErrorKind::IsADirectory.into())
    } else {
        fs::read(path)
    };
    let bytes = bytes.map_err(|error| Unreadable::new(path, &error))?;
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .split(|byte| *byte == b'\n')
            .count();
        Unreadable {
            path: path.to_owned(),
            reason: format!("line {line} is not UTF-8; save the file as UTF-8"),
        }
    })
}

/// What the system said, and the remedy where there is one.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file; correct its path".to_owned(),
        io::ErrorKind::IsADirectory => {
            "is a directory; name the files in it, such as with *.yaml".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "this user may not read it; change its permissions".to_owned()
        }
        _ => format!("can't be read: {error}"),
    }
}
