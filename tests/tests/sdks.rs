//! The SDKs' own tests, which need neither a runtime nor Kafka.

#![forbid(unsafe_code)]

use std::error::Error;
use std::time::Duration;

use penstock_tests::languages::{self, root};
use penstock_tests::process::Program;

type Outcome = Result<(), Box<dyn Error>>;

/// The first run compiles gRPC for Go.
const LIMIT: Duration = Duration::from_secs(300);

#[tokio::test]
async fn the_tests_of_the_python_sdk_pass() -> Outcome {
    let tests = Program::new(languages::python().await?)
        .args(["-m", "unittest", "discover", "--verbose"])
        .args(["--top-level-directory", ".", "--start-directory", "tests"])
        .current_dir(root().join("sdk/python"));
    let passed = run(tests, |line| line.ends_with("... ok")).await?;
    println!("{passed} tests of the Python SDK passed");
    Ok(())
}

#[tokio::test]
async fn the_tests_of_the_go_sdk_pass() -> Outcome {
    let tests = Program::new(languages::go().await?)
        .args(["test", "-v", "-count=1", "-timeout=120s", "./..."])
        .current_dir(root().join("sdk/go"));
    let passed = run(tests, |line| line.starts_with("--- PASS: ")).await?;
    println!("{passed} tests of the Go SDK passed");
    Ok(())
}

/// Runs tests of another language; how many passed. None may fail or be skipped, and
/// there must be some.
async fn run(tests: Program, passed: impl Fn(&str) -> bool) -> Result<usize, Box<dyn Error>> {
    let tests = tests.start()?;
    let status = tests.wait(LIMIT).await?;
    let lines = tests.lines();
    let count = lines.iter().filter(|line| passed(&line.text)).count();
    let skipped = lines.iter().filter(|line| {
        let text = line.text.to_lowercase();
        text.contains("--- skip") || text.contains("... skipped")
    });
    match (status.success(), count, skipped.count()) {
        (true, 1.., 0) => Ok(count),
        (_, count, skipped) => {
            let shown: Vec<_> = lines.into_iter().map(|line| line.text).collect();
            let shown = shown.join("\n");
            Err(format!("{status}, {count} passed, {skipped} skipped:\n{shown}").into())
        }
    }
}
