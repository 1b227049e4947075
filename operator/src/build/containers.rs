//! The containers: the runtime and the handler, or, for an Embedded handler, the one that is both.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
    ObjectFieldSelector, Probe, ResourceRequirements, SecurityContext, TCPSocketAction,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use penstock_crds::spec::{Commit, Handler};
use penstock_crds::validate::{Address, Endpoint, Transport, ValidatedConsumer};

use super::volumes::Mounts;
use super::{Blueprint, some};

/// The name of the main container.
pub const RUNTIME: &str = "runtime";

/// The name of the sidecar.
pub const HANDLER: &str = "handler";

/// The name of the metrics' port.
pub(super) const METRICS: &str = "metrics";

/// The port of the runtime's metrics.
pub(super) const METRICS_PORT: i32 = 6060;

/// The name and the number of the port of the health pages.
const HEALTH: (&str, i32) = ("health", 9090);

/// The file for a container's termination message: Kubernetes' default.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// The runtime's requests and its memory limit, unless `spec.pod.resources` sets them. The runtime
/// stays below 80 MB under load.
const RUNTIME_CPU: &str = "50m";
const RUNTIME_MEMORY: (&str, &str) = ("96Mi", "256Mi");

/// A pod's containers.
pub(super) struct Containers {
    /// The runtime, with or without an embedded handler.
    pub(super) main: Container,
    /// The handler, unless it is embedded.
    pub(super) sidecar: Option<Container>,
}

pub(super) fn build(blueprint: &Blueprint<'_>, mounts: &Mounts) -> Containers {
    match &blueprint.consumer.endpoint {
        Endpoint::Embedded => Containers {
            main: embedded(blueprint, mounts),
            sidecar: None,
        },
        Endpoint::Remote { transport, address } => Containers {
            main: runtime(blueprint, mounts),
            sidecar: Some(sidecar(blueprint, mounts, *transport, address)),
        },
    }
}

fn runtime(blueprint: &Blueprint<'_>, mounts: &Mounts) -> Container {
    let pod = &blueprint.consumer.pod;
    Container {
        image: Some(blueprint.runtime.image.clone()),
        image_pull_policy: Some(blueprint.runtime.pull_policy.clone()),
        env: Some(with_own(runtime_environment(blueprint.consumer), &pod.env)),
        resources: Some(pod.resources.clone().unwrap_or_else(runtime_resources)),
        volume_mounts: Some(mounts.runtime.clone()),
        ..main_container()
    }
}

fn embedded(blueprint: &Blueprint<'_>, mounts: &Mounts) -> Container {
    let consumer = blueprint.consumer;
    let handler = &consumer.handler;
    let mut environment = with_own(runtime_environment(consumer), &consumer.pod.env);
    environment = with_own(environment, &handler.env);
    let resources = handler
        .resources
        .as_ref()
        .or(consumer.pod.resources.as_ref());
    let mut volume_mounts: Vec<VolumeMount> = mounts.runtime.clone();
    volume_mounts.extend(mounts.handler.iter().cloned());
    let main = main_container();
    Container {
        image: Some(handler.image.clone()),
        image_pull_policy: pull_policy(handler),
        command: some(handler.command.clone()),
        args: some(handler.args.clone()),
        env: Some(environment),
        env_from: some(handler.env_from.clone()),
        startup_probe: handler.startup_probe.clone().or(main.startup_probe.clone()),
        liveness_probe: handler
            .liveness_probe
            .clone()
            .or(main.liveness_probe.clone()),
        resources: Some(resources.cloned().unwrap_or_else(runtime_resources)),
        volume_mounts: Some(volume_mounts),
        ..main
    }
}

/// Returns the handler's pull policy. If there is none, Kubernetes chooses it.
fn pull_policy(handler: &Handler) -> Option<String> {
    let policy = handler.image_pull_policy?;
    Some(policy.name().to_owned())
}

/// Returns the runtime's container without its image.
fn main_container() -> Container {
    Container {
        name: RUNTIME.into(),
        ports: Some(vec![port(METRICS, METRICS_PORT), port(HEALTH.0, HEALTH.1)]),
        // The runtime gives the handler two minutes to accept connections, and
        // the brokers ten seconds, before it serves these pages.
        startup_probe: Some(health_probe("/livez", 2, 90)),
        liveness_probe: Some(health_probe("/livez", 10, 3)),
        readiness_probe: Some(health_probe("/readyz", 5, 2)),
        security_context: Some(security_context()),
        termination_message_path: Some(TERMINATION_LOG.into()),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        ..Container::default()
    }
}

/// Builds the handler's container. A port is probed by a connection, with gRPC too: only the
/// runtime finds out whether there is a health service, and asks it then. Without a port the
/// kubelet has nothing to probe, and only the runtime waits for the handler.
fn sidecar(
    blueprint: &Blueprint<'_>,
    mounts: &Mounts,
    transport: Transport,
    address: &Address,
) -> Container {
    let handler = &blueprint.consumer.handler;
    let port_number = match address {
        Address::Port(port) => Some(i32::from(*port)),
        Address::Socket(_) => None,
    };
    Container {
        name: HANDLER.into(),
        image: Some(handler.image.clone()),
        image_pull_policy: pull_policy(handler),
        command: some(handler.command.clone()),
        args: some(handler.args.clone()),
        env: Some(with_own(vec![listen_at(address)], &handler.env)),
        env_from: some(handler.env_from.clone()),
        ports: port_number.map(|number| vec![port(port_name(transport), number)]),
        startup_probe: handler
            .startup_probe
            .clone()
            .or(port_number.map(|number| tcp_probe(number, 1, 300))),
        liveness_probe: handler.liveness_probe.clone(),
        resources: handler.resources.clone(),
        restart_policy: Some("Always".into()),
        security_context: Some(security_context()),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        volume_mounts: Some(mounts.handler.clone()),
        ..Container::default()
    }
}

/// Returns the variables with the file of the termination message, and with the name that the
/// runtime keeps across restarts. By that name it aborts the transactions of its predecessor.
fn runtime_environment(consumer: &ValidatedConsumer) -> Vec<EnvVar> {
    let mut environment = vec![variable("PENSTOCK_TERMINATION_LOG", TERMINATION_LOG)];
    if consumer.commit == Commit::Transactional {
        environment.push(EnvVar {
            name: "PENSTOCK_INSTANCE".into(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    field_path: "metadata.name".into(),
                    ..ObjectFieldSelector::default()
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        });
    }
    environment
}

/// Returns the variable with the address at which the handler listens. `penstock dev` sets the
/// same.
fn listen_at(address: &Address) -> EnvVar {
    match address {
        Address::Port(port) => variable("PORT", &port.to_string()),
        Address::Socket(path) => variable("PENSTOCK_HANDLER_SOCKET", &path.display().to_string()),
    }
}

/// Returns Penstock's variables that the user does not set, and the user's.
fn with_own(mut ours: Vec<EnvVar>, own: &[EnvVar]) -> Vec<EnvVar> {
    ours.retain(|variable| !own.iter().any(|theirs| theirs.name == variable.name));
    ours.extend(own.iter().cloned());
    ours
}

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.into(),
        value: Some(value.into()),
        value_from: None,
    }
}

fn port_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Http | Transport::BatchHttp => "http",
        Transport::Grpc => "grpc",
    }
}

fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: number,
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    }
}

fn health_probe(path: &str, period_seconds: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String(HEALTH.0.into()),
            scheme: Some("HTTP".into()),
            ..HTTPGetAction::default()
        }),
        ..probe(period_seconds, failures)
    }
}

fn tcp_probe(port: i32, period_seconds: i32, failures: i32) -> Probe {
    Probe {
        tcp_socket: Some(TCPSocketAction {
            port: IntOrString::Int(port),
            host: None,
        }),
        ..probe(period_seconds, failures)
    }
}

fn probe(period_seconds: i32, failures: i32) -> Probe {
    Probe {
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failures),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

/// Returns the settings of the pod security standard Restricted, with a read-only root.
fn security_context() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".into()]),
            add: None,
        }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

fn runtime_resources() -> ResourceRequirements {
    let quantity = |text: &str| Quantity(text.into());
    let (requested, limit) = RUNTIME_MEMORY;
    ResourceRequirements {
        requests: Some(BTreeMap::from([
            ("cpu".into(), quantity(RUNTIME_CPU)),
            ("memory".into(), quantity(requested)),
        ])),
        limits: Some(BTreeMap::from([("memory".into(), quantity(limit))])),
        claims: None,
    }
}
