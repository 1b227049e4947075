//! The files by which clients find the API server, and prove who they are.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::ClusterError;
use crate::certificates::{Authority, Issued};

/// How a client proves who it is.
pub(super) enum Proof<'a> {
    /// By a certificate.
    Certificate(&'a Issued),
    /// By a bearer token, as service accounts do.
    Token(&'a str),
}

impl Proof<'_> {
    fn user(&self) -> Result<Value, ClusterError> {
        Ok(match self {
            Self::Certificate(client) => json!({
                "client-certificate-data": read(&client.certificate)?,
                "client-key-data": read(&client.key)?,
            }),
            Self::Token(token) => json!({ "token": token }),
        })
    }
}

/// Writes a kubeconfig that is complete in itself, so that it can be copied.
pub(super) fn write(
    path: &Path,
    server: &str,
    authority: &Authority,
    proof: &Proof<'_>,
) -> Result<(), ClusterError> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "penstock-test", "cluster": {
            "server": server,
            "certificate-authority-data": read(&authority.certificate())?,
        }}],
        "users": [{ "name": "penstock-test", "user": proof.user()? }],
        "contexts": [{ "name": "penstock-test", "context": {
            "cluster": "penstock-test",
            "user": "penstock-test",
        }}],
        "current-context": "penstock-test",
    });
    fs::write(path, config.to_string()).map_err(ClusterError::io(path.display().to_string()))
}

fn read(path: &Path) -> Result<String, ClusterError> {
    let bytes = fs::read(path).map_err(ClusterError::io(path.display().to_string()))?;
    Ok(STANDARD.encode(bytes))
}
