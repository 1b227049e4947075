//! Tokens for OAUTHBEARER.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

/// An access token without a signature (RFC 7515, `alg` none) for `user`, valid
/// from now for `lifetime`. Kafka takes such tokens unless told to verify them.
pub fn unsecured_token(user: &str, lifetime: Duration) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let claims = json!({
        "sub": user,
        "iat": now.as_secs(),
        "exp": (now + lifetime).as_secs(),
    });
    let encode = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", encode(json!({ "alg": "none" })), encode(claims))
}
