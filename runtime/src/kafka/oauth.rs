//! Access tokens for SASL OAUTHBEARER.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::client::OAuthToken;
use thiserror::Error;

/// The assumed lifetime of a token without an expiry.
const ASSUMED_LIFETIME: Duration = Duration::from_secs(300);

/// The error of reading a token.
#[derive(Debug, Error)]
pub(crate) enum TokenError {
    #[error("no token is configured: set spec.kafka.authentication.accessToken")]
    NotConfigured,
    #[error("the token could not be read from {path}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
}

/// Reads the token from a mounted Secret.
pub(crate) fn read_token(path: Option<&Path>) -> Result<OAuthToken, TokenError> {
    let path = path.ok_or(TokenError::NotConfigured)?;
    let text = fs::read_to_string(path).map_err(|source| TokenError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    Ok(token(&text))
}

/// Returns a token for librdkafka. Its subject and expiry are read from it if it is a JWT; the
/// broker verifies them.
pub fn token(text: &str) -> OAuthToken {
    let token = text.trim().to_owned();
    let claims = Claims::of(&token).unwrap_or_default();
    let expiry = claims.exp.unwrap_or_else(|| {
        let lifetime = SystemTime::now() + ASSUMED_LIFETIME;
        lifetime
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |since| since.as_secs_f64())
    });
    OAuthToken {
        principal_name: claims.sub.unwrap_or_default(),
        // Milliseconds; a token's expiry has seconds.
        lifetime_ms: (expiry * 1000.0) as i64,
        token,
    }
}

/// The claims of a JWT (RFC 7519) that librdkafka needs.
#[derive(Debug, Default, serde::Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
}

impl Claims {
    fn of(token: &str) -> Option<Self> {
        use base64::Engine as _;
        let payload = token.split('.').nth(1)?;
        let json = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(payload)
            .ok()?;
        serde_json::from_slice(&json).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn token_file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn a_jwt_tells_its_subject_and_expiry() {
        // {"sub":"billing","exp":2000000000} without a signature.
        let file = token_file("e30.eyJzdWIiOiJiaWxsaW5nIiwiZXhwIjoyMDAwMDAwMDAwfQ.\n");
        let token = read_token(Some(file.path())).unwrap();
        assert_eq!(token.principal_name, "billing");
        assert_eq!(token.lifetime_ms, 2_000_000_000_000);
        assert!(!token.token.ends_with('\n'));
    }

    #[test]
    fn a_token_of_another_kind_is_renewed_after_some_minutes() {
        let file = token_file("opaque");
        let token = read_token(Some(file.path())).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let left = token.lifetime_ms - i64::try_from(now.as_millis()).unwrap();
        assert!((200_000..=300_000).contains(&left), "{left}");
    }

    #[test]
    fn a_missing_token_names_the_file() {
        let error = read_token(Some(Path::new("/nowhere/token"))).err().unwrap();
        assert!(error.to_string().contains("/nowhere/token"), "{error}");
    }
}
