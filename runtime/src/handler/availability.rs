//! The availability of the handler: does it take messages, and if not, what does it lack?
//!
//! A handler that is away or silent is not the fault of a message. The runtime waits, reports
//! it in the log and in a gauge, and counts no attempt.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::time::Instant;

/// The time without progress after which a connected handler is reported.
const QUIET: Duration = Duration::from_secs(10);

/// The time between two reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// The time between two checks of a wait.
const TICK: Duration = Duration::from_secs(5);

/// A lack of the handler, in the order in which a handler overcomes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// A connection on which the handler opens its end of the stream.
    Connection,
    /// A handler that speaks the protocol as the consumer needs it.
    Handshake,
    /// Room on the stream: the handler does not read.
    Reading,
    /// Credits.
    Credits,
    /// Room in its order: the handler begins none of its messages.
    Beginning,
    /// A process that stays while it has no message.
    Stability,
}

impl Lack {
    /// Returns the label in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Handshake => "handshake",
            Self::Credits => "credits",
            Self::Reading => "reading",
            Self::Beginning => "beginning",
            Self::Stability => "stability",
        }
    }

    /// Returns `true` if a handler must overcome this lack before the other.
    fn is_before(self, other: Self) -> bool {
        (self as u8) < other as u8
    }

    fn text(self) -> &'static str {
        match self {
            Self::Connection => "the handler can't be reached",
            Self::Handshake => "the handler is refused",
            Self::Credits => "the handler takes no more messages",
            Self::Reading => "the handler reads nothing from the stream",
            Self::Beginning => "the handler begins no message that it has; a call may not return",
            Self::Stability => "the handler ends while it has no message",
        }
    }
}

/// The state of the handler, for the log and the metrics.
#[derive(Default)]
pub(crate) struct Availability {
    /// Is `true` while there is a state; readable without the lock.
    is_away: AtomicBool,
    away: Mutex<Option<Away>>,
}

struct Away {
    lack: Lack,
    since: Instant,
    reported: Instant,
}

impl Availability {
    /// Returns the current lack, or `None` while the handler takes messages.
    pub(crate) fn lack(&self) -> Option<Lack> {
        self.away.lock().as_ref().map(|away| away.lack)
    }

    /// Notes that the handler lacks something. Logs it the first time, and then once a minute.
    pub(crate) fn lacks(&self, lack: Lack, detail: impl fmt::Display) {
        let now = Instant::now();
        let mut away = self.away.lock();
        self.is_away.store(true, Ordering::Release);
        let is_news = away.as_ref().is_none_or(|away| {
            let is_other = away.lack != lack && lack.is_before(Lack::Reading);
            is_other || now.duration_since(away.reported) >= REPORT_INTERVAL
        });
        let since = away.as_ref().map_or(now, |away| away.since);
        if is_news {
            let waited = now.duration_since(since);
            tracing::warn!(
                reason = lack.label(),
                error = %detail,
                ?waited,
                "{}; messages wait for it and spend no attempt. See the handler's log",
                lack.text()
            );
            *away = Some(Away {
                lack,
                since,
                reported: now,
            });
        }
    }

    /// Notes that the handler has overcome a lack, and with it all earlier ones.
    pub(crate) fn has(&self, what: Lack) {
        if !self.is_away.load(Ordering::Acquire) {
            return;
        }
        let mut away = self.away.lock();
        if let Some(gone) = away.take_if(|away| !what.is_before(away.lack)) {
            self.is_away.store(false, Ordering::Release);
            tracing::info!(waited = ?gone.since.elapsed(), "the handler takes messages again");
        }
    }
}

/// Waits for a handler, without a limit.
pub(super) struct Patience<'a> {
    pub(super) availability: &'a Availability,
    /// Called periodically during a wait, as a sign of life.
    pub(super) alive: &'a (dyn Fn() + Sync),
}

impl Patience<'_> {
    /// Waits for a future that has its own limit, or that reports by itself.
    pub(super) async fn wait<T>(&self, awaited: impl Future<Output = T>) -> T {
        self.watch(awaited, || {}).await
    }

    /// Waits for progress of the handler. Reports a lack if there was no progress since the
    /// wait began, nor since `last`.
    pub(super) async fn wait_for<T>(
        &self,
        lack: Lack,
        last: impl Fn() -> Instant,
        awaited: impl Future<Output = T>,
    ) -> T {
        let began = Instant::now();
        let report = || {
            let quiet = last().max(began).elapsed();
            if quiet >= QUIET {
                self.availability
                    .lacks(lack, format_args!("no progress for {quiet:?}"));
            }
        };
        let done = self.watch(awaited, report).await;
        self.availability.has(lack);
        done
    }

    async fn watch<T>(&self, awaited: impl Future<Output = T>, report: impl Fn()) -> T {
        tokio::pin!(awaited);
        // Most futures are ready, and need no timer.
        if let Some(done) = (&mut awaited).now_or_never() {
            return done;
        }
        loop {
            tokio::select! {
                biased;
                done = &mut awaited => return done,
                () = tokio::time::sleep(TICK) => {}
            }
            (self.alive)();
            report();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_has_its_own_start_and_lasts_as_long_as_it_takes() {
        let availability = Availability::default();
        let (signs, last) = (AtomicU32::new(0), Instant::now());
        let alive = || {
            signs.fetch_add(1, Ordering::Relaxed);
        };
        let patience = Patience {
            availability: &availability,
            alive: &alive,
        };
        // The handler had nothing to do for long: that is no silence.
        advance(Duration::from_secs(3600)).await;
        let (send, receive) = tokio::sync::oneshot::channel();
        let wait = patience.wait_for(Lack::Credits, || last, receive);
        tokio::pin!(wait);
        assert!((&mut wait).now_or_never().is_none());
        for (seconds, lack) in [
            (5, None),
            (10, Some(Lack::Credits)),
            (900, Some(Lack::Credits)),
        ] {
            let until = last + Duration::from_secs(3600 + seconds);
            tokio::select! {
                biased;
                _ = &mut wait => panic!("nothing came"),
                () = tokio::time::sleep_until(until + Duration::from_millis(1)) => {}
            }
            assert_eq!(availability.lack(), lack, "after {seconds} s");
        }
        assert!(signs.load(Ordering::Relaxed) >= 180);
        send.send(7).unwrap();
        assert_eq!(wait.await, Ok(7));
        assert_eq!(availability.lack(), None);
    }

    #[test]
    fn what_comes_before_a_lack_does_not_end_it() {
        let availability = Availability::default();
        availability.lacks(Lack::Credits, "none");
        for what in [Lack::Connection, Lack::Handshake, Lack::Reading] {
            availability.has(what);
            assert_eq!(availability.lack(), Some(Lack::Credits));
        }
        availability.has(Lack::Credits);
        assert_eq!(availability.lack(), None);
        availability.lacks(Lack::Connection, "refused");
        availability.has(Lack::Handshake);
        assert_eq!(availability.lack(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn progress_of_others_is_no_silence() {
        let availability = Availability::default();
        let patience = Patience {
            availability: &availability,
            alive: &|| {},
        };
        let wait = patience.wait_for(Lack::Reading, Instant::now, std::future::pending::<()>());
        let limit = Duration::from_secs(100);
        assert!(tokio::time::timeout(limit, wait).await.is_err());
        assert_eq!(availability.lack(), None);
    }
}
