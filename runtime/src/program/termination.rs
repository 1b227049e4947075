//! The termination message of a container: Kubernetes shows the content of
//! `terminationMessagePath` in the pod's status.

use std::fs;
use std::io;
use std::path::Path;

use crate::program::end_code::EndCode;

/// The maximum length of a termination message in Kubernetes, in bytes.
const MAX_BYTES: usize = 4096;

/// Writes an error and its code. A long error is cut to the limit of Kubernetes, before the
/// code: the operator shows the last line in the consumer's status.
///
/// # Errors
/// Returns an error if the file cannot be written.
pub(crate) fn write_message(path: &Path, error: &str, code: EndCode) -> io::Result<()> {
    // What follows a line break at the end would be the last line alone.
    let error = error.trim_end();
    let end = format!(" (code={code})");
    let room = MAX_BYTES - end.len();
    fs::write(
        path,
        [&error[..error.floor_char_boundary(room)], &end].concat(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_replaces_the_content_of_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for message in ["the first, which is longer", "the second"] {
            write_message(file.path(), message, EndCode::StopTimeout).unwrap();
            let written = fs::read_to_string(file.path()).unwrap();
            assert_eq!(written, format!("{message} (code=StopTimeout)"));
        }
    }

    #[test]
    fn a_long_message_is_cut_between_two_characters_and_keeps_its_code() {
        let end = " (code=StopTimeout)";
        let room = MAX_BYTES - end.len();
        let file = tempfile::NamedTempFile::new().unwrap();
        for (message, kept) in [
            ("x".repeat(5000), room),
            ("x".repeat(room), room),
            // Three bytes each after the first: the last that fits ends two bytes before the limit.
            (format!("x{}", "€".repeat(2000)), room - 2),
        ] {
            write_message(file.path(), &message, EndCode::StopTimeout).unwrap();
            let written = fs::read_to_string(file.path()).unwrap();
            assert_eq!(written, [&message[..kept], end].concat());
        }
    }

    #[test]
    fn a_file_that_can_not_be_written_is_an_error() {
        assert!(
            write_message(Path::new("/no/such/directory"), "why", EndCode::StopTimeout).is_err()
        );
    }
}
