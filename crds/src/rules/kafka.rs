//! Rules of the brokers, authentication, TLS and the Secrets behind them.

use crate::spec::{Authentication, AuthenticationType as Type, KafkaConsumerSpec};

use super::kinds::{below, hidden_pattern, pattern, unless_missing};
use super::{CelMessage, Rule};

/// `host:port` with a port of 1 to 65535; the host is a name, an IPv4 address, or
/// an IPv6 address in brackets.
const BROKER: &str = concat!(
    r"(\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?)",
    ":([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
);

/// A DNS-1123 subdomain, which is what Kubernetes names a Secret by. (The schema
/// bounds the length.)
const SECRET_NAME: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$";

/// The names that Kubernetes accepts for an entry of a Secret, except those that start
/// with two dots, which the kubelet reserves.
const SECRET_KEY: &str = "^[.]?[a-zA-Z0-9_-][a-zA-Z0-9._-]*$";

/// Mechanisms that take a user name and a password.
const PASSWORD_TYPES: &[Type] = &[Type::ScramSha256, Type::ScramSha512, Type::Plain];

/// Returns `true` if a field of the authentication is present.
type Has = fn(&Authentication) -> bool;

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = vec![
        pattern(
            "bootstrap-servers",
            &["spec.kafka.bootstrapServers"],
            &format!("^ *{BROKER} *(, *{BROKER} *)*$"),
            "must be one or more host:port, separated by commas, such as 'kafka-0:9092,kafka-1:9092'",
            |spec| {
                let servers = &spec.kafka.bootstrap_servers;
                vec![("spec.kafka.bootstrapServers".into(), servers)]
            },
        ),
        below(
            "tls-authentication-needs-tls",
            "spec.kafka",
            ".tls",
            "!has(self.authentication) || self.authentication.type != 'tls' || has(self.tls)",
            CelMessage::Fixed,
            "authentication of type tls needs tls; add it, where an empty object (tls: {}) trusts the system's authorities",
            |spec| {
                let kafka = &spec.kafka;
                let tls = |it: &Authentication| it.type_ == Type::Tls;
                let kept = kafka.tls.is_some() || !kafka.authentication.as_ref().is_some_and(tls);
                unless_missing(kept, "spec.kafka.tls")
            },
        ),
    ];
    rules.extend(fields_of_each_type());
    rules.extend(secrets());
    rules
}

fn fields_of_each_type() -> Vec<Rule> {
    let fields: [(&str, &'static [Type], Has); 4] = [
        ("username", PASSWORD_TYPES, |it| it.username.is_some()),
        ("passwordSecret", PASSWORD_TYPES, |it| {
            it.password_secret.is_some()
        }),
        ("certificateAndKey", &[Type::Tls], |it| {
            it.certificate_and_key.is_some()
        }),
        ("accessToken", &[Type::Oauth], |it| {
            it.access_token.is_some()
        }),
    ];
    let mut rules: Vec<Rule> = fields
        .into_iter()
        .flat_map(|(field, types, has)| [needed(field, types, has), foreign(field, types, has)])
        .collect();
    rules.push(pattern(
        "username",
        &["spec.kafka.authentication.username"],
        "(?s)^.+$",
        "name the user",
        |spec| {
            let username = spec
                .kafka
                .authentication
                .as_ref()
                .and_then(|it| it.username.as_deref());
            username
                .map(|name| ("spec.kafka.authentication.username".into(), name))
                .into_iter()
                .collect()
        },
    ));
    rules
}

/// The types that have the field need it.
fn needed(field: &str, types: &'static [Type], has: Has) -> Rule {
    let path = format!("spec.kafka.authentication.{field}");
    below(
        &format!("{field}-needed"),
        "spec.kafka.authentication",
        &format!(".{field}"),
        format!("!(self.type in {}) || has(self.{field})", cel_list(types)),
        CelMessage::Fixed,
        &format!(
            "authentication of type {} needs {field}; add it",
            words(types)
        ),
        move |spec| {
            let authentication = spec.kafka.authentication.as_ref()?;
            let kept = !types.contains(&authentication.type_) || has(authentication);
            unless_missing(kept, &path)
        },
    )
}

/// The other types do not have it.
fn foreign(field: &str, types: &'static [Type], has: Has) -> Rule {
    let path = format!("spec.kafka.authentication.{field}");
    below(
        &format!("{field}-foreign"),
        "spec.kafka.authentication",
        &format!(".{field}"),
        format!("self.type in {} || !has(self.{field})", cel_list(types)),
        CelMessage::Fixed,
        &format!(
            "is used with authentication of type {} only; leave {field} out, or change the type",
            words(types)
        ),
        move |spec| {
            let authentication = spec.kafka.authentication.as_ref()?;
            let kept = types.contains(&authentication.type_) || !has(authentication);
            unless_missing(kept, &path)
        },
    )
}

fn secrets() -> [Rule; 2] {
    [
        pattern(
            "secret-name",
            &[
                "spec.kafka.authentication.passwordSecret.secretName",
                "spec.kafka.authentication.certificateAndKey.secretName",
                "spec.kafka.authentication.accessToken.secretName",
                "spec.kafka.tls.trustedCertificates[].secretName",
            ],
            SECRET_NAME,
            "must be the name of a Secret: lower-case letters, digits, '-' and '.', such as 'kafka-credentials'",
            |spec| secret_fields(spec, true),
        ),
        // A password that is written here by mistake must not appear in the message.
        hidden_pattern(
            "secret-key",
            &[
                "spec.kafka.authentication.passwordSecret.password",
                "spec.kafka.authentication.certificateAndKey.certificate",
                "spec.kafka.authentication.certificateAndKey.key",
                "spec.kafka.authentication.accessToken.key",
                "spec.kafka.tls.trustedCertificates[].certificate",
            ],
            SECRET_KEY,
            "must be the name of an entry of the Secret, not its value: letters, digits, '-', '_' and '.', such as 'password'",
            |spec| secret_fields(spec, false),
        ),
    ]
}

/// The names of Secrets, or the names of their entries.
fn secret_fields(spec: &KafkaConsumerSpec, names: bool) -> Vec<(String, &str)> {
    let mut all: Vec<(String, bool, &str)> = Vec::new();
    if let Some(authentication) = &spec.kafka.authentication {
        let mut add = |field: &str, is_name, value| {
            all.push((format!("spec.kafka.authentication.{field}"), is_name, value));
        };
        if let Some(source) = &authentication.password_secret {
            add(
                "passwordSecret.secretName",
                true,
                source.secret_name.as_str(),
            );
            add("passwordSecret.password", false, &source.password);
        }
        if let Some(source) = &authentication.certificate_and_key {
            add("certificateAndKey.secretName", true, &source.secret_name);
            add("certificateAndKey.certificate", false, &source.certificate);
            add("certificateAndKey.key", false, &source.key);
        }
        if let Some(source) = &authentication.access_token {
            add("accessToken.secretName", true, &source.secret_name);
            add("accessToken.key", false, &source.key);
        }
    }
    let trusted = spec
        .kafka
        .tls
        .iter()
        .flat_map(|tls| &tls.trusted_certificates);
    for (index, source) in trusted.enumerate() {
        let path = format!("spec.kafka.tls.trustedCertificates[{index}]");
        all.push((format!("{path}.secretName"), true, &source.secret_name));
        all.push((format!("{path}.certificate"), false, &source.certificate));
    }
    all.into_iter()
        .filter(|(_, is_name, _)| *is_name == names)
        .map(|(path, _, value)| (path, value))
        .collect()
}

fn name(type_: &Type) -> &'static str {
    match type_ {
        Type::Tls => "tls",
        Type::ScramSha256 => "scram-sha-256",
        Type::ScramSha512 => "scram-sha-512",
        Type::Plain => "plain",
        Type::Oauth => "oauth",
    }
}

fn cel_list(types: &[Type]) -> String {
    let quoted: Vec<String> = types.iter().map(|it| format!("'{}'", name(it))).collect();
    format!("[{}]", quoted.join(", "))
}

/// `a, b or c`.
fn words(types: &[Type]) -> String {
    let names: Vec<&str> = types.iter().map(name).collect();
    match names.split_last() {
        Some((last, before)) if !before.is_empty() => format!("{} or {last}", before.join(", ")),
        _ => names.concat(),
    }
}
