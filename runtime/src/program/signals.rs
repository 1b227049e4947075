//! The signals that stop a process.

use std::io;

use penstock_handler::signals::on_signal;
use tokio_util::sync::CancellationToken;

/// Returns a token that SIGINT, SIGTERM or SIGUSR2 cancels. A second signal changes nothing.
///
/// # Errors
/// Returns an error if the system refuses signal handlers.
pub fn stop_on_signal() -> io::Result<CancellationToken> {
    on_signal(|name, _| {
        tracing::info!(signal = name, "a second signal: the stop continues");
    })
}
