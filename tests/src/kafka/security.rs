//! Certificates and users of a broker.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::certificates::{Authority, CertificateError};

/// A user and its password.
#[derive(Clone, Debug)]
pub struct Scram {
    /// Name.
    pub user: String,
    /// Password.
    pub password: String,
}

impl Scram {
    /// As `--add-config` wants it for a user that is named beside it.
    pub(super) fn as_config(&self, mechanism: &str) -> String {
        format!("{mechanism}=[password={}]", self.password)
    }

    /// As `--add-scram` wants it.
    pub(super) fn as_argument(&self, mechanism: &str) -> String {
        format!(
            "{mechanism}=[name={},password={}]",
            self.user, self.password
        )
    }
}

/// Certificates and keys, all PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Certificate of the authority that a client must trust.
    pub ca: PathBuf,
    /// Certificate of a client, with the name `client`.
    pub client_certificate: PathBuf,
    /// Key of that client.
    pub client_key: PathBuf,
    pub(super) server_keystore: PathBuf,
}

/// Makes an authority, and by it certificates of a broker at `host` and of a client.
pub(super) fn make_certificates(dir: &Path, host: &str) -> Result<TlsFiles, CertificateError> {
    let authority = Authority::create(dir)?;
    let server = authority.issue("server", "/CN=server", Some(&alternative_names(host)))?;
    let client = authority.issue("client", "/CN=client", Some("DNS:client"))?;
    Ok(TlsFiles {
        ca: authority.certificate(),
        client_certificate: client.certificate,
        client_key: client.key,
        server_keystore: server.joined()?,
    })
}

/// The names that a client may find the broker by.
fn alternative_names(host: &str) -> String {
    let kind = match host.parse::<IpAddr>() {
        Ok(_) => "IP",
        Err(_) => "DNS",
    };
    format!("DNS:localhost,IP:127.0.0.1,{kind}:{host}")
}
