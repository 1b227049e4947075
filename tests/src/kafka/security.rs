//! Certificates and users of a broker.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// openssl could not be started.
    #[error("openssl can't be started (is it installed?): {0}")]
    Start(io::Error),
    /// openssl refused.
    #[error("openssl {arguments} failed: {output}")]
    Failed {
        /// How it was called.
        arguments: String,
        /// What it said.
        output: String,
    },
    /// A file.
    #[error("{}: {error}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// A user and its password.
#[derive(Clone, Debug)]
pub struct Scram {
    /// Name.
    pub user: String,
    /// Password.
    pub password: String,
}

impl Scram {
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
pub(super) fn make_certificates(dir: &Path, host: &str) -> Result<TlsFiles, SecurityError> {
    let maker = Maker { dir };
    maker.authority()?;
    maker.certificate("server", &alternative_names(host))?;
    maker.certificate("client", "DNS:client")?;

    let server_keystore = maker.path("server.pem");
    let key = maker.read("server.key")?;
    let certificate = maker.read("server.crt")?;
    maker.write("server.pem", &format!("{key}{certificate}"))?;
    Ok(TlsFiles {
        ca: maker.path("ca.crt"),
        client_certificate: maker.path("client.crt"),
        client_key: maker.path("client.key"),
        server_keystore,
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

struct Maker<'a> {
    dir: &'a Path,
}

impl Maker<'_> {
    fn authority(&self) -> Result<(), SecurityError> {
        self.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
            "-days",
            "30",
            "-subj",
            "/CN=penstock-test-ca",
        ])
    }

    fn certificate(&self, name: &str, alternative_names: &str) -> Result<(), SecurityError> {
        let [key, request, certificate, extensions] =
            ["key", "csr", "crt", "ext"].map(|ending| format!("{name}.{ending}"));
        self.openssl(&[
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            &key,
            "-out",
            &request,
            "-subj",
            &format!("/CN={name}"),
        ])?;
        self.write(
            &extensions,
            &format!("subjectAltName={alternative_names}\n"),
        )?;
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "30",
            "-extfile",
            &extensions,
            "-out",
            &certificate,
        ])
    }

    fn openssl(&self, arguments: &[&str]) -> Result<(), SecurityError> {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(self.dir)
            .output()
            .map_err(SecurityError::Start)?;
        if output.status.success() {
            return Ok(());
        }
        Err(SecurityError::Failed {
            arguments: arguments.join(" "),
            output: String::from_utf8_lossy(&output.stderr).into(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn read(&self, name: &str) -> Result<String, SecurityError> {
        let path = self.path(name);
        fs::read_to_string(&path).map_err(|error| SecurityError::File { path, error })
    }

    fn write(&self, name: &str, text: &str) -> Result<(), SecurityError> {
        let path = self.path(name);
        fs::write(&path, text).map_err(|error| SecurityError::File { path, error })
    }
}
