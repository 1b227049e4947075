//! Events about consumers, on transitions only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _};

use crate::NAME;
use crate::key::Key;
use crate::read::Found;
use crate::reason::Reason;
use crate::status::ConditionType;

/// The maximum length of a note that the API server accepts, in bytes.
const MAX_NOTE: usize = 1_024;

/// Publishes events.
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// Creates the publisher. `identity` is the name of this operator's pod.
    pub fn new(client: Client, identity: &str) -> Self {
        let reporter = Reporter {
            controller: NAME.to_owned(),
            instance: Some(identity.to_owned()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
        }
    }

    /// Publishes an event about a condition that has changed, if it reports a failure, or that the
    /// consumer has become available. If the event can't be published, it is only logged, because
    /// the condition has the same content.
    pub async fn transition(&self, found: &Found, condition: &meta::Condition) {
        if ConditionType::is_derived(&condition.type_) {
            return;
        }
        let warning = Reason::parse(&condition.reason).is_some_and(Reason::is_warning);
        let available = condition.type_ == ConditionType::Available.name();
        let type_ = match (warning, condition.status.as_str()) {
            (true, _) => EventType::Warning,
            (false, "True") if available => EventType::Normal,
            _ => return,
        };
        let event = Event {
            type_,
            reason: condition.reason.clone(),
            note: Some(cut(&condition.message).to_owned()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let about = found.object_ref(&());
        if let Err(error) = self.recorder.publish(&event, &about).await {
            tracing::warn!(
                consumer = %Key::of(found),
                reason = condition.reason,
                %error,
                "an event could not be published; the condition has the same content"
            );
        }
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_NOTE)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "ä".repeat(MAX_NOTE);
        assert_eq!(cut(&long).len(), MAX_NOTE);
        assert_eq!(cut(&format!("x{long}")).len(), MAX_NOTE - 1);
    }
}
