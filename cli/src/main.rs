//! `penstock`: run a consumer locally, check manifests, print the CRD.

#![forbid(unsafe_code)]

mod args;
mod check;
mod completion;
mod console;
mod crd;
mod dev;
mod findings;
mod input;
mod locate;

use std::process::ExitCode;

use args::Subcommand;

fn main() -> ExitCode {
    match args::parse().subcommand {
        Subcommand::Dev(options) => dev::main(*options),
        Subcommand::Check(options) => check::main(&options),
        Subcommand::Crd => crd::main(),
        Subcommand::Completion { shell } => completion::main(shell),
    }
}
