//! The handshake: the handler describes itself, and the runtime decides whether it can work
//! with it.

use thiserror::Error;

use penstock_handler::v1::{Feature, Order, Welcome};

/// The lowest version of a welcome. Handlers of version 1 send none.
const MIN_VERSION: u32 = 2;

/// The service that a handler provides. A contract that is not compatible has another package.
pub(super) const SERVICE: &str = "penstock.handler.v1.Handler";

/// The maximum size of a message that gRPC's libraries accept by default.
const USUAL_MESSAGE_BYTES: usize = 4 << 20;

/// The abilities and limits of the handler at the other end of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    /// The SDK's name and version.
    pub(super) sdk: String,
    /// The protocol's version.
    pub(super) version: u32,
    /// Is `true` if the handler reports deliveries that begin, and releases the others.
    /// Otherwise a delivery counts as begun when it is sent.
    pub(super) reports_begun: bool,
    /// Is `true` if the next message of an ordered batch begins after a skipped one.
    pub(super) continues_after_skip: bool,
    /// The maximum number of messages in one batch.
    pub(super) max_batch: usize,
    /// The maximum size of one message on the stream.
    pub(super) max_message_bytes: usize,
}

/// The reason that the runtime cannot work with a handler. Connecting again does not help.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum Refusal {
    #[error(
        "the handler ({sdk}) speaks version {version} of the protocol, and this runtime speaks {MIN_VERSION} and later; update the SDK"
    )]
    Version { sdk: String, version: u32 },
    #[error("the handler refuses the stream: {0}")]
    ByHandler(String),
    #[error(
        "the handler does not serve {SERVICE}, which this runtime speaks; install an SDK of that contract in the handler's image, or update the runtime"
    )]
    Service,
    #[error(
        "the handler ({sdk}) does not keep {order}, which mode {mode} needs; update the SDK, or choose another mode",
        order = .order.as_str_name()
    )]
    Order {
        sdk: String,
        order: Order,
        mode: &'static str,
    },
}

impl Peer {
    /// Returns the handler that a first message describes; without a welcome one of
    /// version 1.
    pub(super) fn new(welcome: Option<&Welcome>, needed: Order) -> Result<Self, Refusal> {
        let Some(welcome) = welcome else {
            return Ok(Self::without_welcome());
        };
        let sdk = sdk(welcome);
        let version = welcome.version;
        if version < MIN_VERSION {
            return Err(Refusal::Version { sdk, version });
        }
        let keeps = needed == Order::Unspecified || welcome.orders().any(|it| it == needed);
        if !keeps {
            return Err(Refusal::Order {
                sdk,
                order: needed,
                mode: mode(needed),
            });
        }
        Ok(Self {
            sdk,
            version,
            reports_begun: welcome.features().any(|it| it == Feature::Begun),
            continues_after_skip: true,
            max_batch: match welcome.max_batch {
                0 => usize::MAX,
                most => most as usize,
            },
            max_message_bytes: match welcome.max_message_bytes {
                0 => USUAL_MESSAGE_BYTES,
                most => usize::try_from(most).unwrap_or(usize::MAX),
            },
        })
    }

    pub(super) fn without_welcome() -> Self {
        Self {
            sdk: "an SDK without a handshake".into(),
            version: 1,
            reports_begun: false,
            continues_after_skip: false,
            max_batch: usize::MAX,
            max_message_bytes: usize::MAX,
        }
    }
}

fn sdk(welcome: &Welcome) -> String {
    let (name, version) = (welcome.sdk_name.trim(), welcome.sdk_version.trim());
    let name = if name.is_empty() { "unnamed SDK" } else { name };
    format!("{name} {version}").trim_end().to_owned()
}

/// Returns the mode that needs an order.
fn mode(order: Order) -> &'static str {
    match order {
        Order::Batch => "InOrder",
        Order::Key => "KeyOrdered",
        Order::Unspecified => "Fast",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn welcome(orders: &[Order]) -> Welcome {
        Welcome {
            version: 2,
            sdk_name: "penstock-go".into(),
            sdk_version: "0.3.1".into(),
            orders: orders.iter().map(|it| i32::from(*it)).collect(),
            features: vec![Feature::Begun.into()],
            ..Welcome::default()
        }
    }

    #[test]
    fn a_handler_keeps_the_order_that_the_consumer_needs_or_is_refused() {
        let orders = [Order::Unspecified, Order::Batch, Order::Key];
        for needed in orders {
            for kept in [&[][..], &[Order::Batch], &[Order::Key], &orders] {
                let peer = Peer::new(Some(&welcome(kept)), needed);
                let is_kept = needed == Order::Unspecified || kept.contains(&needed);
                assert_eq!(peer.is_ok(), is_kept, "{needed:?} {kept:?}");
            }
        }
        let error = Peer::new(Some(&welcome(&[Order::Batch])), Order::Key).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the handler (penstock-go 0.3.1) does not keep ORDER_KEY, which mode KeyOrdered needs; update the SDK, or choose another mode"
        );
    }

    #[test]
    fn orders_and_features_of_later_versions_are_no_hindrance() {
        let mut later = welcome(&[Order::Key]);
        later.version = 7;
        later.orders.push(99);
        later.features.push(99);
        let peer = Peer::new(Some(&later), Order::Key).unwrap();
        assert!(peer.reports_begun);
        assert_eq!(peer.version, 7);
    }

    #[test]
    fn a_welcome_of_a_version_that_has_none_is_refused() {
        for version in [0, 1] {
            let old = Welcome {
                version,
                ..welcome(&[Order::Key])
            };
            let error = Peer::new(Some(&old), Order::Key).unwrap_err().to_string();
            assert!(error.contains(&format!("version {version} of")), "{error}");
            assert!(error.ends_with("update the SDK"), "{error}");
        }
    }

    #[test]
    fn limits_that_are_not_given_are_the_usual_ones() {
        let peer = Peer::new(Some(&welcome(&[])), Order::Unspecified).unwrap();
        assert_eq!(peer.max_batch, usize::MAX);
        assert_eq!(peer.max_message_bytes, 4 << 20);
        let limited = Welcome {
            max_batch: 7,
            max_message_bytes: 1000,
            ..welcome(&[])
        };
        let peer = Peer::new(Some(&limited), Order::Unspecified).unwrap();
        assert_eq!((peer.max_batch, peer.max_message_bytes), (7, 1000));
    }
}
