//! Messages that keep coming while something else happens.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::produce::{Produce, ProduceError, Produced};

/// Pause between two batches.
const PAUSE: Duration = Duration::from_millis(100);

/// Batches that are sent in the background until [`Load::stop`], or until it is
/// dropped.
#[derive(Debug)]
pub struct Load {
    stop: CancellationToken,
    task: JoinHandle<Result<Vec<Produced>, ProduceError>>,
}

impl Load {
    /// Sends `batch` messages to `topic`, up to ten times a second.
    pub fn start(bootstrap: &str, topic: &str, batch: u64) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(send(
            bootstrap.to_owned(),
            topic.to_owned(),
            batch,
            stop.clone(),
        ));
        Self { stop, task }
    }

    /// Ends it, and returns all that was stored.
    ///
    /// # Errors
    /// [`ProduceError`] when a message was not stored; nothing was sent after it.
    pub async fn stop(mut self) -> Result<Vec<Produced>, ProduceError> {
        self.stop.cancel();
        (&mut self.task).await?
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn send(
    bootstrap: String,
    topic: String,
    batch: u64,
    stop: CancellationToken,
) -> Result<Vec<Produced>, ProduceError> {
    let mut all = Vec::new();
    let mut first = 0;
    while !stop.is_cancelled() {
        let messages = Produce::to(&topic).count(batch).first_seq(first);
        all.extend(messages.send(&bootstrap).await?);
        first += batch;
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
    Ok(all)
}
