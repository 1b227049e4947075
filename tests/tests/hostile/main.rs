//! Handlers that misbehave in every way of `tests/hostile/behaviours.yaml`, in each language
//! and each mode, among innocent messages.
//!
//! Nothing is lost, nothing is charged to the innocent, nothing hangs, the runtime's memory
//! stays flat, and the log names the cause. Each run takes all rows that can be together and
//! some that can't, by the seed; `PENSTOCK_TEST_LANES=all` takes the whole table.

#![forbid(unsafe_code)]

mod program;
mod run;
mod supervisor;
mod table;
mod verdicts;

use std::error::Error;

use penstock_tests::lane::{Mode, recipe};
use penstock_tests::variable;

use run::Run;
use table::Language;

type Outcome = Result<(), Box<dyn Error>>;

const MODES: [Mode; 3] = [Mode::InOrder, Mode::KeyOrdered, Mode::Fast];

/// Set to `all`, every row is run in every mode.
const VARIABLE: &str = "PENSTOCK_TEST_LANES";

#[tokio::test(flavor = "multi_thread")]
async fn handlers_in_python() -> Outcome {
    misbehave(Language::Python).await
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_in_go() -> Outcome {
    misbehave(Language::Go).await
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_in_javascript() -> Outcome {
    misbehave(Language::Node).await
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_in_rust() -> Outcome {
    misbehave(Language::Rust).await
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_in_java() -> Outcome {
    // The SDK comes first.
    if !program::is_there(Language::Java) {
        println!("there is no program in Java yet");
        return Ok(());
    }
    misbehave(Language::Java).await
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_without_an_sdk() -> Outcome {
    misbehave(Language::Raw).await
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_of_http() -> Outcome {
    misbehave(Language::Http).await
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_of_batches_in_http() -> Outcome {
    misbehave(Language::BatchHttp).await
}

/// Runs the rows of a language, the modes one after the other.
async fn misbehave(language: Language) -> Outcome {
    let seed = variable::seed()?;
    println!("{}", recipe(seed));
    let rows = table::rows()?;
    let program = program::of(language).await?;
    program.knows(&rows).await?;
    let all = variable::text(VARIABLE).is_some();
    let modes = match all {
        true => MODES.to_vec(),
        // The languages take different ones.
        false => vec![MODES[((seed as usize).wrapping_add(language as usize)) % MODES.len()]],
    };
    for mode in modes {
        let mine = rows
            .iter()
            .filter(|row| row.is_for(language, mode))
            .cloned();
        let mine = match all {
            true => mine.collect(),
            false => table::draw(mine.collect(), &table::kinds(&rows), language, seed),
        };
        let run = Run {
            language,
            mode,
            seed,
        };
        let ran = run.check(&program, &mine).await;
        ran.map_err(|error| format!("{language:?}, {mode:?}, {}: {error}", recipe(seed)))?;
    }
    Ok(())
}
