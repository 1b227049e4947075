//! Finding what cargo built.

use std::env;
use std::path::{Path, PathBuf};

use super::ProcessError;

/// Path of a binary of this workspace, such as `penstock-runtime`: where cargo says
/// (`CARGO_BIN_EXE_` and the name), else next to the running test or program.
///
/// # Errors
/// [`ProcessError::NoBinary`] when it has not been built.
pub fn find(name: &str) -> Result<PathBuf, ProcessError> {
    let told = env::var_os(format!("CARGO_BIN_EXE_{name}")).map(PathBuf::from);
    let path = told.unwrap_or_else(|| {
        let own = env::current_exe().unwrap_or_default();
        profile_dir(&own).join(name)
    });
    if path.is_file() {
        Ok(path)
    } else {
        Err(ProcessError::NoBinary(path))
    }
}

/// The directory of a profile's binaries, such as target/debug: there the programs
/// lie themselves, the tests in deps/ and the examples in examples/ below it.
fn profile_dir(own: &Path) -> &Path {
    let dir = own.parent().unwrap_or(own);
    match dir.file_name().and_then(|name| name.to_str()) {
        Some("deps" | "examples") => dir.parent().unwrap_or(dir),
        _ => dir,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_lie_above_the_tests() {
        for own in ["/t/debug/deps/x-1", "/t/debug/examples/x", "/t/debug/x"] {
            assert_eq!(profile_dir(Path::new(own)), Path::new("/t/debug"));
        }
    }

    #[test]
    fn a_missing_binary_comes_with_the_remedy() {
        let error = find("no-such-program").unwrap_err().to_string();
        assert!(
            error.contains("no-such-program does not exist: build it first"),
            "{error}"
        );
    }
}
