//! Asks one page, for `helm test` and for people inside the cluster: the image has no other program
//! for that.

use std::time::Duration;

use http::Uri;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use thiserror::Error;

/// The maximum time for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The error of a page that does not answer 200.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The page did not answer.
    #[error("{url} does not answer: {reason}; check the URL and that the operator runs")]
    Silent {
        /// The URL of the page.
        url: Uri,
        /// The reason.
        reason: String,
    },
    /// The page answered a status other than 200.
    #[error("{url} answers {status}: {body}; see the operator's log")]
    Status {
        /// The URL of the page.
        url: Uri,
        /// The status of the answer.
        status: http::StatusCode,
        /// The body of the answer.
        body: String,
    },
}

/// Asks the page, and returns its body.
///
/// # Errors
/// Returns an error if the page does not answer 200.
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
