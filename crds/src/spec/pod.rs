//! Settings of the pods that are passed through to Kubernetes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, CSIVolumeSource, ConfigMapVolumeSource, EmptyDirVolumeSource, EnvVar,
    LocalObjectReference, PersistentVolumeClaimVolumeSource, ProjectedVolumeSource,
    ResourceRequirements, SecretVolumeSource, Toleration, TopologySpreadConstraint,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Labels, placement and resources of the pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pod {
    /// Labels to add to the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,

    /// Annotations to add to the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,

    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,

    /// Rules about nodes and other pods for the placement of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// Spread of the replicas over nodes and zones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,

    /// Priority class of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,

    /// Service account of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,

    /// Mounts the token of the service account into the containers, for a handler that
    /// calls the Kubernetes API. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub automount_service_account_token: bool,

    /// Secrets for pulling images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// Environment of the runtime container, such as PENSTOCK_LOG or
    /// OTEL_EXPORTER_OTLP_ENDPOINT. For an Embedded handler, use handler.env.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,

    /// CPU and memory of the runtime container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Volumes that handler.volumeMounts can name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,

    /// PodDisruptionBudget of a consumer with two replicas or more. Enabled: a drain of
    /// nodes evicts one pod at a time. Disabled: the operator creates none, for example
    /// because the namespace has its own or a quota allows none. Default: Enabled.
    #[serde(default, skip_serializing_if = "DisruptionBudget::is_default")]
    pub disruption_budget: DisruptionBudget,
}

/// The PodDisruptionBudget of a consumer with two replicas or more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DisruptionBudget {
    /// A drain evicts one pod at a time.
    #[default]
    Enabled,
    /// There is none.
    Disabled,
}

impl DisruptionBudget {
    /// Returns `true` for the default, which manifests may omit.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A volume of the pods: its name and one of the sources.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Volume {
    /// Name, for handler.volumeMounts.
    pub name: String,

    /// Entries of a ConfigMap as files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapVolumeSource>,

    /// Entries of a Secret as files. When one changes, the pods are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretVolumeSource>,

    /// A directory that is empty at first and is deleted with the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDirVolumeSource>,

    /// A PersistentVolumeClaim in this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>,

    /// Several sources in one directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projected: Option<ProjectedVolumeSource>,

    /// A volume that a CSI driver creates for the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csi: Option<CSIVolumeSource>,
}

impl Volume {
    /// Returns the number of sources, which should be one.
    pub(crate) fn sources(&self) -> usize {
        [
            self.config_map.is_some(),
            self.secret.is_some(),
            self.empty_dir.is_some(),
            self.persistent_volume_claim.is_some(),
            self.projected.is_some(),
            self.csi.is_some(),
        ]
        .into_iter()
        .filter(|given| *given)
        .count()
    }
}
