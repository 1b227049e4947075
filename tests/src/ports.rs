//! Ports for brokers and for the programs under test.

use std::io;
use std::net::TcpListener;

/// Below the range that Linux gives to outgoing connections (32768 and up), so that
/// a port which is free now is still free when the broker takes it, or takes it
/// again after a restart.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// Draws this many different ports that are free on `host`.
///
/// # Errors
/// When none is free, or `host` is not an address of this machine.
pub fn free<const N: usize>(host: &str) -> io::Result<[u16; N]> {
    let mut held = Vec::new();
    let mut last = None;
    for _ in 0..1_000 {
        match TcpListener::bind((host, rand::random_range(RANGE))) {
            Ok(listener) => held.push(listener),
            Err(error) => last = Some(error),
        }
        // All are held until all are drawn, so none comes twice.
        if held.len() == N {
            let mut ports = [0; N];
            for (port, listener) in ports.iter_mut().zip(&held) {
                *port = listener.local_addr()?.port();
            }
            return Ok(ports);
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("no free port")))
}
