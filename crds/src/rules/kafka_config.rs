//! Rules of `spec.kafka.config`: what the user may say to librdkafka directly.

mod numbers;
mod refused;
mod shared;

use std::collections::BTreeMap;

use regex::Regex;

use crate::librdkafka::config::is_consumer_protocol;
use crate::librdkafka::properties::{self, Kind, Scope, TRUE, parse_boolean, parse_integer};
use crate::spec::{Commit, KafkaConsumerSpec, Mode};
use crate::suggest::did_you_mean;

use super::kinds::{below, found_text, quoted, rust_only, unless};
use super::{CelMessage, Finding, Rule};

/// Properties that librdkafka refuses together with `group.protocol=consumer`.
const CLASSIC_ONLY: [&str; 4] = [
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "partition.assignment.strategy",
    "group.protocol.type",
];

const NO_TABLE_IN_CEL: &str =
    "librdkafka's table of some 200 properties would exceed what a CRD's rules may cost";

pub(super) fn rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> = refused::rules().collect();
    rules.push(no_end_of_partition_events());
    rules.push(no_shared_instance_id());
    rules.extend(commits());
    rules.push(commits_go_on());
    rules.push(transactions_are_waited_for());
    rules.extend(shared::rules());
    rules.push(assignors());
    rules.extend(CLASSIC_ONLY.map(classic_only));
    rules.push(rust_only(
        "config-property",
        "spec.kafka.config",
        NO_TABLE_IN_CEL,
        "must be a property of librdkafka 2.12 for consumers that text can set",
        unknown_properties,
    ));
    rules.push(rust_only(
        "config-value",
        "spec.kafka.config",
        NO_TABLE_IN_CEL,
        "must hold what librdkafka takes for the property",
        bad_values,
    ));
    rules.extend(numbers::rules());
    rules
}

/// A rule about one property, by the property alone or by others of
/// `spec.kafka.config`. Its CEL stands at `spec.kafka`, since the API server
/// garbles the path of a map's entry when the rule stands at the map itself.
/// `cel_kept` may count on the property being there.
fn property_rule(
    id: &str,
    property: &'static str,
    cel_kept: &str,
    message: &str,
    kept: impl Fn(&BTreeMap<String, String>, &str) -> bool + Send + Sync + 'static,
) -> Rule {
    let hidden = refused::is_hidden(property);
    below(
        id,
        "spec.kafka",
        &format!(".config['{property}']"),
        format!("!has(self.config) || !('{property}' in self.config) || {cel_kept}"),
        if hidden {
            CelMessage::Fixed
        } else {
            CelMessage::Found(found_text(&format!("self.config['{property}']")))
        },
        message,
        move |spec| {
            let config = &spec.kafka.config;
            let value = config.get(property)?;
            let path = path(property);
            match kept(config, value) {
                true => None,
                false if hidden => Some(Finding::at(path)),
                false => Some(Finding::of(path, value.as_str())),
            }
        },
    )
}

/// Returns `true` if a property may never be set.
pub(crate) fn is_refused(name: &str) -> bool {
    refused::is_ruled(name) || refused::not_built(name).is_some()
}

fn no_end_of_partition_events() -> Rule {
    let property = "enable.partition.eof";
    property_rule(
        "config-enable.partition.eof",
        property,
        &format!("!({})", cel_is(property, "self.config", &TRUE)),
        "the end of a partition would come as an error and stop the consumer; leave it out",
        |_, value| parse_boolean(value) != Some(true),
    )
}

fn no_shared_instance_id() -> Rule {
    let property = "group.instance.id";
    below(
        "config-group.instance.id",
        "spec",
        ".kafka.config['group.instance.id']",
        format!(
            "self.replicas <= 1 || !has(self.kafka.config) || !('{property}' in self.kafka.config)"
        ),
        CelMessage::Found(found_text("self.kafka.config['group.instance.id']")),
        "every replica would have the same id, and Kafka admits only one of them; leave it out, or set spec.replicas to 1",
        move |spec| {
            let value = spec.kafka.config.get(property)?;
            unless(spec.replicas <= 1, &path(property), value.as_str())
        },
    )
}

/// Wherever the runtime commits, librdkafka must not: it would commit messages that
/// are not handled. Only `commit: Read` leaves commits to librdkafka. Each rule speaks of
/// one mode, because the remedies differ.
fn commits() -> [Rule; 6] {
    [
        commit_rule(
            "in-order",
            "enable.auto.commit",
            COMMITS_EACH_MESSAGE,
            commits_each_message,
            "an InOrder consumer commits each message once it is handled, not periodically; leave it out",
        ),
        commit_rule(
            "in-order",
            "enable.auto.offset.store",
            COMMITS_EACH_MESSAGE,
            commits_each_message,
            "an InOrder consumer commits each message once it is handled, and librdkafka stores no offsets for it; leave it out",
        ),
        commit_rule(
            "key-ordered",
            "enable.auto.commit",
            COMMITS_BY_KEY,
            commits_by_key,
            "a KeyOrdered consumer commits only what was handled, and the runtime does that; leave it out",
        ),
        commit_rule(
            "key-ordered",
            "enable.auto.offset.store",
            COMMITS_BY_KEY,
            commits_by_key,
            "a KeyOrdered consumer commits only what was handled, and stored offsets are those of messages that were only read; leave it out",
        ),
        commit_rule(
            "handled",
            "enable.auto.commit",
            COMMITS_HANDLED,
            commits_handled,
            "with commit: Handled or Transactional the runtime commits what was handled; leave it out, or set commit: Read",
        ),
        commit_rule(
            "handled",
            "enable.auto.offset.store",
            COMMITS_HANDLED,
            commits_handled,
            "with commit: Handled or Transactional messages would be committed before they are handled; leave it out, or set commit: Read",
        ),
    ]
}

/// librdkafka takes an interval of 0 for "never"; the runtime has no such thing.
fn commits_go_on() -> Rule {
    let property = "auto.commit.interval.ms";
    let config = "self.kafka.config";
    below(
        "config-auto.commit.interval.ms-handled",
        "spec",
        ".kafka.config['auto.commit.interval.ms']",
        format!(
            "!({COMMITS_HANDLED} || {COMMITS_BY_KEY}) || !has({config}) || !('{property}' in {config}) || {config}['{property}'] != '0'"
        ),
        CelMessage::Found(found_text(&format!("{config}['{property}']"))),
        "with commit: Handled or Transactional an interval of 0 would commit without a pause; leave it out, or raise it",
        move |spec| {
            let value = spec.kafka.config.get(property)?;
            let never = parse_integer(value) == Some(0);
            let concerned = commits_handled(spec) || commits_by_key(spec);
            unless(!concerned || !never, &path(property), value.as_str())
        },
    )
}

/// librdkafka waits for an open transaction's offsets only where it reads committed
/// messages. Without that, what the transaction commits would be handled again.
fn transactions_are_waited_for() -> Rule {
    let property = "isolation.level";
    let config = "self.kafka.config";
    below(
        "config-isolation.level-transactional",
        "spec",
        ".kafka.config['isolation.level']",
        format!(
            "!has(self.commit) || self.commit != 'Transactional' || !has({config}) || !('{property}' in {config}) || {config}['{property}'].lowerAscii() != 'read_uncommitted'"
        ),
        CelMessage::Found(found_text(&format!("{config}['{property}']"))),
        "with commit: Transactional only committed messages may be read, or some are handled twice; leave it out",
        move |spec| {
            let value = spec.kafka.config.get(property)?;
            let committed = !value.eq_ignore_ascii_case("read_uncommitted");
            let kept = spec.commit != Some(Commit::Transactional) || committed;
            unless(kept, &path(property), value.as_str())
        },
    )
}

const COMMITS_HANDLED: &str = "(has(self.commit) && self.commit != 'Read' && (self.mode == 'Fast' || self.commit == 'Transactional'))";

/// Returns `true` where the manifest names a policy by which the runtime commits
/// periodically.
fn commits_handled(spec: &KafkaConsumerSpec) -> bool {
    match spec.commit {
        Some(Commit::Handled) => spec.mode == Mode::Fast,
        Some(Commit::Transactional) => true,
        Some(Commit::Read) | None => false,
    }
}

const COMMITS_BY_KEY: &str =
    "(self.mode == 'KeyOrdered' && !(has(self.commit) && self.commit == 'Transactional'))";

/// Returns `true` where the runtime commits periodically because of the mode.
fn commits_by_key(spec: &KafkaConsumerSpec) -> bool {
    spec.mode == Mode::KeyOrdered && spec.commit != Some(Commit::Transactional)
}

const COMMITS_EACH_MESSAGE: &str =
    "(self.mode == 'InOrder' && !(has(self.commit) && self.commit == 'Transactional'))";

/// Returns `true` where the runtime commits each message.
fn commits_each_message(spec: &KafkaConsumerSpec) -> bool {
    spec.mode == Mode::InOrder && spec.commit != Some(Commit::Transactional)
}

/// A rule: the property must not be true if `applies` is.
fn commit_rule(
    policy: &str,
    property: &'static str,
    cel_applies: &str,
    applies: fn(&KafkaConsumerSpec) -> bool,
    message: &str,
) -> Rule {
    let config = "self.kafka.config";
    below(
        &format!("config-{property}-{policy}"),
        "spec",
        &format!(".kafka.config['{property}']"),
        format!(
            "!{cel_applies} || !has({config}) || !('{property}' in {config}) || !({})",
            cel_is(property, config, &TRUE)
        ),
        CelMessage::Found(found_text(&format!("{config}['{property}']"))),
        message,
        move |spec| {
            let value = spec.kafka.config.get(property)?;
            let kept = !applies(spec) || parse_boolean(value) != Some(true);
            unless(kept, &path(property), value.as_str())
        },
    )
}

/// The values that librdkafka accepts for `partition.assignment.strategy`
/// (`rd_kafka_assignors_init`): names of its three assignors, in lower case, separated by
/// commas, all of one kind. Eager assignors revoke all partitions at each rebalance, the
/// cooperative one does not, and a group cannot mix them.
const ASSIGNORS: &str = "^[ ,]*((range|roundrobin)( *,[ ,]*(range|roundrobin))*|cooperative-sticky( *,[ ,]*cooperative-sticky)*) *,?$";

fn assignors() -> Rule {
    let property = "partition.assignment.strategy";
    let taken = Regex::new(ASSIGNORS).expect("the rules' patterns are valid");
    property_rule(
        "config-partition.assignment.strategy",
        property,
        &format!("self.config['{property}'].matches({})", quoted(ASSIGNORS)),
        "must be range, roundrobin, both of them, or cooperative-sticky alone: librdkafka has no other assignor, and the eager ones (range, roundrobin) cannot be mixed with the cooperative one",
        move |_, value| taken.is_match(value),
    )
}

/// CEL that is true when the property's text is one of the spellings.
fn cel_is(property: &str, config: &str, spellings: &[&str]) -> String {
    format!(
        "{config}['{property}'].lowerAscii() in ['{}']",
        spellings.join("', '")
    )
}

fn classic_only(property: &'static str) -> Rule {
    property_rule(
        &format!("config-{property}-classic"),
        property,
        "!('group.protocol' in self.config) || self.config['group.protocol'].lowerAscii() != 'consumer'",
        "with group.protocol=consumer the brokers decide this, and librdkafka refuses it; leave it out, or leave out group.protocol",
        |config, _| !is_consumer_protocol(config),
    )
}

fn unknown_properties(spec: &KafkaConsumerSpec) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, value) in &spec.kafka.config {
        // Its value is not shown: it may be a credential.
        if let Some(why) = refused::not_built(name).filter(|_| !refused::is_ruled(name)) {
            findings.push(Finding::at(path(name)).saying(why));
            continue;
        }
        let message = match properties::find(name) {
            // Its value is not shown: the name may be a password's, misspelt.
            None => {
                findings.push(Finding::at(path(name)).saying(unknown(name)));
                continue;
            }
            Some(property) if property.scope == Scope::Producer => {
                "is a producer property, and this is a consumer; leave it out".to_owned()
            }
            Some(property) if property.kind == Kind::Api => {
                "can only be set by a program, not as text; leave it out".to_owned()
            }
            Some(_) => continue,
        };
        findings.push(Finding::of(path(name), value.as_str()).saying(message));
    }
    findings
}

fn unknown(name: &str) -> String {
    let candidates = properties::all()
        .iter()
        .filter(|property| property.scope != Scope::Producer && property.kind != Kind::Api)
        .map(|property| property.name);
    match did_you_mean(name, candidates) {
        suggestion if suggestion.is_empty() => {
            "librdkafka 2.12 has no such property; leave it out, or look the name up in its CONFIGURATION.md".to_owned()
        }
        suggestion => format!("librdkafka 2.12 has no such property{suggestion}"),
    }
}

fn bad_values(spec: &KafkaConsumerSpec) -> Vec<Finding> {
    spec.kafka
        .config
        .iter()
        .filter(|(name, _)| !is_refused(name))
        .filter_map(|(name, value)| {
            let property = properties::find(name)?;
            let judged = property.scope != Scope::Producer && property.kind != Kind::Api;
            if !judged || property.kind.accepts(value) {
                return None;
            }
            let is_other_notation =
                matches!(property.kind, Kind::Integer(..)) && value.parse::<i64>().is_ok();
            let notation = if is_other_notation && parse_integer(value).is_none() {
                ", without a plus sign or a leading zero (librdkafka takes 010 for 8)"
            } else {
                ""
            };
            let message = format!("must be {}{notation}", property.kind);
            Some(Finding::of(path(name), value.as_str()).saying(message))
        })
        .collect()
}

fn path(property: &str) -> String {
    format!("spec.kafka.config[{property}]")
}
