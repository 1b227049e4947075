//! Other languages, as the scripts in `hack` find or make them.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::Program;

/// Longest time to install packages or to fetch a toolchain.
const LIMIT: Duration = Duration::from_secs(300);

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A Python with what the SDK needs.
///
/// # Errors
/// When the packages can't be installed.
pub async fn python() -> Result<PathBuf, Box<dyn Error>> {
    let requirements = root().join("sdk/python/requirements.txt");
    let script = Program::new(root().join("hack/python-environment")).arg(requirements);
    Ok(Path::new(&last_line(script).await?).join("bin/python"))
}

/// A Go that is new enough for the SDK.
///
/// # Errors
/// When there is none.
pub async fn go() -> Result<PathBuf, Box<dyn Error>> {
    let script = Program::new(root().join("hack/go"));
    Ok(Path::new(&last_line(script).await?).join("go"))
}

/// A Node.js, once the SDK has the packages that it needs.
///
/// # Errors
/// When the packages can't be installed.
pub async fn node() -> Result<PathBuf, Box<dyn Error>> {
    let sdk = root().join("sdk/node");
    // Installing replaces them under programs that run.
    if !sdk.join("node_modules/@grpc").exists() {
        let install = Program::new("npm")
            .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
            .current_dir(sdk)
            .start()?;
        if !install.wait(LIMIT).await?.success() {
            return Err(install.tail().into());
        }
    }
    Ok("node".into())
}

/// What a script prints last.
async fn last_line(script: Program) -> Result<String, Box<dyn Error>> {
    let script = script.start()?;
    if !script.wait(LIMIT).await?.success() {
        return Err(script.tail().into());
    }
    let last = script.lines().into_iter().next_back();
    Ok(last.ok_or("it printed nothing")?.text)
}
