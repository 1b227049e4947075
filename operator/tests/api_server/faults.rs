//! What can go wrong with a call.

use std::time::Duration;

use serde_json::{Value, json};

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is refused with this status.
    Status(u16),
    /// It is refused because of a quota.
    Quota,
    /// It is refused with 429, and with how many seconds to wait.
    TooMany(u32),
    /// It is never done nor answered.
    Lost,
    /// It is done, and never answered.
    Unanswered,
    /// It is done at once, and answered after this time.
    Slow(Duration),
    /// It is done, and answered, after this time.
    Late(Duration),
}

impl Fault {
    /// The status and body of an answer that refuses the call.
    pub fn refusal(self) -> Option<(u16, Value)> {
        match self {
            Self::Status(code) => Some((code, status(code, "as the test wants it"))),
            Self::Quota => Some((403, status(403, "exceeded quota: small"))),
            Self::TooMany(seconds) => {
                let mut body = status(429, "too many requests");
                body["details"] = json!({ "retryAfterSeconds": seconds });
                Some((429, body))
            }
            Self::Lost | Self::Unanswered | Self::Slow(_) | Self::Late(_) => None,
        }
    }
}

/// The body of an answer that is an error.
pub fn status(code: u16, message: &str) -> Value {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        422 => "Invalid",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    // The server finds nothing else invalid.
    let details = match code {
        422 => json!({ "causes": [{ "field": "metadata.uid" }] }),
        _ => json!({}),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": details,
        "code": code,
    })
}
