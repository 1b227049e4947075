//! What is to run: the manifest, changed as the arguments say.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use penstock_crds::manifest::{self, Content, ManifestErrors};
use penstock_crds::names::TopicName;
use penstock_crds::spec::{Kafka, KafkaConsumer};
use penstock_crds::validate::{Endpoint, ValidatedConsumer, validate};

use super::error::DevError;
use super::pages;
use crate::args::DevArguments;
use crate::findings::Finding;
use crate::input;

/// A consumer that can run here.
pub struct Plan {
    /// The manifest, as the consumer is to read it.
    pub resource: KafkaConsumer,
    /// The same, checked.
    pub consumer: ValidatedConsumer,
    /// Where the manifest comes from.
    pub file: String,
}

impl Plan {
    /// Reads the manifest and checks it as the operator will.
    pub fn read(path: &Path) -> Result<Self, DevError> {
        let text = input::read(path)?;
        let file = input::name(path);
        match manifest::read_one(&text) {
            Ok((resource, consumer)) => Ok(Self {
                resource,
                consumer,
                file,
            }),
            Err(ManifestErrors::Refused(_)) => Err(DevError::Invalid {
                findings: findings(&text, &file),
                file,
            }),
            Err(error) => Err(DevError::NotOne { file, error }),
        }
    }

    /// Lets the handler listen on another port than the manifest's, or on a port where
    /// the manifest leaves it to the default that it would listen on a socket. A port
    /// that is found here, for 0, is held by what is returned until the handler starts.
    pub fn use_handler_port(&mut self, port: u16) -> Result<Option<TcpListener>, DevError> {
        if self.consumer.endpoint == Endpoint::Embedded {
            return Err(DevError::PortForEmbedded);
        }
        if let Some(path) = &self.resource.spec.handler.socket {
            return Err(DevError::PortForSocket(path.into()));
        }
        let (held, port) = match port {
            0 => {
                let taken = pages::take((Ipv4Addr::LOCALHOST, port).into());
                let (listener, address) =
                    taken.map_err(|source| DevError::HandlerPort { port, source })?;
                (Some(listener), address.port())
            }
            port => (None, port),
        };
        self.resource.spec.handler.port = Some(port.into());
        self.check()?;
        Ok(held)
    }

    /// Uses these brokers instead of the manifest's, with its authentication.
    pub fn use_brokers(&mut self, servers: &str) -> Result<(), DevError> {
        servers.clone_into(&mut self.resource.spec.kafka.bootstrap_servers);
        self.check()
    }

    /// Uses the broker in this process, which speaks neither TLS nor SASL. Says
    /// whether the manifest asks for either.
    pub fn use_plain_broker(&mut self, servers: &str) -> Result<bool, DevError> {
        let kafka = &mut self.resource.spec.kafka;
        let before = kafka.clone();
        *kafka = Kafka {
            bootstrap_servers: servers.to_owned(),
            authentication: None,
            tls: None,
            config: before
                .config
                .iter()
                .filter(|(name, _)| !is_about_security(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        };
        let secured = before.authentication.is_some()
            || before.tls.is_some()
            || before.config.len() != kafka.config.len();
        self.check()?;
        Ok(secured)
    }

    fn check(&mut self) -> Result<(), DevError> {
        self.consumer = validate(&self.resource.spec).map_err(DevError::Arguments)?;
        Ok(())
    }
}

fn is_about_security(property: &str) -> bool {
    ["ssl.", "sasl.", "enable.ssl.", "enable.sasl.", "https."]
        .iter()
        .any(|prefix| property.starts_with(prefix))
}

fn findings(text: &str, file: &str) -> String {
    let mut lines = Vec::new();
    for document in manifest::read(text) {
        if let Content::Refused(refusal) = document.content {
            let findings = Finding::all(text, document.line, &refusal.problem);
            lines.extend(findings.iter().map(|it| it.in_file(file).to_string()));
        }
    }
    lines.join("\n")
}

/// Which topic messages are produced to.
pub fn produce_topic(
    arguments: &DevArguments,
    consumer: &ValidatedConsumer,
) -> Result<String, DevError> {
    let mut topics = consumer.topics.iter().map(TopicName::as_str);
    match &arguments.produce_topic {
        None => Ok(topics.next().unwrap_or_default().to_owned()),
        Some(topic) if topics.any(|read| read == topic) => Ok(topic.clone()),
        Some(topic) => Err(DevError::UnreadTopic {
            topic: topic.clone(),
            topics: list(&consumer.topics),
        }),
    }
}

/// Topics, as a sentence lists them.
pub fn list(topics: &[TopicName]) -> String {
    let names: Vec<_> = topics.iter().map(TopicName::as_str).collect();
    names.join(", ")
}
