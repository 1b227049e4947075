//! What is shown while a consumer runs: lines, and below them, on a terminal,
//! one line of progress that stays where it is.

use std::fmt;
use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressStyle};

/// Which of the program's streams a line goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output: what the handler writes there.
    Out,
    /// Standard error: everything else.
    Err,
}

/// The place where lines are written. Copies write to the same place.
#[derive(Clone)]
pub struct Console {
    bar: ProgressBar,
}

impl Console {
    /// A console on the process's streams.
    pub fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            bar.set_style(style);
        }
        Self { bar }
    }

    /// Whether a line of progress can be shown.
    pub fn is_terminal(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// Shows a line about the run.
    pub fn say(&self, line: impl fmt::Display) {
        self.write(Stream::Err, format!("{line}\n").as_bytes());
    }

    /// Writes whole lines past the line of progress. Errors are left: whoever
    /// closed the stream does not read it.
    pub fn write(&self, stream: Stream, lines: &[u8]) {
        self.bar.suspend(|| {
            let _ = match stream {
                Stream::Out => write_to(io::stdout().lock(), lines),
                Stream::Err => write_to(io::stderr().lock(), lines),
            };
        });
    }

    /// Shows or changes the line of progress.
    pub fn progress(&self, line: String) {
        self.bar.set_message(line);
        self.bar.tick();
    }

    /// Takes the line of progress away.
    pub fn end_progress(&self) {
        self.bar.finish_and_clear();
    }

    /// A writer for log lines.
    pub fn log_writer(&self) -> LogWriter {
        LogWriter(self.clone())
    }
}

fn write_to(mut stream: impl Write, lines: &[u8]) -> io::Result<()> {
    stream.write_all(lines)?;
    stream.flush()
}

/// Writes log lines, each in one call, to standard error.
pub struct LogWriter(Console);

impl Write for LogWriter {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.0.write(Stream::Err, lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
