//! The runtime for handlers in any language. See the library.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    penstock_runtime::run_main_http().await
}
