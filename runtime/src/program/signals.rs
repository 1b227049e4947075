//! The signals that stop a process.

use std::io;

use penstock_handler::signals::on_signal;
use tokio_util::sync::CancellationToken;

/// Returns a token that SIGINT, SIGTERM or SIGUSR2 cancels, as in the source. A second
/// signal changes nothing.
///
/// # Errors
/// When the process can't receive signals.
pub fn stop_on_signal() -> io::Result<CancellationToken> {
    on_signal(|name, _| {
        tracing::info!(signal = name, "a second signal: the stop continues");
    })
}
