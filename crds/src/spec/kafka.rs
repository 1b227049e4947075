//! The Kafka cluster and how to connect to it, in the shapes that Strimzi uses.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Brokers, authentication, TLS and librdkafka properties.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kafka {
    /// Brokers for the first connection, as host:port, separated by commas.
    pub bootstrap_servers: String,

    /// Authentication of the consumer to the brokers. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,

    /// TLS settings; when present, the connection is encrypted. An empty object
    /// trusts the system's authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,

    /// librdkafka properties, applied last. Passwords and keys are not allowed
    /// here: name their Secrets under authentication and tls.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
}

/// Authentication of the consumer to the brokers. Each field names the types that
/// use it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authentication {
    /// Mechanism: tls, scram-sha-256, scram-sha-512, plain or oauth.
    #[serde(rename = "type")]
    pub type_: AuthenticationType,

    /// User name, for scram-sha-256, scram-sha-512 and plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,

    /// Secret with the password, for scram-sha-256, scram-sha-512 and plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<PasswordSecretSource>,

    /// Secret with the client's certificate and key, for tls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_and_key: Option<KeyPairSecretSource>,

    /// Secret with an access token, for oauth. The runtime reads it again before the
    /// token expires, so an update of the Secret renews the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<GenericSecretSource>,
}

/// Authentication mechanisms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuthenticationType {
    /// A client certificate.
    Tls,
    /// SASL SCRAM-SHA-256.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// SASL SCRAM-SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
    /// SASL PLAIN.
    Plain,
    /// SASL OAUTHBEARER.
    Oauth,
}

/// One entry of a Secret that holds a password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PasswordSecretSource {
    /// Name of the Secret.
    pub secret_name: String,
    /// Entry of the Secret.
    pub password: String,
}

/// One entry of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GenericSecretSource {
    /// Name of the Secret.
    pub secret_name: String,
    /// Entry of the Secret.
    pub key: String,
}

/// The entries of a Secret that hold a certificate and its private key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyPairSecretSource {
    /// Name of the Secret.
    pub secret_name: String,
    /// Entry with the certificate, PEM.
    pub certificate: String,
    /// Entry with the private key, PEM.
    pub key: String,
}

/// The encryption of the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// Trusted authorities. They replace the system's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_certificates: Vec<CertificateSource>,
}

/// One entry of a Secret that holds a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateSource {
    /// Name of the Secret.
    pub secret_name: String,
    /// Entry of the Secret, PEM.
    pub certificate: String,
}
