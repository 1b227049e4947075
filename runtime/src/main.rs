//! The runtime for handlers in any language. See the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    penstock_runtime::run_main_remote()
}
