//! Certificates, made by the command openssl: elliptic keys, valid for a month.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
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

const NEW_KEY: [&str; 5] = [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-nodes",
];

/// Signs certificates; its own is `ca.crt` in its directory.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    dir: PathBuf,
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    /// A new authority, which keeps its files and those that it issues in `dir`.
    pub(crate) fn create(dir: &Path) -> Result<Self, CertificateError> {
        let authority = Self {
            dir: dir.to_owned(),
        };
        let mut arguments = vec!["req", "-x509", "-keyout", "ca.key", "-out", "ca.crt"];
        arguments.extend(NEW_KEY);
        arguments.extend(["-days", "30", "-subj", "/CN=penstock-test-ca"]);
        authority.openssl(&arguments)?;
        Ok(authority)
    }

    /// Issues `NAME.crt` and `NAME.key` for a subject such as `/O=admins/CN=ann`.
    /// The names it may be found by are as openssl writes them, `DNS:localhost,IP:127.0.0.1`;
    /// none is for clients.
    pub(crate) fn issue(
        &self,
        name: &str,
        subject: &str,
        alternative_names: Option<&str>,
    ) -> Result<Issued, CertificateError> {
        let [key, request, certificate, extensions] =
            ["key", "csr", "crt", "ext"].map(|ending| format!("{name}.{ending}"));
        let mut arguments = vec!["req", "-new", "-keyout", &key, "-out", &request];
        arguments.extend(NEW_KEY);
        arguments.extend(["-subj", subject]);
        self.openssl(&arguments)?;

        let text = alternative_names.map(|names| format!("subjectAltName={names}\n"));
        self.write(&extensions, &text.unwrap_or_default())?;
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
        ])?;
        Ok(Issued {
            certificate: self.path(&certificate),
            key: self.path(&key),
        })
    }

    /// Its own certificate, which those who deal with the others must trust.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// Its own key.
    pub(crate) fn key(&self) -> PathBuf {
        self.path("ca.key")
    }

    fn openssl(&self, arguments: &[&str]) -> Result<(), CertificateError> {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(&self.dir)
            .output()
            .map_err(CertificateError::Start)?;
        if output.status.success() {
            return Ok(());
        }
        Err(CertificateError::Failed {
            arguments: arguments.join(" "),
            output: String::from_utf8_lossy(&output.stderr).into(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), CertificateError> {
        let path = self.path(name);
        fs::write(&path, text).map_err(|error| CertificateError::File { path, error })
    }
}

impl Issued {
    /// Key and certificate in one file beside them, as Kafka wants it.
    pub(crate) fn joined(&self) -> Result<PathBuf, CertificateError> {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|error| CertificateError::File {
                path: path.to_owned(),
                error,
            })
        };
        let text = read(&self.key)? + &read(&self.certificate)?;
        let path = self.certificate.with_extension("pem");
        fs::write(&path, text).map_err(|error| CertificateError::File {
            path: path.clone(),
            error,
        })?;
        Ok(path)
    }
}
