//! What a container leaves behind about its end: Kubernetes shows the content of
//! `terminationMessagePath` in the pod's status.

use std::fs;
use std::io;
use std::path::Path;

/// Bytes that Kubernetes takes of a termination message.
const LONGEST: usize = 4096;

/// Writes the message, cut to what Kubernetes takes.
///
/// # Errors
/// When the file can't be written.
pub(crate) fn write_message(path: &Path, message: &str) -> io::Result<()> {
    fs::write(path, &message[..message.floor_char_boundary(LONGEST)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_replaces_what_is_in_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for message in ["the first, which is longer", "the second"] {
            write_message(file.path(), message).unwrap();
            assert_eq!(fs::read_to_string(file.path()).unwrap(), message);
        }
    }

    #[test]
    fn a_long_message_is_cut_between_two_characters() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (message, kept) in [
            ("x".repeat(5000), 4096),
            ("x".repeat(4096), 4096),
            // Three bytes each: the last that fits ends at 4095.
            ("€".repeat(2000), 4095),
        ] {
            write_message(file.path(), &message).unwrap();
            assert_eq!(fs::read_to_string(file.path()).unwrap(), message[..kept]);
        }
    }

    #[test]
    fn a_file_that_can_not_be_written_is_an_error() {
        assert!(write_message(Path::new("/no/such/directory"), "why").is_err());
    }
}
