//! The connection of a client to the brokers: TLS, SASL, and their Secrets.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::spec::{Authentication, AuthenticationType, GenericSecretSource, Kafka};

/// One entry of a Secret, and the librdkafka property that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    /// Name of the Secret.
    pub secret: String,
    /// Entry of the Secret.
    pub key: String,
    /// The property that it is for: `sasl.password`, or `ssl.ca`, `ssl.certificate` or
    /// `ssl.key`, which librdkafka takes as `….location` or as `….pem`.
    pub property: &'static str,
}

impl SecretRef {
    /// Returns the path of the entry in the directory where Secrets are mounted:
    /// `{secrets_dir}/{secret}/{key}`.
    pub fn path(&self, secrets_dir: &Path) -> PathBuf {
        secrets_dir.join(&self.secret).join(&self.key)
    }

    fn read(&self, secrets_dir: &Path) -> Result<String, SecretError> {
        let path = self.path(secrets_dir);
        let text = std::fs::read_to_string(&path).map_err(|source| SecretError::Unreadable {
            secret: self.secret.clone(),
            key: self.key.clone(),
            path,
            source,
        })?;
        if text.trim().is_empty() {
            return Err(SecretError::Empty {
                secret: self.secret.clone(),
                key: self.key.clone(),
            });
        }
        Ok(text)
    }
}

/// The reason why a Secret's entry cannot be used.
#[derive(Debug, Error)]
pub enum SecretError {
    /// There is no such file, or it can't be read as text.
    #[error(
        "Secret '{secret}' has no readable entry '{key}': {}: {source}; create the Secret with this entry, or correct its name in the manifest",
        path.display()
    )]
    Unreadable {
        /// Name of the Secret.
        secret: String,
        /// Entry of the Secret.
        key: String,
        /// The file that was looked for.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The entry is there and holds nothing.
    #[error("entry '{key}' of Secret '{secret}' is empty; put the credential into it")]
    Empty {
        /// Name of the Secret.
        secret: String,
        /// Entry of the Secret.
        key: String,
    },
    /// The provider of entries does not have it.
    #[error(
        "Secret '{secret}' has no entry '{key}'; create the Secret with this entry, or correct its name in the manifest"
    )]
    Missing {
        /// Name of the Secret.
        secret: String,
        /// Entry of the Secret.
        key: String,
    },
}

/// A property of the connection, before Secrets are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// A property and its value.
    Plain(&'static str, String),
    /// A property whose value is the entry's text, less the line end.
    Password(SecretRef),
    /// PEM blocks from one or more entries, all for the same property.
    Pem(Vec<SecretRef>),
}

impl Setting {
    /// The entries of Secrets that the setting needs.
    pub fn secrets(&self) -> &[SecretRef] {
        match self {
            Self::Plain(..) => &[],
            Self::Password(entry) => std::slice::from_ref(entry),
            Self::Pem(entries) => entries,
        }
    }

    /// The librdkafka property and its value, from mounted Secrets. A single PEM
    /// entry is named by its location, so that its text stays out of memory
    /// dumps of the configuration; several are joined.
    pub(super) fn read_from(&self, secrets_dir: &Path) -> Result<(String, String), SecretError> {
        match self {
            Self::Plain(name, value) => Ok(((*name).to_owned(), value.clone())),
            Self::Password(entry) => Ok((
                entry.property.to_owned(),
                without_line_end(entry.read(secrets_dir)?),
            )),
            Self::Pem(entries) => match entries.as_slice() {
                [entry] => {
                    entry.read(secrets_dir)?;
                    let path = entry.path(secrets_dir).display().to_string();
                    Ok((format!("{}.location", entry.property), path))
                }
                several => join_pem(several, |entry| entry.read(secrets_dir)),
            },
        }
    }

    /// The librdkafka property and its value, with entries from `lookup`, for a
    /// client without mounted Secrets.
    pub(super) fn look_up(
        &self,
        lookup: &mut dyn FnMut(&SecretRef) -> Option<String>,
    ) -> Result<(String, String), SecretError> {
        let mut read = |entry: &SecretRef| {
            lookup(entry).ok_or_else(|| SecretError::Missing {
                secret: entry.secret.clone(),
                key: entry.key.clone(),
            })
        };
        match self {
            Self::Plain(name, value) => Ok(((*name).to_owned(), value.clone())),
            Self::Password(entry) => {
                Ok((entry.property.to_owned(), without_line_end(read(entry)?)))
            }
            Self::Pem(entries) => join_pem(entries, read),
        }
    }
}

/// The entry with the access token, when the consumer authenticates by OAuth.
pub fn oauth_token(kafka: &Kafka) -> Option<&GenericSecretSource> {
    let authentication = kafka.authentication.as_ref()?;
    match authentication.type_ {
        AuthenticationType::Oauth => authentication.access_token.as_ref(),
        _ => None,
    }
}

/// The file with that token. librdkafka asks the program for a token; this is
/// where the program finds it.
pub fn oauth_token_path(kafka: &Kafka, secrets_dir: &Path) -> Option<PathBuf> {
    let token = oauth_token(kafka)?;
    Some(secrets_dir.join(&token.secret_name).join(&token.key))
}

/// The connection's settings, in librdkafka's names.
pub(super) fn settings(kafka: &Kafka) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(protocol) = security_protocol(kafka) {
        settings.push(Setting::Plain("security.protocol", protocol.to_owned()));
    }
    let trusted: Vec<SecretRef> = kafka
        .tls
        .iter()
        .flat_map(|tls| &tls.trusted_certificates)
        .map(|source| entry("ssl.ca", &source.secret_name, &source.certificate))
        .collect();
    if !trusted.is_empty() {
        settings.push(Setting::Pem(trusted));
    }
    if let Some(authentication) = &kafka.authentication {
        settings.extend(credentials(authentication));
    }
    settings
}

/// librdkafka's name for the pair of encryption and SASL; none for neither,
/// which is its default.
fn security_protocol(kafka: &Kafka) -> Option<&'static str> {
    let sasl = kafka
        .authentication
        .as_ref()
        .is_some_and(|authentication| authentication.type_ != AuthenticationType::Tls);
    match (kafka.tls.is_some(), sasl) {
        (false, false) => None,
        (true, false) => Some("ssl"),
        (false, true) => Some("sasl_plaintext"),
        (true, true) => Some("sasl_ssl"),
    }
}

fn credentials(authentication: &Authentication) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(mechanism) = mechanism(authentication.type_) {
        settings.push(Setting::Plain("sasl.mechanism", mechanism.to_owned()));
    }
    if let Some(username) = &authentication.username {
        settings.push(Setting::Plain("sasl.username", username.clone()));
    }
    if let Some(source) = &authentication.password_secret {
        settings.push(Setting::Password(entry(
            "sasl.password",
            &source.secret_name,
            &source.password,
        )));
    }
    if let Some(source) = &authentication.certificate_and_key {
        for (property, key) in [
            ("ssl.certificate", &source.certificate),
            ("ssl.key", &source.key),
        ] {
            settings.push(Setting::Pem(vec![entry(
                property,
                &source.secret_name,
                key,
            )]));
        }
    }
    settings
}

fn mechanism(type_: AuthenticationType) -> Option<&'static str> {
    match type_ {
        AuthenticationType::Tls => None,
        AuthenticationType::ScramSha256 => Some("SCRAM-SHA-256"),
        AuthenticationType::ScramSha512 => Some("SCRAM-SHA-512"),
        AuthenticationType::Plain => Some("PLAIN"),
        AuthenticationType::Oauth => Some("OAUTHBEARER"),
    }
}

fn entry(property: &'static str, secret: &str, key: &str) -> SecretRef {
    SecretRef {
        secret: secret.to_owned(),
        key: key.to_owned(),
        property,
    }
}

/// Files written by editors and `echo` end in a line end that is not part of the
/// password.
fn without_line_end(mut text: String) -> String {
    while text.ends_with(['\n', '\r']) {
        text.pop();
    }
    text
}

fn join_pem(
    entries: &[SecretRef],
    mut read: impl FnMut(&SecretRef) -> Result<String, SecretError>,
) -> Result<(String, String), SecretError> {
    let mut pem = String::new();
    for entry in entries {
        pem.push_str(read(entry)?.trim());
        pem.push('\n');
    }
    let property = entries.first().map_or("ssl.ca", |entry| entry.property);
    Ok((format!("{property}.pem"), pem))
}
