//! Ports for brokers and for the programs under test.

use std::io;
use std::net::TcpListener;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range that Linux gives to outgoing connections (32768 and up), so that
/// a port which is free now is still free when the broker takes it, or takes it
/// again after a restart.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// The port to try next. One that was given may not be taken yet, so it is not given
/// again before all others were; and processes begin at different ones.
static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| rand::random_range(RANGE).into());

/// This many different ports that are free on `host`.
///
/// # Errors
/// When none is free, or `host` is not an address of this machine.
pub fn free<const N: usize>(host: &str) -> io::Result<[u16; N]> {
    let mut held = Vec::new();
    let mut last = None;
    for _ in 0..1_000 {
        match TcpListener::bind((host, next())) {
            Ok(listener) => held.push(listener),
            Err(error) => last = Some(error),
        }
        // All are held until all are there.
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

fn next() -> u16 {
    let after = |port| match port + 1 {
        port if RANGE.contains(&port) => port,
        _ => RANGE.start,
    };
    NEXT.update(Ordering::Relaxed, Ordering::Relaxed, after)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_port_is_given_twice_though_none_is_taken() {
        let given = (0..200).flat_map(|_| free::<2>("127.0.0.1").unwrap());
        let given: BTreeSet<_> = given.collect();
        assert_eq!(given.len(), 400);
        assert!(given.iter().all(|port| RANGE.contains(port)));
    }
}
