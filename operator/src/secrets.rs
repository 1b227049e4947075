//! The Secrets that consumers name. Each is read once, and again when the watch shows a change.
//! Only the entries that a consumer names are used.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::api::PartialObjectMeta;
use parking_lot::Mutex;
use penstock_crds::librdkafka;
use penstock_crds::spec::Kafka;
use penstock_crds::validate::ValidatedConsumer;
use thiserror::Error;

use crate::api::Scope;
use crate::build::digest;
use crate::key::Key;

/// The error of a consumer's Secrets.
#[derive(Debug, Error)]
pub enum SecretsError {
    /// Secrets or entries are missing.
    #[error("{}", .0.join("; "))]
    Missing(Vec<String>),
    /// A Secret could not be read.
    #[error(
        "Secret '{name}' can't be read: {source}; grant the operator the rights of its chart's roles"
    )]
    Read {
        /// The name of the Secret.
        name: String,
        /// The error.
        source: kube::Error,
    },
}

/// An entry that a consumer names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// The name of the Secret.
    pub secret: String,
    /// The entry; `None` for all entries.
    pub entry: Option<String>,
    /// Is `true` if pods start without the entry.
    pub optional: bool,
    /// Is `true` if an empty value is an error: credentials need a value, variables do not.
    pub filled: bool,
    /// Is `true` if pods must be replaced to see a change.
    pub restarts: bool,
}

/// The content of a consumer's Secrets.
#[derive(Debug)]
pub struct Secrets {
    found: HashMap<String, Entries>,
    /// The digest of the entries that pods read only at their start.
    pub digest: String,
}

type Entries = Option<Arc<BTreeMap<String, Vec<u8>>>>;

impl Secrets {
    /// Returns the text of an entry.
    pub fn text(&self, secret: &str, entry: &str) -> Option<String> {
        let entries = self.found.get(secret)?.as_ref()?;
        String::from_utf8(entries.get(entry)?.clone()).ok()
    }
}

/// The Secrets that have been read, and the consumers that name them.
#[derive(Default)]
pub struct SecretCache {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, Read>,
    users: HashMap<Key, HashSet<Key>>,
    named: HashMap<Key, BTreeSet<Key>>,
    /// The versions that the watch showed last of named Secrets; `None` for a Secret that is gone.
    shown: HashMap<Key, Option<String>>,
}

struct Read {
    version: Option<String>,
    entries: Entries,
}

impl SecretCache {
    /// Returns all entries that the consumer names.
    ///
    /// # Errors
    /// Returns an error if a required entry is missing, or if the API server does not answer.
    pub async fn read(
        &self,
        scope: &Scope,
        key: &Key,
        uid: &str,
        consumer: &ValidatedConsumer,
    ) -> Result<Secrets, SecretsError> {
        let needs = needs(consumer);
        let names: BTreeSet<String> = needs.iter().map(|need| need.secret.clone()).collect();
        self.name(key, &names);
        let mut found = HashMap::new();
        for name in names {
            let entries = self.entries(scope, &Key::new(&key.namespace, &name)).await;
            let entries = entries.map_err(|source| SecretsError::Read {
                name: name.clone(),
                source,
            })?;
            found.insert(name, entries);
        }
        let missing: Vec<String> = needs
            .iter()
            .filter(|need| !need.optional)
            .filter_map(|need| missing(need, &found))
            .collect();
        if !missing.is_empty() {
            return Err(SecretsError::Missing(missing));
        }
        let digest = digest_of(uid, &needs, &found);
        Ok(Secrets { found, digest })
    }

    /// Notes a change of a Secret. Returns the consumers that name it.
    pub fn changed(&self, secret: &PartialObjectMeta<Secret>) -> Vec<Key> {
        let key = Key::of(secret);
        let mut state = self.state.lock();
        let version = secret.metadata.resource_version.clone();
        let known = state.entries.get(&key);
        let is_known = known.is_some_and(|read| read.version == version);
        state.show(&key, version);
        if is_known {
            return Vec::new();
        }
        state.entries.remove(&key);
        state.users_of(&key)
    }

    /// Notes that a Secret is gone. Returns the consumers that name it.
    pub fn gone(&self, key: &Key) -> Vec<Key> {
        let mut state = self.state.lock();
        state.show(key, None);
        state.entries.remove(key);
        state.users_of(key)
    }

    /// Notes a complete list of Secrets: a Secret that is not in it is gone. Returns the consumers
    /// that name such Secrets.
    pub fn listed(&self, names: &HashSet<Key>) -> Vec<Key> {
        let mut state = self.state.lock();
        let gone: Vec<Key> = state
            .entries
            .iter()
            .filter(|(key, read)| read.entries.is_some() && !names.contains(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &gone {
            state.show(key, None);
            state.entries.remove(key);
        }
        gone.iter().flat_map(|key| state.users_of(key)).collect()
    }

    /// Forgets a consumer, and the Secrets that no other consumer names.
    pub fn forget(&self, consumer: &Key) {
        self.name(consumer, &BTreeSet::new());
    }

    /// Notes which Secrets a consumer names.
    fn name(&self, consumer: &Key, names: &BTreeSet<String>) {
        let names: BTreeSet<Key> = names
            .iter()
            .map(|name| Key::new(&consumer.namespace, name))
            .collect();
        let mut state = self.state.lock();
        let before = state.named.remove(consumer).unwrap_or_default();
        for secret in before.difference(&names) {
            let users = state.users.entry(secret.clone()).or_default();
            users.remove(consumer);
            if users.is_empty() {
                state.users.remove(secret);
                state.entries.remove(secret);
                state.shown.remove(secret);
            }
        }
        for secret in &names {
            let users = state.users.entry(secret.clone()).or_default();
            users.insert(consumer.clone());
        }
        if !names.is_empty() {
            state.named.insert(consumer.clone(), names);
        }
    }

    async fn entries(&self, scope: &Scope, key: &Key) -> Result<Entries, kube::Error> {
        if let Some(read) = self.state.lock().entries.get(key) {
            return Ok(read.entries.clone());
        }
        let secret = scope
            .within::<Secret>(&key.namespace)
            .get_opt(&key.name)
            .await?;
        let version = secret
            .as_ref()
            .and_then(|secret| secret.metadata.resource_version.clone());
        let entries = secret.map(|secret| {
            let data = secret.data.unwrap_or_default();
            Arc::new(
                data.into_iter()
                    .map(|(name, value)| (name, value.0))
                    .collect(),
            )
        });
        let read = Read {
            version,
            entries: Entries::clone(&entries),
        };
        let mut state = self.state.lock();
        // The watch may show a newer version, and will not show it again.
        if state
            .shown
            .get(key)
            .is_none_or(|shown| *shown == read.version)
        {
            state.entries.insert(key.clone(), read);
        }
        Ok(entries)
    }
}

impl State {
    fn show(&mut self, secret: &Key, version: Option<String>) {
        if self.users.contains_key(secret) {
            self.shown.insert(secret.clone(), version);
        }
    }

    fn users_of(&self, secret: &Key) -> Vec<Key> {
        let users = self.users.get(secret).into_iter().flatten();
        users.cloned().collect()
    }
}

/// Returns the Secrets and entries of the connection to Kafka, which pods see as files.
pub fn connection_entries(consumer: &ValidatedConsumer) -> BTreeSet<(String, String)> {
    let config = librdkafka::consumer_config(consumer);
    let mut entries: BTreeSet<(String, String)> = config
        .secrets()
        .map(|entry| (entry.secret.clone(), entry.key.clone()))
        .collect();
    entries.extend(access_token(&consumer.kafka));
    entries
}

/// Returns the entry with the access token for OAuth.
pub fn access_token(kafka: &Kafka) -> Option<(String, String)> {
    let token = librdkafka::oauth_token(kafka)?;
    Some((token.secret_name.clone(), token.key.clone()))
}

/// Returns every entry that the consumer names: in the connection, the environment and the volumes.
fn needs(consumer: &ValidatedConsumer) -> BTreeSet<Need> {
    let token = access_token(&consumer.kafka);
    let connection = connection_entries(consumer).into_iter().map(|entry| Need {
        // A token is renewed often, and the runtime reads its file again.
        restarts: Some(&entry) != token.as_ref(),
        secret: entry.0,
        entry: Some(entry.1),
        optional: false,
        filled: true,
    });
    let variables = consumer.handler.env.iter().chain(&consumer.pod.env);
    let variables = variables.filter_map(|variable| {
        let reference = variable.value_from.as_ref()?.secret_key_ref.as_ref()?;
        Some(Need {
            secret: reference.name.clone(),
            entry: Some(reference.key.clone()),
            optional: reference.optional.unwrap_or_default(),
            filled: false,
            restarts: true,
        })
    });
    let environments = consumer.handler.env_from.iter().filter_map(|source| {
        let reference = source.secret_ref.as_ref()?;
        Some(whole(&reference.name, reference.optional))
    });
    let volumes = consumer.pod.volumes.iter().filter_map(|volume| {
        let source = volume.secret.as_ref()?;
        Some(whole(source.secret_name.as_deref()?, source.optional))
    });
    let projected = consumer.pod.volumes.iter().filter_map(|volume| {
        let sources = volume.projected.as_ref()?.sources.as_ref()?;
        Some(sources.iter().filter_map(|source| {
            let secret = source.secret.as_ref()?;
            Some(whole(&secret.name, secret.optional))
        }))
    });
    connection
        .chain(variables)
        .chain(environments)
        .chain(volumes)
        .chain(projected.flatten())
        .collect()
}

fn whole(secret: &str, optional: Option<bool>) -> Need {
    Need {
        secret: secret.to_owned(),
        entry: None,
        optional: optional.unwrap_or_default(),
        filled: false,
        restarts: true,
    }
}

fn missing(need: &Need, found: &HashMap<String, Entries>) -> Option<String> {
    let secret = &need.secret;
    let Some(entries) = found.get(secret).and_then(Option::as_ref) else {
        return Some(format!(
            "Secret '{secret}' does not exist in this namespace; create it, or correct its name in the manifest"
        ));
    };
    let entry = need.entry.as_ref()?;
    match entries.get(entry) {
        None => Some(format!(
            "Secret '{secret}' has no entry '{entry}'; add it, or correct its name in the manifest"
        )),
        Some(value) if need.filled && value.is_empty() => Some(format!(
            "entry '{entry}' of Secret '{secret}' is empty; put the credential into it"
        )),
        Some(_) => None,
    }
}

/// Returns the digest of entries. More people can read the annotation with it than the Secret, so
/// the digest depends on the consumer's uid too.
fn digest_of(uid: &str, needs: &BTreeSet<Need>, found: &HashMap<String, Entries>) -> String {
    let mut texts = vec![uid.to_owned()];
    for need in needs.iter().filter(|need| need.restarts) {
        texts.push(need.secret.clone());
        let entries = found.get(&need.secret).and_then(Option::as_ref);
        for (name, value) in entries.into_iter().flat_map(|entries| entries.iter()) {
            if need.entry.as_ref().is_none_or(|entry| entry == name) {
                texts.push(name.clone());
                texts.push(value.iter().map(|byte| format!("{byte:02x}")).collect());
            }
        }
    }
    digest(texts.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use penstock_crds::manifest;
    use serde_json::json;

    use super::*;

    /// A token for the brokers, a variable from one entry, and all of a Secret.
    fn consumer() -> ValidatedConsumer {
        let manifest = json!({
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "KafkaConsumer",
            "metadata": { "name": "orders" },
            "spec": {
                "group": "billing.orders",
                "topics": ["orders"],
                "mode": "InOrder",
                "kafka": {
                    "bootstrapServers": "kafka:9092",
                    "tls": {},
                    "authentication": {
                        "type": "oauth",
                        "accessToken": { "secretName": "kafka", "key": "token" },
                    },
                },
                "handler": {
                    "image": "registry.example/billing:1",
                    "env": [{ "name": "K", "valueFrom": {
                        "secretKeyRef": { "name": "api", "key": "key" },
                    } }],
                    "envFrom": [{ "secretRef": { "name": "all", "optional": true } }],
                },
            },
        });
        let (_, consumer) = manifest::read_one(&manifest.to_string()).unwrap();
        consumer
    }

    fn found(secrets: &[(&str, &[(&str, &str)])]) -> HashMap<String, Entries> {
        let entries = |entries: &[(&str, &str)]| -> BTreeMap<String, Vec<u8>> {
            let entries = entries.iter();
            entries
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect()
        };
        let secrets = secrets.iter();
        secrets
            .map(|(name, held)| ((*name).into(), Some(Arc::new(entries(held)))))
            .collect()
    }

    fn problems(secrets: &[(&str, &[(&str, &str)])]) -> Vec<String> {
        let found = found(secrets);
        let needs = needs(&consumer());
        let needed = needs.iter().filter(|need| !need.optional);
        needed.filter_map(|need| missing(need, &found)).collect()
    }

    #[test]
    fn everything_that_is_missing_is_named_with_the_remedy() {
        let problems = problems(&[("kafka", &[("token", "")])]);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0].starts_with("Secret 'api' does not exist"),
            "{problems:?}"
        );
        assert!(
            problems[1].starts_with("entry 'token' of Secret 'kafka' is empty"),
            "{problems:?}"
        );
    }

    #[test]
    fn variables_may_be_empty_and_optional_secrets_missing() {
        assert_eq!(
            problems(&[("kafka", &[("token", "t")]), ("api", &[("key", "")])]),
            [""; 0]
        );
    }

    #[test]
    fn the_digest_follows_what_pods_read_at_their_start_and_nothing_else() {
        let needs = needs(&consumer());
        let digest = |uid: &str, token: &str, key: &str, other: &str, all: &str| {
            let found = found(&[
                ("kafka", &[("token", token)]),
                ("api", &[("key", key), ("other", other)]),
                ("all", &[("a", all)]),
            ]);
            digest_of(uid, &needs, &found)
        };
        let before = digest("1", "t", "k", "o", "a");
        assert_eq!(
            digest("1", "renewed", "k", "o", "a"),
            before,
            "a token is read again"
        );
        assert_eq!(
            digest("1", "t", "k", "changed", "a"),
            before,
            "nobody names it"
        );
        assert_ne!(digest("1", "t", "changed", "o", "a"), before);
        assert_ne!(digest("1", "t", "k", "o", "changed"), before);
        assert_ne!(
            digest("2", "t", "k", "o", "a"),
            before,
            "of another consumer"
        );
    }
}
