//! Sends several messages in one POST, as CloudEvents 1.0 in batched mode.

use std::sync::Arc;
use std::time::Duration;

use penstock_crds::validate::Address;
use tokio::time::Instant;

use super::client::{Client, RequestError};
use super::events::write_events;
use super::turns::Turns;
use super::verdicts::Verdict;
use super::{HttpHandlerError, parse_path, verdict, verdicts};
use crate::handler::produce::Done;
use crate::handler::record::Message;
use crate::handler::{Availability, BatchHandler, HandlerError};

/// The maximum number of bytes of an answer's body: ten thousand verdicts with a long reason each.
pub(super) const LONGEST_ANSWER: usize = 16 * 1024 * 1024;

/// The time between two checks, during a pause, of whether a partition drains.
const LOOK: Duration = Duration::from_millis(100);

/// A client of a BatchHttp handler: it sends several messages in each request.
pub struct BatchHttpHandler {
    client: Client,
    /// The head of a request, up to its length.
    head: String,
    json: bool,
    in_order: bool,
    turns: Turns,
    timeout: Duration,
}

impl BatchHttpHandler {
    /// Creates the client of a handler that listens at an address. With `json` the values are JSON.
    /// `timeout` limits an attempt, which is one request. With `in_order`, verdicts after a failure
    /// do not count.
    ///
    /// # Errors
    /// Returns an error if the path is not the path of a URL.
    pub fn new(
        address: &Address,
        path: &str,
        json: bool,
        timeout: Duration,
        in_order: bool,
    ) -> Result<Self, HttpHandlerError> {
        let uri = parse_path(path)?;
        Ok(Self {
            client: Client::new(address, timeout, LONGEST_ANSWER),
            head: format!(
                "POST {uri} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/cloudevents-batch+json; charset=utf-8\r\naccept: application/json\r\ncontent-length: "
            ),
            json,
            in_order,
            turns: Turns::default(),
            timeout,
        })
    }

    /// Waits until the handler accepts connections, at most for `limit`.
    ///
    /// # Errors
    /// Returns the last error after `limit`.
    pub async fn wait_until_up(&self, limit: Duration) -> Result<(), HandlerError> {
        self.client.wait_until_up(limit).await
    }

    /// Returns the record of when the handler can be reached.
    pub(crate) fn availability(&self) -> &Arc<Availability> {
        self.client.availability()
    }
}

impl<T: Sync> BatchHandler<T> for BatchHttpHandler {
    /// Returns `true`: a batch whose messages are sent one by one takes as many requests as it has
    /// messages.
    fn keeps_time(&self) -> bool {
        true
    }

    async fn handle_batch(&self, messages: &[Message<'_, T>]) -> Vec<Result<Done, HandlerError>> {
        self.handle_batch_alive(messages, &|| {}).await
    }

    async fn handle_batch_alive(
        &self,
        messages: &[Message<'_, T>],
        alive: &(dyn Fn() + Sync),
    ) -> Vec<Result<Done, HandlerError>> {
        let together = {
            let _turn = self.turns.together(alive).await;
            if !messages.iter().all(|it| it.record.may_begin()) {
                // A partition began to drain during the wait. The batch is formed again without it.
                let drains = HandlerError::not_attempted("a partition of its batch drains");
                return vec![Err(drains); messages.len()];
            }
            self.request(messages).await
        };
        let is_alone = messages.len() == 1;
        match together {
            Ok(mut verdicts) => {
                let given = verdicts.len();
                if !(given == messages.len() || is_alone || self.ends(&verdicts)) {
                    let error = "the answer has fewer verdicts than messages";
                    verdicts.extend(self.isolate(messages, given, &error, alive).await);
                }
                verdicts
            }
            Err(error) if error.is_closed() || (error.blurs(self.in_order) && !is_alone) => {
                let pause = error.pause().min(self.timeout);
                self.pause(messages, pause, alive).await;
                self.isolate(messages, 0, &error, alive).await
            }
            Err(error) => vec![Err(error.charge()); messages.len()],
        }
    }
}

impl BatchHttpHandler {
    /// Sends messages in one request, and returns the verdicts of its answer.
    async fn request<T: Sync>(
        &self,
        messages: &[Message<'_, T>],
    ) -> Result<Vec<Result<Done, HandlerError>>, RequestError> {
        let mut body = Vec::new();
        write_events(messages, self.client.deadline(), self.json, &mut body);
        let length = body.len();
        let write_head = |head: &mut Vec<u8>| {
            head.extend_from_slice(self.head.as_bytes());
            head.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            head.extend_from_slice(b"\r\n\r\n");
        };
        let answer = self.client.send_in_time(write_head, &body).await?;
        if let Some(error) = verdict::unavailable(&answer) {
            return Ok(vec![Err(error); messages.len()]);
        }
        verdict::of(&answer).map_err(RequestError::Failed)?;
        verdicts::each(&answer, messages.len()).map_err(RequestError::NotUnderstood)
    }

    /// Waits, at most until a partition of the batch drains.
    async fn pause<T: Sync>(
        &self,
        batch: &[Message<'_, T>],
        wait: Duration,
        alive: &(dyn Fn() + Sync),
    ) {
        let end = Instant::now() + wait;
        while Instant::now() < end && batch.iter().all(|it| it.record.may_begin()) {
            alive();
            tokio::time::sleep_until(end.min(Instant::now() + LOOK)).await;
        }
    }

    /// Returns `true` if no verdict counts after these.
    fn ends(&self, verdicts: &[Verdict]) -> bool {
        let stops = |verdict: &Verdict| matches!(verdict, Err(error) if error.stops_key());
        self.in_order && verdicts.iter().any(stops)
    }

    /// Sends the messages of a batch from an index on, one by one, after an answer that does not
    /// show which of them failed. One may be the cause: the handler's process may have died of it.
    /// If a message causes the same failure alone, it is charged with the attempt. In InOrder mode
    /// the first failure ends the requests, because later verdicts do not count.
    ///
    /// A draining partition of the batch ends them too: its verdicts must not wait for the
    /// remaining requests.
    async fn isolate<T: Sync>(
        &self,
        batch: &[Message<'_, T>],
        from: usize,
        error: &(dyn std::fmt::Display + Sync),
        alive: &(dyn Fn() + Sync),
    ) -> Vec<Result<Done, HandlerError>> {
        let messages = &batch[from..];
        tracing::warn!(
            messages = messages.len(),
            %error,
            "a request gave no verdict on some messages; they are sent one by one"
        );
        let may_begin = || batch.iter().all(|it| it.record.may_begin());
        let mut verdicts = Vec::with_capacity(messages.len());
        for message in messages {
            let _turn = self.turns.alone(alive).await;
            if !may_begin() {
                let drains = HandlerError::not_attempted("a partition of its batch drains");
                verdicts.resize(messages.len(), Err(drains));
                break;
            }
            let answered = loop {
                self.client.forget_connections();
                match self.request(std::slice::from_ref(message)).await {
                    // The handler's process restarts.
                    Err(RequestError::Unreachable { .. }) if may_begin() => alive(),
                    answered => break answered,
                }
            };
            let none = || HandlerError::retryable("the handler gave no verdict");
            let verdict = match answered {
                Ok(mut verdicts) => verdicts.pop().unwrap_or_else(|| Err(none())),
                Err(error) => Err(error.charge()),
            };
            verdicts.push(verdict);
            if self.ends(&verdicts) {
                break;
            }
        }
        verdicts
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::handler::FailureKind;
    use crate::handler::record::{OwnedRecord, Record};

    fn records(count: i64) -> Vec<Record> {
        let record = |offset| {
            Record::from(OwnedRecord {
                topic: "orders".into(),
                offset,
                payload: Some(b"{}".into()),
                ..OwnedRecord::default()
            })
        };
        (0..count).map(record).collect()
    }

    async fn kinds(handler: &BatchHttpHandler, count: i64) -> Vec<Result<(), FailureKind>> {
        let records = records(count);
        let messages = records.iter().map(|record| Message::new(record, &(), 1));
        let messages: Vec<_> = messages.collect();
        let verdicts = handler.handle_batch(&messages).await;
        let kinds = verdicts
            .iter()
            .map(|it| it.as_ref().map(|_| ()).map_err(HandlerError::kind));
        kinds.collect()
    }

    fn handler(port: u16, in_order: bool) -> BatchHttpHandler {
        let (address, limit) = (Address::Port(port), Duration::from_secs(10));
        BatchHttpHandler::new(&address, "/", true, limit, in_order).unwrap()
    }

    /// Reads a request. Returns its body, or `None` at the connection's end.
    async fn body(connection: &mut TcpStream) -> Option<String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push(char::from(connection.read_u8().await.ok()?));
        }
        let (_, length) = head.split_once("content-length: ")?;
        let length = length.lines().next()?.parse().ok()?;
        let mut body = vec![0; length];
        connection.read_exact(&mut body).await.ok()?;
        String::from_utf8(body).ok()
    }

    /// A server that says so much and closes the connection on a batch with this message, and
    /// answers others.
    async fn mortal(
        listener: TcpListener,
        poison: &'static str,
        word: &'static str,
        answer: &'static str,
    ) {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            while let Some(body) = body(&mut connection).await {
                if body.contains(poison) {
                    connection.write_all(word.as_bytes()).await.unwrap();
                    break;
                }
                connection.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    }

    const DONE: &str = "HTTP/1.1 204 No Content\r\n\r\n";

    const POISON: &str = "\"orders-0-2\"";

    async fn served(poison: &'static str, answer: &'static str) -> u16 {
        says(poison, "", answer).await
    }

    async fn says(poison: &'static str, word: &'static str, answer: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(mortal(listener, poison, word, answer));
        port
    }

    #[tokio::test]
    async fn exactly_the_message_that_has_no_verdict_is_charged() {
        let failed = Err(FailureKind::Retryable);
        let expected = [Ok(()), Ok(()), failed, Ok(())];
        for word in [
            // The process ends in its answer.
            "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"verdicts\": [",
            "HTTP/1.1 200 OK\r\ncontent-le",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
            // What is said of it is no list.
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\ncontent-length: 24\r\n\r\n{\"verdicts\": [\"done\", ]}",
            // The list ends before all.
            "HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{\"verdicts\": []}",
        ] {
            let port = says(POISON, word, DONE).await;
            assert_eq!(kinds(&handler(port, false), 4).await, expected, "{word}");
            assert_eq!(
                kinds(&handler(port, true), 4).await,
                expected[..3],
                "{word}"
            );
        }
    }

    #[tokio::test]
    async fn exactly_the_message_that_ends_the_connection_is_charged() {
        let failed = Err(FailureKind::Retryable);
        let port = served(POISON, DONE).await;
        let expected = [Ok(()), Ok(()), failed, Ok(())];
        assert_eq!(kinds(&handler(port, false), 4).await, expected);
        // In order nothing is given behind it.
        assert_eq!(kinds(&handler(port, true), 4).await, expected[..3]);
    }

    #[tokio::test]
    async fn in_order_exactly_the_message_is_charged_that_fails_alone() {
        let port = says(POISON, "HTTP/1.1 422 X\r\ncontent-length: 0\r\n\r\n", DONE).await;
        let failed = Err(FailureKind::Permanent);
        let expected = [Ok(()), Ok(()), failed];
        assert_eq!(kinds(&handler(port, true), 4).await, expected);
        // In any order the status is the verdict on all.
        assert_eq!(kinds(&handler(port, false), 4).await, [failed; 4]);
    }

    #[tokio::test]
    async fn no_message_is_sent_alone_once_a_partition_of_its_batch_drains() {
        let port = served(POISON, DONE).await;
        let records = records(4);
        let messages = records.iter().map(|record| Message::new(record, &(), 1));
        let messages: Vec<_> = messages.collect();
        // Called for the batch's turn, then for each message's.
        let turns = AtomicU32::new(0);
        let alive = || {
            if turns.fetch_add(1, Ordering::Relaxed) == 2 {
                records[3].assignment().drain(true);
            }
        };
        let handler = handler(port, false);
        let verdicts = handler.handle_batch_alive(&messages, &alive).await;
        let kinds = verdicts
            .into_iter()
            .map(|it| it.map(|_| ()).map_err(|it| it.kind()));
        let returned = Err(FailureKind::NotAttempted);
        assert_eq!(
            kinds.collect::<Vec<_>>(),
            [Ok(()), returned, returned, returned]
        );
    }

    #[tokio::test]
    async fn a_handler_that_is_away_or_asks_to_wait_spends_no_attempt() {
        let away = "HTTP/1.1 503 X\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n";
        let port = served("nothing", away).await;
        let returned = Err(FailureKind::NotAttempted);
        assert_eq!(kinds(&handler(port, false), 2).await, [returned; 2]);
        let plain = "HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n";
        let port = served("nothing", plain).await;
        let failed = Err(FailureKind::Retryable);
        assert_eq!(kinds(&handler(port, false), 2).await, [failed; 2]);
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = nobody.local_addr().unwrap().port();
        drop(nobody);
        let (address, limit) = (Address::Port(port), Duration::from_millis(50));
        let handler = BatchHttpHandler::new(&address, "/", true, limit, false).unwrap();
        assert_eq!(kinds(&handler, 2).await, [returned; 2]);
    }
}
