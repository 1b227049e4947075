//! `penstock crd`.

use std::io::{self, Write as _};
use std::process::ExitCode;

/// Prints the CustomResourceDefinition.
pub fn main() -> ExitCode {
    match io::stdout().write_all(penstock_crds::crd::yaml().as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: the CRD can't be written: {error}");
            ExitCode::from(2)
        }
    }
}
