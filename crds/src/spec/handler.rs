//! The program that is given each message.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, Probe, ResourceRequirements, VolumeMount};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::HumanDuration;

/// The handler's image, and the protocol for its messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Handler {
    /// Container image of the handler.
    pub image: String,

    /// When a node pulls the image. (The schema takes its text from the type.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,

    /// Protocol between the runtime and the handler. Http: one POST for each message.
    /// BatchHttp: one POST for up to consumeBatchSize messages, with a verdict for each.
    /// Grpc: one stream for batches of messages and their verdicts. Embedded: the image
    /// is built on the Penstock runtime library and is the consumer itself.
    #[serde(default)]
    pub protocol: Protocol,

    /// TCP port that the handler listens on, at all addresses of the pod. Default of an
    /// Http or BatchHttp handler: 8080, unless socket is set. A Grpc handler has no
    /// default port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,

    /// Path of the Unix socket that the handler listens on, instead of port. Default of
    /// a Grpc handler: /run/penstock/handler.sock, unless port is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,

    /// URL path of the POST to an Http or BatchHttp handler.
    #[serde(default = "default_path")]
    pub path: String,

    /// Maximum time for one attempt at one message.
    #[serde(default = "default_timeout")]
    pub timeout: HumanDuration,

    /// Maximum time that a message may wait in a Grpc handler before its attempt begins.
    /// After that the message is taken back without an attempt. Default: timeout, and at
    /// least 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_timeout: Option<HumanDuration>,

    /// Maximum time for one attempt with all the extensions that a Grpc handler asks for.
    /// Default: timeout, which allows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_timeout: Option<HumanDuration>,

    /// Entry point of the container. It replaces that of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,

    /// Arguments of the entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,

    /// Environment of the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,

    /// ConfigMaps and Secrets whose entries become the container's environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFromSource>,

    /// CPU and memory of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Checks whether the handler has started. Default: its port accepts a
    /// connection. The runtime itself waits for a socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_probe: Option<Probe>,

    /// Checks whether the handler must be restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Probe>,

    /// Volumes of the pod that the container mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_mounts: Vec<VolumeMount>,
}

impl Handler {
    /// Returns the maximum time that a message may wait in the handler before it begins.
    pub fn wait_timeout(&self) -> HumanDuration {
        let usual = self.timeout.max(MIN_WAIT_TIMEOUT);
        self.wait_timeout.unwrap_or(usual)
    }

    /// Returns the maximum time of an attempt with all its extensions.
    pub fn max_timeout(&self) -> HumanDuration {
        self.max_timeout.unwrap_or(self.timeout)
    }
}

/// The least time to wait unless the manifest says otherwise.
const MIN_WAIT_TIMEOUT: HumanDuration = HumanDuration::from_secs(60);

/// When a node pulls the image: Always, IfNotPresent or Never. Default: Always for an image with
/// the tag latest or without a tag, otherwise IfNotPresent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// At each start of a container.
    Always,
    /// If the node does not have it.
    IfNotPresent,
    /// The node must have it.
    Never,
}

impl ImagePullPolicy {
    /// Returns its name in Kubernetes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// The protocol between the runtime and the handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// One POST for each message, CloudEvents 1.0 in binary mode.
    #[default]
    Http,
    /// One POST for several messages, CloudEvents 1.0 in batched mode.
    BatchHttp,
    /// One stream of batches and verdicts.
    Grpc,
    /// A call within the process.
    Embedded,
}

fn default_path() -> String {
    "/".into()
}

fn default_timeout() -> HumanDuration {
    HumanDuration::from_secs(30)
}
