//! Kafka's jars, fetched by Maven once for a machine.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What Maven is asked for.
const POM: &str = include_str!("../../kafka/pom.xml");

/// The jars could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum JarsError {
    /// There is no place to keep them.
    #[error("set PENSTOCK_CACHE to a directory: there is neither XDG_CACHE_HOME nor HOME")]
    NoCache,
    /// A file or directory.
    #[error("{}: {error}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Maven could not be started.
    #[error("mvn can't be started (is Maven installed?): {0}")]
    Start(io::Error),
    /// Maven failed.
    #[error("mvn dependency:copy-dependencies failed:\n{0}")]
    Maven(String),
}

/// The directory with the jars. The first call on a machine takes Maven 15 s or so;
/// processes that call at the same time wait for it.
pub(super) fn fetch() -> Result<PathBuf, JarsError> {
    let cache = cache_dir()?;
    let name = format!("kafka-{:016x}", fingerprint(POM.as_bytes()));
    let jars = cache.join(&name);
    if jars.is_dir() {
        return Ok(jars);
    }

    fs::create_dir_all(&cache).map_err(file_error(&cache))?;
    let lock_path = cache.join(format!("{name}.lock"));
    let lock = File::create(&lock_path).map_err(file_error(&lock_path))?;
    lock.lock().map_err(file_error(&lock_path))?;
    // Another process may have fetched them while this one waited for the lock.
    if !jars.is_dir() {
        fetch_into(&cache, &jars)?;
    }
    Ok(jars)
}

/// Fetches into a directory beside `jars` and renames that when it is complete, so
/// that `jars` is never seen half full.
fn fetch_into(cache: &Path, jars: &Path) -> Result<(), JarsError> {
    let work = tempfile::TempDir::with_prefix_in("fetch-", cache).map_err(file_error(cache))?;
    let pom = work.path().join("pom.xml");
    fs::write(&pom, POM).map_err(file_error(&pom))?;
    let complete = work.path().join("jars");

    let output = Command::new("mvn")
        .args(["--batch-mode", "--quiet", "--file"])
        .arg(&pom)
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", complete.display()))
        .output()
        .map_err(JarsError::Start)?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        return Err(JarsError::Maven(String::from_utf8_lossy(&text).into()));
    }
    fs::rename(&complete, jars).map_err(file_error(jars))
}

fn cache_dir() -> Result<PathBuf, JarsError> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
    let base = variable("PENSTOCK_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME"))
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .ok_or(JarsError::NoCache)?;
    Ok(base.join("penstock"))
}

/// FNV-1a, 64 bits: it names a version of the list of jars, and guards nothing.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> JarsError {
    move |error| JarsError::File {
        path: path.to_owned(),
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_fnv_1a() {
        // From the test vectors of FNV's authors.
        assert_eq!(fingerprint(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fingerprint(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
