//! The causes of unreachable brokers, from librdkafka's errors.
//!
//! librdkafka's calls only return a timeout. The cause comes before, as an error of the client
//! as a whole: a code, and a text that begins with the broker's name.

use std::fmt;

use parking_lot::Mutex;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// The most specific causes so far, one for each kind of address.
#[derive(Debug, Default)]
pub(crate) struct Causes(Mutex<Reasons>);

#[derive(Debug, Default)]
struct Reasons {
    bootstrap: Option<ConnectCause>,
    advertised: Option<ConnectCause>,
}

/// The cause of an unreachable broker. It displays librdkafka's text and a remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectCause {
    kind: Kind,
    advertised: bool,
    text: String,
}

/// From the least specific to the most specific: a broker that refuses a login was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// The broker did not connect, or closed the connection.
    Connection,
    /// The name has no address.
    Resolution,
    /// One side speaks TLS or SASL, the other does not.
    Protocol,
    /// TLS failed.
    Tls,
    /// The login was refused.
    Login,
}

impl Causes {
    /// Notes an error of the client as a whole, if it is the cause of an unreachable broker.
    pub(crate) fn note(&self, error: &KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        let Some(cause) = code.and_then(|code| ConnectCause::of(code, reason)) else {
            return;
        };
        let mut reasons = self.0.lock();
        let known = match cause.advertised {
            true => &mut reasons.advertised,
            false => &mut reasons.bootstrap,
        };
        // The latest of the most specific ones.
        if known.as_ref().is_none_or(|known| known.kind <= cause.kind) {
            *known = Some(cause);
        }
    }

    /// Notes a line of the client's log: a broker that closes each connection immediately
    /// causes no error of the client.
    pub(crate) fn note_line(&self, facility: &str, message: &str) {
        if facility != "FAIL" {
            return;
        }
        // `[thrd:NAME]: ` before the text of an error.
        let text = match message.strip_prefix("[thrd:") {
            Some(rest) => rest.split_once("]: ").map_or(message, |(_, text)| text),
            None => message,
        };
        let code = RDKafkaErrorCode::BrokerTransportFailure;
        self.note(&KafkaError::Global(code), text);
    }

    /// Returns the cause of an unreachable cluster.
    pub(crate) fn any(&self) -> Option<ConnectCause> {
        let reasons = self.0.lock();
        let known = [&reasons.bootstrap, &reasons.advertised];
        known
            .into_iter()
            .flatten()
            .max_by_key(|it| it.kind)
            .cloned()
    }

    /// Returns the cause that brokers cannot be reached at their advertised addresses.
    pub(crate) fn advertised(&self) -> Option<ConnectCause> {
        self.0.lock().advertised.clone()
    }
}

impl ConnectCause {
    /// Reads `SASL_SSL://host:9092/bootstrap: Failed to …`, where a broker by its
    /// advertised address has its number in place of `bootstrap`.
    fn of(code: RDKafkaErrorCode, reason: &str) -> Option<Self> {
        let kind = match code {
            RDKafkaErrorCode::Authentication => Kind::Login,
            RDKafkaErrorCode::SSL => Kind::Tls,
            RDKafkaErrorCode::Resolve => Kind::Resolution,
            // librdkafka's guesses, by its texts in rd_kafka_broker_set_error and
            // rd_kafka_transport_ssl_io_update.
            RDKafkaErrorCode::BrokerTransportFailure
                if ["SSL listener", "PLAINTEXT broker", "require SASL"]
                    .iter()
                    .any(|hint| reason.contains(hint)) =>
            {
                Kind::Protocol
            }
            // A line of the log has no code, and may come before the error or without one.
            // rd_kafka_broker_resolve, rd_kafka_transport_ssl_handshake and
            // rd_kafka_handle_SaslAuthenticate have these texts.
            RDKafkaErrorCode::BrokerTransportFailure if reason.contains("Failed to resolve") => {
                Kind::Resolution
            }
            RDKafkaErrorCode::BrokerTransportFailure if reason.contains("SSL handshake failed") => {
                Kind::Tls
            }
            RDKafkaErrorCode::BrokerTransportFailure
                if reason.contains("SASL authentication error") =>
            {
                Kind::Login
            }
            RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::OperationTimedOut => {
                Kind::Connection
            }
            _ => return None,
        };
        let (broker, _) = reason.split_once(": ")?;
        let advertised = broker
            .rsplit_once('/')
            .is_some_and(|(_, id)| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()));
        // The coordinator is reached by the address that its broker advertises.
        let advertised = advertised || broker.ends_with("GroupCoordinator");
        Some(Self {
            kind,
            advertised,
            text: reason.to_owned(),
        })
    }

    fn remedy(&self) -> &'static str {
        match (self.kind, self.advertised) {
            (Kind::Connection, false) => {
                "See whether a broker listens there, correct spec.kafka.bootstrapServers, or let traffic through firewalls and NetworkPolicies"
            }
            (Kind::Resolution, false) => {
                "Correct the name in spec.kafka.bootstrapServers, or the DNS"
            }
            (Kind::Connection, true) => {
                "The brokers advertise this address: correct their advertised.listeners, or let traffic to it through firewalls and NetworkPolicies"
            }
            (Kind::Resolution, true) => {
                "The brokers advertise this address: correct their advertised.listeners, or make the name known to the DNS here"
            }
            (Kind::Protocol, _) => {
                "Let spec.kafka.tls and spec.kafka.authentication fit the brokers' listener, or name another port"
            }
            (Kind::Tls, _) => {
                "Correct spec.kafka.tls (trustedCertificates), or the client certificate in spec.kafka.authentication"
            }
            (Kind::Login, _) => {
                "Correct spec.kafka.authentication: its type, the user, or the Secret's entry"
            }
        }
    }
}

impl fmt::Display for ConnectCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. {}", self.text.trim_end(), self.remedy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESOLVE: &str = "kafka:9092/bootstrap: Failed to resolve 'kafka:9092': Name or service not known (after 2ms in state CONNECT)";
    const REFUSED: &str = "kafka:9092/bootstrap: Connect to ipv4#10.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)";
    const ADVERTISED: &str = "kafka-7.internal:9092/7: Failed to resolve 'kafka-7.internal:9092': Name or service not known (after 5ms in state CONNECT)";

    fn note(causes: &Causes, code: RDKafkaErrorCode, reason: &str) {
        causes.note(&KafkaError::Global(code), reason);
    }

    #[test]
    fn each_kind_of_cause_has_its_remedy() {
        let transport = RDKafkaErrorCode::BrokerTransportFailure;
        for (code, reason, remedy) in [
            (
                RDKafkaErrorCode::Resolve,
                RESOLVE,
                "in spec.kafka.bootstrapServers, or the DNS",
            ),
            (
                RDKafkaErrorCode::Resolve,
                ADVERTISED,
                "advertised.listeners",
            ),
            (transport, REFUSED, "See whether a broker listens there"),
            (
                transport,
                "GroupCoordinator: kafka-7:9092: Connect to ipv4#10.0.0.7:9092 failed: Connection refused",
                "advertised.listeners",
            ),
            (
                transport,
                "kafka:9093/bootstrap: Disconnected: requesting ApiVersion: might be caused by incorrect security.protocol configuration (connecting to a SSL listener?)",
                "fit the brokers' listener",
            ),
            (
                RDKafkaErrorCode::SSL,
                "ssl://kafka:9093/bootstrap: SSL handshake failed: error:0A000086: certificate verify failed",
                "trustedCertificates",
            ),
            (
                RDKafkaErrorCode::Authentication,
                "sasl_ssl://kafka:9093/bootstrap: SASL authentication error: Authentication failed",
                "spec.kafka.authentication: its type",
            ),
        ] {
            let causes = Causes::default();
            note(&causes, code, reason);
            let shown = causes.any().unwrap().to_string();
            assert!(shown.starts_with(reason), "{shown}");
            assert!(shown.contains(remedy), "{shown}");
        }
    }

    #[test]
    fn the_latest_of_the_most_telling_causes_is_kept() {
        let causes = Causes::default();
        assert_eq!(causes.any(), None);
        note(&causes, RDKafkaErrorCode::Resolve, RESOLVE);
        note(&causes, RDKafkaErrorCode::BrokerTransportFailure, REFUSED);
        note(
            &causes,
            RDKafkaErrorCode::AllBrokersDown,
            "1/1 brokers are down",
        );
        assert_eq!(causes.any().unwrap().text, RESOLVE);
        let login = "sasl_ssl://kafka:9093/bootstrap: SASL authentication error";
        note(&causes, RDKafkaErrorCode::Authentication, login);
        assert_eq!(causes.any().unwrap().text, login);
    }

    #[test]
    fn a_line_of_the_log_tells_of_connections_that_are_closed() {
        let causes = Causes::default();
        causes.note_line("CONFWARN", "kafka:9092/2: not a failure");
        assert_eq!(causes.any(), None);
        let closed = "kafka:9092/2: Disconnected (after 0ms in state APIVERSION_QUERY)";
        causes.note_line("FAIL", &format!("[thrd:kafka:9092/2]: {closed}"));
        let cause = causes.advertised().unwrap();
        assert_eq!(
            (cause.text.as_str(), cause.kind),
            (closed, Kind::Connection)
        );
    }

    #[test]
    fn a_line_of_the_log_has_its_cause_in_its_words() {
        for (text, kind) in [
            (ADVERTISED, Kind::Resolution),
            (
                "ssl://kafka:9093/2: SSL handshake failed: error:0A000086: certificate verify failed",
                Kind::Tls,
            ),
            (
                "sasl_ssl://kafka:9093/2: SASL authentication error: Authentication failed",
                Kind::Login,
            ),
            (
                "kafka:9093/2: Disconnected while requesting ApiVersion: might be caused by incorrect security.protocol configuration (connecting to a SSL listener?)",
                Kind::Protocol,
            ),
        ] {
            let causes = Causes::default();
            causes.note_line("FAIL", &format!("[thrd:broker]: {text}"));
            assert_eq!(causes.any().map(|it| it.kind), Some(kind), "{text}");
        }
    }

    #[test]
    fn addresses_that_brokers_advertise_are_told_apart() {
        let causes = Causes::default();
        note(&causes, RDKafkaErrorCode::Resolve, RESOLVE);
        assert_eq!(causes.advertised(), None);
        note(&causes, RDKafkaErrorCode::Resolve, ADVERTISED);
        assert_eq!(causes.advertised().unwrap().text, ADVERTISED);
    }
}
