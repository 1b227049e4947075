//! The signals that stop a process.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Returns a token that SIGINT, SIGTERM or SIGUSR2 cancels. A second signal ends the process at
/// once.
///
/// # Errors
/// When the process can't receive signals.
pub fn stop_on_signal() -> io::Result<CancellationToken> {
    on_signal(|name, number| {
        tracing::warn!(
            signal = name,
            "a second signal: the process ends immediately"
        );
        std::process::exit(128 + number);
    })
}

/// Returns a token that SIGINT, SIGTERM or SIGUSR2 cancels. Each later signal calls `again`
/// with its name and number.
///
/// # Errors
/// When the process can't receive signals.
pub fn on_signal(again: fn(&str, i32)) -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut user = signal(SignalKind::user_defined2())?;
    let token = stop.clone();
    tokio::spawn(async move {
        loop {
            let (name, kind) = tokio::select! {
                _ = interrupt.recv() => ("SIGINT", SignalKind::interrupt()),
                _ = terminate.recv() => ("SIGTERM", SignalKind::terminate()),
                _ = user.recv() => ("SIGUSR2", SignalKind::user_defined2()),
            };
            if token.is_cancelled() {
                again(name, kind.as_raw_value());
            } else {
                tracing::info!(signal = name, "a signal stops the process");
                token.cancel();
            }
        }
    });
    Ok(stop)
}
