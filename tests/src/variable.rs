//! Variables that change how tests run.

use std::env;
use std::error::Error;

/// The number in a variable, if it is set.
///
/// # Errors
/// When it holds something else.
pub fn number(name: &str) -> Result<Option<u64>, Box<dyn Error>> {
    let Ok(text) = env::var(name) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(number) => Ok(Some(number)),
        Err(error) => Err(format!("{name}: {error}").into()),
    }
}

/// The text in a variable, if it is set to any.
pub fn text(name: &str) -> Option<String> {
    env::var(name).ok().filter(|text| !text.is_empty())
}

/// The seed of a test's random numbers: that in PENSTOCK_TEST_SEED, or a new one.
///
/// # Errors
/// When the variable holds no number.
pub fn seed() -> Result<u64, Box<dyn Error>> {
    Ok(number("PENSTOCK_TEST_SEED")?.unwrap_or_else(rand::random))
}
