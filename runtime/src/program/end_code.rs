//! The codes of the errors that end the runtime.
//!
//! The last log line has the code as the field `code`, and the termination message ends with
//! it. `docs/troubleshooting.md` has a heading for each code. Codes are names in PascalCase,
//! as the reasons of conditions are: a name needs no table to be understood.

use std::fmt;

use rdkafka::error::RDKafkaErrorCode;

use crate::consumer::server::RunError;
use crate::kafka::{ConnectError, end_code};
use crate::process::dead_letter::DeadLetterError;
use crate::process::worker::{Cause, Failure};
use crate::transactions::TransactionsError;

macro_rules! end_codes {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// The code of an error that ends the runtime.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum EndCode {
            $($(#[doc = $doc])+ $name,)+
        }

        impl EndCode {
            /// All codes.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Returns the name, as it is logged and documented.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

end_codes! {
    /// The command line or an environment variable is not valid.
    ArgumentsInvalid,
    /// The manifest's file cannot be read.
    ManifestUnreadable,
    /// The manifest breaks a rule.
    ManifestInvalid,
    /// The program does not serve the manifest's `spec.handler.protocol`.
    ProtocolMismatch,
    /// The settings of logs or traces are not valid.
    TelemetryInvalid,
    /// The operating system refused threads or signal handlers.
    SystemRefused,
    /// The handler accepted no connection in time.
    HandlerUnreachable,
    /// The handler and the runtime have no protocol version or order in common.
    HandlerIncompatible,
    /// A Secret or one of its entries is missing.
    SecretNotFound,
    /// The address of the metrics or health page is in use.
    AddressUnavailable,
    /// librdkafka refused a property.
    KafkaConfigInvalid,
    /// No bootstrap server answered in time.
    BrokersUnreachable,
    /// No broker can be reached at the address that it advertises.
    AdvertisedAddressUnreachable,
    /// A topic or a partition does not exist.
    TopicNotFound,
    /// The brokers refused an operation to this user.
    AuthorizationFailed,
    /// The group does not admit this member.
    GroupRefused,
    /// The records of a partition cannot be decoded.
    RecordsUnreadable,
    /// The group has no offset, and `offsetReset` is Fail.
    OffsetMissing,
    /// The brokers no longer have the position, and `onOffsetLost` is Fail.
    OffsetLost,
    /// The brokers refused the transactional id.
    TransactionalIdRefused,
    /// A transaction that covers committed offsets does not end.
    TransactionStuck,
    /// A transaction failed.
    TransactionFailed,
    /// Kafka reported another error that librdkafka does not retry.
    KafkaError,
    /// The handler failed to process a message, and `onFailure` is Stop.
    MessageFailed,
    /// A handled message could not be committed.
    CommitFailed,
    /// A dead letter was not acknowledged in time.
    DeadLetterFailed,
    /// The brokers refused a dead letter.
    DeadLetterRefused,
    /// Handlers were busy longer than `stopTimeout`.
    StopTimeout,
    /// Penstock has a defect.
    InternalError,
}

impl fmt::Display for EndCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl RunError {
    /// Returns the code of this error.
    pub fn code(&self) -> EndCode {
        match self {
            Self::Secret(_) => EndCode::SecretNotFound,
            Self::Listen(_) => EndCode::AddressUnavailable,
            Self::Connect(error) => of_connect(error),
            Self::DeadLetter(error) => of_dead_letter(error),
            Self::Transactions(error) => of_transactions(error),
            Self::Metrics(_) | Self::Task(_) => EndCode::InternalError,
            Self::Failure(failure) => of_failure(failure),
            Self::StopTimeout { .. } => EndCode::StopTimeout,
        }
    }
}

fn of_connect(error: &ConnectError) -> EndCode {
    match error {
        ConnectError::Configuration(_) => EndCode::KafkaConfigInvalid,
        ConnectError::Metadata { .. } => EndCode::BrokersUnreachable,
        ConnectError::Advertised(_) => EndCode::AdvertisedAddressUnreachable,
        ConnectError::UnknownTopic(_) => EndCode::TopicNotFound,
        ConnectError::Subscribe(error) => {
            end_code(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail))
        }
        ConnectError::Stopped => EndCode::InternalError,
    }
}

fn of_dead_letter(error: &DeadLetterError) -> EndCode {
    match error {
        DeadLetterError::Configuration(_) => EndCode::KafkaConfigInvalid,
        DeadLetterError::NotAcknowledged { source, .. } => {
            let code = source.rdkafka_error_code().map(end_code);
            code.filter(|code| {
                matches!(code, EndCode::AuthorizationFailed | EndCode::TopicNotFound)
            })
            .unwrap_or(EndCode::DeadLetterFailed)
        }
        DeadLetterError::Refused { .. } => EndCode::DeadLetterRefused,
    }
}

fn of_transactions(error: &TransactionsError) -> EndCode {
    match error {
        TransactionsError::Configuration(_) => EndCode::KafkaConfigInvalid,
        TransactionsError::Refused { .. } => EndCode::TransactionalIdRefused,
        TransactionsError::Thread(_) => EndCode::SystemRefused,
    }
}

fn of_failure(failure: &Failure) -> EndCode {
    match failure {
        Failure::Kafka { code, .. } => *code,
        Failure::Message { cause, .. } => match &**cause {
            Cause::Handler { .. } => EndCode::MessageFailed,
            Cause::Commit(_) => EndCode::CommitFailed,
            Cause::DeadLetter(error) => of_dead_letter(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../docs/troubleshooting.md");

    /// The codes that the page explains, from the headings of its section.
    fn explained() -> Vec<&'static str> {
        let (_, section) = PAGE
            .split_once("\n## The runtime ends with a code\n")
            .unwrap();
        let lines = section.lines();
        let lines = lines.take_while(|line| !line.starts_with("## "));
        lines.filter_map(|line| line.strip_prefix("### ")).collect()
    }

    #[test]
    fn the_page_explains_every_code_once_and_no_other() {
        let mut explained = explained();
        let mut codes: Vec<_> = EndCode::ALL.iter().map(|code| code.name()).collect();
        explained.sort_unstable();
        codes.sort_unstable();
        assert_eq!(explained, codes, "headings of docs/troubleshooting.md");
    }

    #[test]
    fn failures_have_the_code_of_their_cause() {
        let failure = |cause| {
            let position = crate::handler::record::Position {
                topic: "orders".into(),
                partition: 0,
                offset: 7,
            };
            RunError::from(Failure::of(position, cause)).code()
        };
        let handler = Cause::Handler {
            attempts: 1,
            reason: "busy".into(),
        };
        assert_eq!(failure(handler), EndCode::MessageFailed);
        assert_eq!(failure(Cause::Commit("no".into())), EndCode::CommitFailed);
        let refused = DeadLetterError::Refused {
            topic: penstock_crds::names::TopicName::parse("dead").unwrap(),
            source: rdkafka::error::KafkaError::Canceled,
        };
        assert_eq!(
            failure(Cause::DeadLetter(refused)),
            EndCode::DeadLetterRefused
        );
        let lost = RunError::from(Failure::Kafka {
            code: EndCode::OffsetLost,
            text: "gone".into(),
        });
        assert_eq!(lost.code(), EndCode::OffsetLost);
        assert_eq!(lost.to_string(), "KafkaError: gone");
    }
}
