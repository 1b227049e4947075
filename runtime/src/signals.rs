//! The signals that stop a process.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that SIGINT, SIGTERM or SIGUSR2 cancels, as in the source. A second
/// signal changes nothing.
pub fn stop_on_signal() -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut user = signal(SignalKind::user_defined2())?;
    let token = stop.clone();
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
                _ = user.recv() => "SIGUSR2",
            };
            if token.is_cancelled() {
                tracing::info!("{name} again: the stop goes on");
            } else {
                tracing::info!("{name}: stopping");
                token.cancel();
            }
        }
    });
    Ok(stop)
}
