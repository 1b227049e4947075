//! Ending a child's process group when this process had no chance to do it,
//! because it was killed itself.

use std::io;
use std::process::Stdio;

use tokio::process::{Child, Command};

/// Reads a pipe whose only other end this process holds. The pipe closes when
/// the process ends, whatever ended it; then the group is killed.
const SCRIPT: &str = r#"trap '' HUP INT TERM; read -r line; kill -s KILL -- "-$1""#;

/// A shell that waits for the end of this process. Dropped, it stands down.
pub struct Guard {
    _shell: Child,
}

impl Guard {
    /// Watches over the process group with this id.
    pub fn of_group(group: u32) -> io::Result<Self> {
        Command::new("sh")
            .args(["-c", SCRIPT, "guard", &group.to_string()])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map(|shell| Self { _shell: shell })
    }
}
