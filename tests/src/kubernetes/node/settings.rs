//! What a node's programs read.

use std::path::Path;

use serde_json::{Value, json};

use super::super::network::Network;

/// containerd's. Its directories are the usual ones, which the namespaces keep
/// below the cluster's own.
pub(super) fn containerd(cni_config: &Path, cni_plugins: &Path, pause: &str) -> String {
    let cri = r#"plugins."io.containerd.grpc.v1.cri""#;
    format!(
        r#"version = 2
# Makes a directory in /opt.
disabled_plugins = ["io.containerd.internal.v1.opt"]

[{cri}]
sandbox_image = "{pause}"
# Where the right to lower it is missing, no container would start.
restrict_oom_score_adj = true

[{cri}.cni]
bin_dir = "{}"
conf_dir = "{}"

[{cri}.containerd]
default_runtime_name = "runc"

[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#,
        cni_plugins.display(),
        cni_config.display(),
    )
}

/// Each pod has a link of its own to the node, so that all between two pods passes
/// the node's rules for services.
pub(super) fn cni(network: Network) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [{
            "type": "ptp",
            "ipam": {
                "type": "host-local",
                "subnet": network.pods(),
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    })
}

/// The kubelet's.
pub(super) fn kubelet(network: Network, authority: &Path, cgroup: &str) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network.node().to_string(),
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": authority },
        },
        "authorization": { "mode": "Webhook" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{cgroup}"),
        "failCgroupV1": false,
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "clusterDNS": [network.host().to_string()],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        // Images can't be pulled again, so none is ever removed; and a disk that
        // is nearly full serves a test as well.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "serializeImagePulls": false,
    })
}
