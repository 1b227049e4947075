//! The operator's binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    penstock_operator::program::main()
}
