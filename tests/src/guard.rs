//! Cleaning up after a test process that had no chance to do it, because it was
//! killed, or because it ended with values in statics, which are never dropped.
//!
//! A guard is a shell that reads a pipe of which this process holds the only other
//! end. The pipe closes when this process ends, whatever ended it; then the shell
//! acts. (A parent-death signal would not do: it is sent when the *thread* that
//! started the child ends, and test threads end before the test process does.)

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Dropped: stands down, and nothing happens.
#[derive(Debug)]
pub(crate) struct Guard(Child);

impl Guard {
    /// Kills the process group `group` when this process ends.
    pub(crate) fn kill_group(group: u32) -> io::Result<Self> {
        Self::start(
            r#"read -r line; kill -s KILL -- "-$1""#,
            group.to_string().as_ref(),
        )
    }

    /// Removes the directory `path` when this process ends.
    pub(crate) fn remove_dir(path: &Path) -> io::Result<Self> {
        // Again after a second: a process that is dying may still have written.
        Self::start(
            r#"read -r line; rm -rf -- "$1"; sleep 1; rm -rf -- "$1""#,
            path.as_os_str(),
        )
    }

    fn start(script: &str, argument: &std::ffi::OsStr) -> io::Result<Self> {
        Command::new("sh")
            .arg("-c")
            .arg(format!("trap '' HUP INT TERM; {script}"))
            .arg("guard")
            .arg(argument)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .map(Self)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // It is ours and not yet waited for, so the id can be nobody else's; and if
        // it ended early there is nothing left to stop.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
