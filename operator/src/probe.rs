//! Asking one page, for `helm test` and for people inside the cluster: the image
//! has no other program that could.

use std::time::Duration;

use http::Uri;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use thiserror::Error;

/// Longest time for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why the page is not as it should be.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// Nobody answered.
    #[error("{url} does not answer: {reason}")]
    Silent {
        /// The page.
        url: Uri,
        /// Why.
        reason: String,
    },
    /// It answered something other than 200.
    #[error("{url} answers {status}: {body}")]
    Status {
        /// The page.
        url: Uri,
        /// Its status.
        status: http::StatusCode,
        /// What it says.
        body: String,
    },
}

/// Asks the page; returns what it says.
pub async fn probe(url: Uri) -> Result<String, ProbeError> {
    let silent = |reason: String| ProbeError::Silent {
        url: url.clone(),
        reason,
    };
    let client: Client<_, Empty<&[u8]>> = Client::builder(TokioExecutor::new()).build_http();
    let asked = tokio::time::timeout(TIMEOUT, async {
        let answer = client
            .get(url.clone())
            .await
            .map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = answer.into_body().collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok::<_, String>((status, String::from_utf8_lossy(&body).trim().to_owned()))
    });
    let (status, body) = match asked.await {
        Ok(answer) => answer.map_err(silent)?,
        Err(_) => return Err(silent(format!("no answer within {TIMEOUT:?}"))),
    };
    match status.as_u16() {
        200 => Ok(body),
        _ => Err(ProbeError::Status { url, status, body }),
    }
}
