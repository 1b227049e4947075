//! Rules of the containers' environments, probes and resources, and of the pods' labels:
//! of what Kubernetes would refuse in the Deployment. Limits of single values are in the
//! schema ([`crate::crd`]).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, Probe, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use regex::Regex;

use crate::crd::QUALIFIED_NAME;
use crate::spec::{KafkaConsumerSpec, Protocol};

use super::kinds::{at, below, quoted, unless_missing};
use super::{CelMessage, Finding, Rule};

/// The places with an environment.
const ENVIRONMENTS: [&str; 2] = ["spec.handler.env[]", "spec.pod.env[]"];

/// Sources of a variable, in CEL.
const SOURCES: &str = "[has(self.valueFrom.configMapKeyRef), has(self.valueFrom.fieldRef), has(self.valueFrom.resourceFieldRef), has(self.valueFrom.secretKeyRef)]";

/// Checks of a probe, in CEL.
const CHECKS: &str = "[has(self.exec), has(self.grpc), has(self.httpGet), has(self.tcpSocket)]";

pub(super) fn rules() -> Vec<Rule> {
    vec![
        at(
            "variable-value-or-source",
            &ENVIRONMENTS,
            "!has(self.valueFrom) || !has(self.value) || self.value == ''",
            CelMessage::Fixed,
            "give value or valueFrom, not both",
            |spec| {
                variables_where(spec, |variable| {
                    let has_value = variable.value.as_ref().is_some_and(|it| !it.is_empty());
                    variable.value_from.is_some() && has_value
                })
            },
        ),
        at(
            "variable-one-source",
            &ENVIRONMENTS,
            format!("!has(self.valueFrom) || {SOURCES}.filter(given, given).size() == 1"),
            CelMessage::Fixed,
            "valueFrom has one source: configMapKeyRef, fieldRef, resourceFieldRef or secretKeyRef",
            |spec| {
                variables_where(spec, |variable| {
                    variable
                        .value_from
                        .as_ref()
                        .is_some_and(|it| sources(it) != 1)
                })
            },
        ),
        port_variable(),
        at(
            "probe-one-check",
            &["spec.handler.startupProbe", "spec.handler.livenessProbe"],
            format!("{CHECKS}.filter(given, given).size() == 1"),
            CelMessage::Fixed,
            "a probe has one of exec, grpc, httpGet and tcpSocket",
            |spec| {
                let handler = &spec.handler;
                let probes = [
                    ("spec.handler.startupProbe", &handler.startup_probe),
                    ("spec.handler.livenessProbe", &handler.liveness_probe),
                ];
                probes
                    .into_iter()
                    .filter(|(_, probe)| probe.as_ref().is_some_and(|it| checks(it) != 1))
                    .map(|(path, _)| Finding::at(path))
                    .collect()
            },
        ),
        requests_within_limits(),
        label_names(),
        annotation_names(),
    ]
}

fn port_variable() -> Rule {
    below(
        "port-variable",
        "spec.handler",
        ".env",
        "!has(self.env) || has(self.socket) || !(has(self.port) || self.protocol in ['Http', 'BatchHttp']) || !self.env.exists(variable, variable.name == 'PORT' && has(variable.value) && !(variable.value in [has(self.port) ? string(self.port) : '8080']))",
        CelMessage::Fixed,
        "the variable PORT names another port than the one that the runtime calls (port, or else 8080); leave the variable out, or set port to the same number",
        |spec| {
            let handler = &spec.handler;
            let is_http = matches!(handler.protocol, Protocol::Http | Protocol::BatchHttp);
            let listens = handler.socket.is_none() && (handler.port.is_some() || is_http);
            let port = handler.port.unwrap_or(8080).to_string();
            let differs = handler.env.iter().any(|variable| {
                variable.name == "PORT" && variable.value.as_ref().is_some_and(|it| *it != port)
            });
            unless_missing(!listens || !differs, "spec.handler.env")
        },
    )
}

fn requests_within_limits() -> Rule {
    let resources = ["spec.handler.resources", "spec.pod.resources"];
    let amount = |of: &str| format!("quantity(string(self.{of}[name]))");
    at(
        "requests-within-limits",
        &resources,
        format!(
            "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) || !{}.isGreaterThan({}))",
            amount("requests"),
            amount("limits")
        ),
        CelMessage::Fixed,
        "requests must not be above limits; lower the request, or raise the limit",
        move |spec| {
            let pod = spec.pod.as_ref().and_then(|pod| pod.resources.as_ref());
            let found = [spec.handler.resources.as_ref(), pod];
            resources
                .into_iter()
                .zip(found)
                .filter(|(_, found)| found.is_some_and(|it| !is_within_limits(it)))
                .map(|(path, _)| Finding::at(path))
                .collect()
        },
    )
}

/// The message about the names of labels.
const LABEL_NAMES: &str = "each name must be one that Kubernetes takes for a label, such as team or example.com/team: letters, digits, '-', '_' and '.', at most 63";

fn label_names() -> Rule {
    let name = Regex::new(QUALIFIED_NAME).expect("the rules' patterns are valid");
    at(
        "pod-label-names",
        &["spec.pod.labels", "spec.pod.nodeSelector"],
        format!("self.all(name, name.matches({}))", quoted(QUALIFIED_NAME)),
        CelMessage::Fixed,
        LABEL_NAMES,
        move |spec| {
            let Some(pod) = &spec.pod else {
                return Vec::new();
            };
            let maps = [
                ("spec.pod.labels", &pod.labels),
                ("spec.pod.nodeSelector", &pod.node_selector),
            ];
            maps.into_iter()
                .filter(|(_, map)| !map.keys().all(|key| name.is_match(key)))
                .map(|(path, _)| Finding::at(path))
                .collect()
        },
    )
}

fn annotation_names() -> Rule {
    let name = Regex::new(QUALIFIED_NAME).expect("the rules' patterns are valid");
    at(
        "pod-annotation-names",
        &["spec.pod.annotations"],
        format!(
            "self.all(name, name.lowerAscii().matches({}))",
            quoted(QUALIFIED_NAME)
        ),
        CelMessage::Fixed,
        "each name must be one that Kubernetes takes for an annotation, such as team or example.com/team: letters, digits, '-', '_' and '.', at most 63",
        move |spec| {
            let annotations = spec.pod.iter().flat_map(|pod| pod.annotations.keys());
            let mut wrong = annotations.filter(|key| !name.is_match(&key.to_ascii_lowercase()));
            let found = wrong.next().map(|_| Finding::at("spec.pod.annotations"));
            found.into_iter().collect()
        },
    )
}

fn variables_where(spec: &KafkaConsumerSpec, wrong: fn(&EnvVar) -> bool) -> Vec<Finding> {
    let pod = spec.pod.as_ref().map_or(&[][..], |pod| pod.env.as_slice());
    [
        ("spec.handler.env", &spec.handler.env[..]),
        ("spec.pod.env", pod),
    ]
    .into_iter()
    .flat_map(|(path, variables)| {
        let variables = variables.iter().enumerate();
        variables
            .filter(move |(_, variable)| wrong(variable))
            .map(move |(index, _)| Finding::at(format!("{path}[{index}]")))
    })
    .collect()
}

fn sources(source: &EnvVarSource) -> usize {
    count([
        source.config_map_key_ref.is_some(),
        source.field_ref.is_some(),
        source.resource_field_ref.is_some(),
        source.secret_key_ref.is_some(),
    ])
}

fn checks(probe: &Probe) -> usize {
    count([
        probe.exec.is_some(),
        probe.grpc.is_some(),
        probe.http_get.is_some(),
        probe.tcp_socket.is_some(),
    ])
}

fn count(given: [bool; 4]) -> usize {
    given.into_iter().filter(|given| *given).count()
}

fn is_within_limits(resources: &ResourceRequirements) -> bool {
    let none = BTreeMap::new();
    let limits = resources.limits.as_ref().unwrap_or(&none);
    let mut requests = resources.requests.iter().flatten();
    requests.all(|(name, request)| {
        let limit = limits.get(name).and_then(amount);
        let pair = amount(request).zip(limit);
        // Amounts that are equal may differ by the rounding of a double.
        pair.is_none_or(|(request, limit)| request <= limit * (1.0 + 4.0 * f64::EPSILON))
    })
}

/// Returns the amount of a quantity. One that is no quantity is reported by the schema.
fn amount(quantity: &Quantity) -> Option<f64> {
    let text = quantity.0.as_str();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && !matches!(c, '+' | '.'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    let power = |base: f64, letters: &str| {
        let place = letters.find(&suffix[..1])?;
        Some(base.powi(i32::try_from(place).ok()? + 1))
    };
    match suffix {
        "" => Some(number),
        "n" => Some(number / 1e9),
        "u" => Some(number / 1e6),
        "m" => Some(number / 1e3),
        it if it.len() == 2 && it.ends_with('i') => Some(number * power(1024.0, "KMGTPE")?),
        it if it.len() == 1 => Some(number * power(1000.0, "kMGTPE")?),
        _ => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_quantities_compare() {
        let amount = |text: &str| amount(&Quantity(text.to_owned()));
        for (text, same) in [
            ("1Ki", "1024"),
            ("1k", "1000"),
            ("0.3", "300m"),
            ("1e3", "1k"),
            ("1E3", "1k"),
            ("2Gi", "2048Mi"),
            ("1E", "1000P"),
            ("+1.", "1000000u"),
        ] {
            assert_eq!(amount(text), amount(same), "{text}");
            assert!(amount(text).is_some(), "{text}");
        }
        assert_eq!(amount("one"), None);
        for (request, limit, is_kept) in [
            ("1001M", "1.001G", true),
            ("1.07G", "1070M", true),
            ("1002M", "1.001G", false),
        ] {
            let of = |text: &str| Some([("memory".to_owned(), Quantity(text.to_owned()))].into());
            let resources = ResourceRequirements {
                requests: of(request),
                limits: of(limit),
                ..ResourceRequirements::default()
            };
            assert_eq!(is_within_limits(&resources), is_kept, "{request}");
        }
        assert_eq!(amount("1xyz"), None);
    }
}
