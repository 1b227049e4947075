//! Rules of the replacement of pods.

use crate::spec::{KafkaConsumerSpec, Mode, PodCount, Rollout, RolloutStrategy};

use super::kinds::{below, found_text, unless};
use super::{CelMessage, Finding, Rule};

const ROLLOUT: &str = "spec.rollout";

pub(super) fn rules() -> Vec<Rule> {
    vec![some_progress(), no_counts_to_recreate(), in_order()]
}

/// An absent maxSurge is 1, and an absent maxUnavailable is 0.
fn some_progress() -> Rule {
    let is_zero = |field: &str| format!("(self.{field} == 0 || self.{field} == '0%')");
    below(
        "rollout-some-progress",
        ROLLOUT,
        ".maxSurge",
        format!(
            "!has(self.maxSurge) || !{} || (has(self.maxUnavailable) && !{})",
            is_zero("maxSurge"),
            is_zero("maxUnavailable")
        ),
        CelMessage::Fixed,
        "maxSurge and maxUnavailable must not both be 0, or no pod could be replaced; raise one of them (without it, maxSurge is 1 and maxUnavailable is 0)",
        |spec| {
            let rollout = rollout(spec)?;
            let surge = rollout.max_surge?;
            let is_zero = |count: Option<PodCount>| count.is_none_or(PodCount::is_zero);
            unless(
                !surge.is_zero() || !is_zero(rollout.max_unavailable),
                "spec.rollout.maxSurge",
                surge,
            )
        },
    )
}

fn no_counts_to_recreate() -> Rule {
    below(
        "rollout-recreate",
        ROLLOUT,
        ".strategy",
        "!has(self.strategy) || self.strategy != 'Recreate' || (!has(self.maxSurge) && !has(self.maxUnavailable))",
        CelMessage::Found(found_text("self.strategy")),
        "Recreate ends every old pod first; leave maxSurge and maxUnavailable out, or choose strategy: RollingUpdate",
        |spec| {
            let rollout = rollout(spec)?;
            unless(
                rollout.strategy != Some(RolloutStrategy::Recreate) || !has_counts(rollout),
                "spec.rollout.strategy",
                "Recreate",
            )
        },
    )
}

/// With maxSurge: 0 too, a Deployment starts the new pod while the old one still ends.
fn in_order() -> Rule {
    below(
        "in-order-rollout",
        "spec",
        ".rollout",
        "self.mode != 'InOrder' || !has(self.rollout) || (has(self.rollout.strategy) ? self.rollout.strategy == 'Recreate' : !has(self.rollout.maxSurge) && !has(self.rollout.maxUnavailable))",
        CelMessage::Fixed,
        "the pod of an InOrder consumer is replaced with strategy Recreate, because two pods could handle messages of a partition out of order; leave rollout out, or choose mode: KeyOrdered or Fast",
        |spec| {
            let rollout = rollout(spec)?;
            let recreates = match rollout.strategy {
                Some(strategy) => strategy == RolloutStrategy::Recreate,
                None => !has_counts(rollout),
            };
            (spec.mode == Mode::InOrder && !recreates).then(|| Finding::at(ROLLOUT))
        },
    )
}

fn rollout(spec: &KafkaConsumerSpec) -> Option<&Rollout> {
    spec.rollout.as_ref()
}

fn has_counts(rollout: &Rollout) -> bool {
    rollout.max_surge.is_some() || rollout.max_unavailable.is_some()
}
