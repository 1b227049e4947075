//! The headless Service that exposes the pods' metrics.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::containers::{METRICS, METRICS_PORT};
use super::{Blueprint, labels};

/// The suffix of its name.
pub(super) const SUFFIX: &str = "-metrics";

pub(super) fn build(blueprint: &Blueprint<'_>) -> Service {
    Service {
        metadata: labels::metadata(blueprint, SUFFIX),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            ports: Some(vec![ServicePort {
                name: Some(METRICS.into()),
                port: METRICS_PORT,
                protocol: Some("TCP".into()),
                target_port: Some(IntOrString::String(METRICS.into())),
                ..ServicePort::default()
            }]),
            // The metrics of a consumer that does not become ready are needed most.
            publish_not_ready_addresses: Some(true),
            selector: Some(labels::select(&blueprint.key.name)),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
