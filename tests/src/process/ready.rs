//! Waiting until a program does its work.

use std::fmt::Display;
use std::time::Duration;

use super::{Process, ProcessError};
use crate::wait;

impl Process {
    /// Waits until `probe` gives a value, for as long as the program runs.
    ///
    /// # Errors
    /// [`ProcessError::TimedOut`] after `limit`, [`ProcessError::Ended`] when the
    /// program ends first.
    pub async fn wait_for<T, E: Display>(
        &self,
        what: &str,
        limit: Duration,
        mut probe: impl AsyncFnMut() -> Result<T, E>,
    ) -> Result<T, ProcessError> {
        let found = wait::value(what, limit, async || match self.status() {
            Some(status) if self.output_ended() => Ok(Err(status)),
            _ => probe().await.map(Ok),
        })
        .await
        .map_err(|timed_out| self.timed_out(timed_out))?;
        found.map_err(|status| ProcessError::Ended {
            name: self.name.clone(),
            status,
            what: what.to_owned(),
            tail: self.tail(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Program;

    #[tokio::test]
    async fn a_program_that_ends_is_not_waited_for() {
        let program = Program::new("sh").args(["-c", "echo no room; exit 3"]);
        let process = program.start().unwrap();
        let error = process
            .wait_for("an answer", Duration::from_secs(10), async || {
                Err::<(), _>("silence")
            })
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("before an answer"), "{error}");
        assert!(error.contains("no room"), "{error}");
    }
}
