//! Properties that no manifest may set, and why. Credentials, files and code are
//! recognised by patterns over librdkafka's own table, so that an alias, or a property
//! of a newer version, is not forgotten.

use crate::librdkafka::properties;
use crate::rules::Rule;

use super::property_rule;

const PASSWORD: &str = "spec.kafka.authentication.passwordSecret";
const TOKEN: &str = "spec.kafka.authentication.accessToken, with type oauth";
const KEY: &str = "spec.kafka.authentication.certificateAndKey, with type tls";
const AUTHORITIES: &str = "spec.kafka.tls.trustedCertificates";

/// Properties that follow from other fields, and which.
const OWNED: [(&str, &str); 8] = [
    ("bootstrap.servers", "spec.kafka.bootstrapServers"),
    ("metadata.broker.list", "spec.kafka.bootstrapServers"),
    ("group.id", "spec.group"),
    (
        "security.protocol",
        "spec.kafka.tls and spec.kafka.authentication",
    ),
    ("sasl.mechanism", "spec.kafka.authentication.type"),
    ("sasl.mechanisms", "spec.kafka.authentication.type"),
    ("sasl.username", "spec.kafka.authentication.username"),
    ("sasl.oauthbearer.method", TOKEN),
];

/// Properties that make no sense here, and why.
const SENSELESS: [(&str, &str); 5] = [
    (
        "enable.sasl.oauthbearer.unsecure.jwt",
        "unsigned tokens prove nothing; leave it out and use spec.kafka.authentication.accessToken",
    ),
    (
        "auto.commit.enable",
        "belongs to a consumer without a group; leave it out and use spec.commit",
    ),
    (
        "offset.store.method",
        "offsets are kept by the brokers; leave it out",
    ),
    (
        "offset.store.path",
        "offsets are kept by the brokers; leave it out",
    ),
    (
        "offset.store.sync.interval.ms",
        "offsets are kept by the brokers; leave it out",
    ),
];

/// Why a property may not be set.
struct Refusal {
    message: String,
    /// Its value is not shown.
    hidden: bool,
}

/// One rule for each property of the table that no manifest may set.
pub(super) fn rules() -> impl Iterator<Item = Rule> {
    properties::all().iter().filter_map(|property| {
        let refusal = refusal(property.name)?;
        Some(property_rule(
            &format!("config-{}", property.name),
            property.name,
            "false",
            &refusal.message,
            |_, _| false,
        ))
    })
}

/// Returns `true` if one of [`rules`] is about the property.
pub(super) fn is_ruled(name: &str) -> bool {
    refusal(name).is_some()
}

/// Returns `true` if the property's value must not be shown. A name that librdkafka does
/// not have may be a credential's, misspelt.
pub(super) fn is_hidden(name: &str) -> bool {
    properties::find(name).is_none() || refusal(name).is_some_and(|refusal| refusal.hidden)
}

fn refusal(name: &str) -> Option<Refusal> {
    let shown = |message: String| Refusal {
        message,
        hidden: false,
    };
    let hidden = |message: String| Refusal {
        message,
        hidden: true,
    };
    if is_credential(name) {
        let instead = credential_field(name);
        return Some(hidden(format!(
            "a manifest is no place for a credential; put it into a Secret and name that in {instead}"
        )));
    }
    if let Some((_, instead)) = OWNED.iter().find(|(property, _)| *property == name) {
        return Some(shown(format!("follows from {instead}; set it there")));
    }
    if let Some((_, why)) = SENSELESS.iter().find(|(property, _)| *property == name) {
        return Some(shown((*why).to_owned()));
    }
    if runs_code(name) || is_file(name) {
        let message = match not_built(name) {
            Some(why) => why.to_owned(),
            None if runs_code(name) => code(name),
            None => file(name),
        };
        return Some(hidden(message));
    }
    None
}

/// Returns `true` for passwords, secrets and private keys, by whatever name.
fn is_credential(name: &str) -> bool {
    const MARKS: [&str; 6] = [
        "password",
        "passphrase",
        "secret",
        "keystore",
        "key.pem",
        "private.key",
    ];
    MARKS.iter().any(|mark| name.contains(mark)) || name == "sasl.oauthbearer.config"
}

fn credential_field(name: &str) -> &'static str {
    if name.starts_with("sasl.oauthbearer.") {
        TOKEN
    } else if name.starts_with("ssl.") {
        KEY
    } else {
        PASSWORD
    }
}

/// Returns `true` for properties that name a file or a directory.
fn is_file(name: &str) -> bool {
    const ENDS: [&str; 6] = [
        ".location",
        ".file",
        ".path",
        ".paths",
        ".keytab",
        ".directory",
    ];
    ENDS.iter().any(|end| name.ends_with(end))
}

/// Returns `true` for properties that load a library or run a command.
fn runs_code(name: &str) -> bool {
    name.starts_with("plugin.")
        || name.starts_with("ssl.engine.")
        || name == "ssl.providers"
        || name.ends_with(".cmd")
}

fn file(name: &str) -> String {
    let remedy = match name {
        "ssl.ca.location" => AUTHORITIES,
        "ssl.certificate.location" | "ssl.key.location" => KEY,
        _ => {
            return "names a file, and a manifest may not choose files: the operator connects with it too; leave it out".to_owned();
        }
    };
    format!(
        "names a file, and a manifest may not choose files: the operator connects with it too; put its content into a Secret and name that in {remedy}"
    )
}

fn code(name: &str) -> String {
    let remedy = match name {
        "ssl.engine.id" | "ssl.engine.location" => {
            format!("put the key into a Secret and name that in {KEY}")
        }
        _ => "leave it out".to_owned(),
    };
    format!("loads a library or runs a command, which a manifest may not choose; {remedy}")
}

/// What is said of properties that librdkafka knows only to refuse them, as Penstock's is
/// built: without libcurl, by which it would ask for tokens itself, and for Linux.
pub(super) fn not_built(name: &str) -> Option<&'static str> {
    if name.starts_with("sasl.oauthbearer.") || name.starts_with("https.ca.") {
        Some(
            "needs libcurl, which Penstock's librdkafka is built without; leave it out, and use spec.kafka.authentication.accessToken, with type oauth",
        )
    } else if name == "ssl.ca.certificate.stores" {
        Some("is for Windows only; leave it out, and use spec.kafka.tls.trustedCertificates")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::librdkafka::properties::{Kind, all};

    /// Every property that may be set as text and whose name hints at a file, code or a
    /// credential.
    fn suspects() -> impl Iterator<Item = &'static str> {
        const HINTS: [&str; 16] = [
            "location",
            "file",
            "path",
            "dir",
            "librar",
            "plugin",
            "engine",
            "provider",
            "cmd",
            "keytab",
            "password",
            "secret",
            "passphrase",
            "private",
            "keystore",
            "template",
        ];
        all()
            .iter()
            .filter(|property| property.kind != Kind::Api)
            .map(|property| property.name)
            .filter(|name| HINTS.iter().any(|hint| name.contains(hint)))
    }

    #[test]
    fn no_file_library_or_credential_of_librdkafka_may_be_set() {
        let set: Vec<&str> = suspects().filter(|name| !is_ruled(name)).collect();
        assert_eq!(set, [""; 0]);
        assert!(suspects().count() >= 20);
    }

    #[test]
    fn credentials_and_their_aliases_are_hidden() {
        for name in [
            "sasl.password",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.client.credentials.client.secret",
            "sasl.oauthbearer.assertion.private.key.pem",
            "ssl.key.pem",
            "ssl.keystore.password",
        ] {
            assert!(is_credential(name) && is_hidden(name), "{name}");
        }
        assert!(is_hidden("sasl.pasword"), "misspelt");
        assert!(!is_hidden("client.id"));
        assert!(!is_ruled("ssl.ca.pem"), "public");
    }
}
