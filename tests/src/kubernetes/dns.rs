//! The cluster's DNS server. It runs on the machine, at the address that the kubelet
//! tells pods, and knows the services from the API server.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use super::ClusterError;
use super::control_plane::ControlPlane;
use super::network::Network;
use crate::ports;
use crate::process::{Process, Program};

const LIMIT: Duration = Duration::from_secs(30);

/// Starts it and waits until it knows the services.
pub(super) async fn start(
    dir: &Path,
    network: Network,
    control_plane: &ControlPlane,
) -> Result<Process, ClusterError> {
    let host = network.host();
    let [port] = ports::free(&host.to_string()).map_err(ClusterError::io("a free port"))?;
    let config = dir.join("Corefile");
    let upstream = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let forward = match upstream.contains("nameserver") {
        true => "forward . /etc/resolv.conf",
        false => "",
    };
    // A short life of answers, so that a service is found as soon as it is there.
    let text = format!(
        ".:53 {{
    bind {host}
    ready {host}:{port}
    errors
    kubernetes cluster.local {services} {pods} {{
        kubeconfig {kubeconfig}
        ttl 1
    }}
    {forward}
}}
",
        services = network.services(),
        pods = network.pods(),
        kubeconfig = control_plane.kubeconfig().display(),
    );
    fs::write(&config, text).map_err(ClusterError::io(config.display().to_string()))?;

    let process = Program::new(control_plane.binaries().path("cluster-dns"))
        .arg("-conf")
        .arg(&config)
        .start()?;
    let probe = async || {
        let mut stream = TcpStream::connect((host, port))?;
        stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        match answer.split(' ').nth(1) {
            Some("200") => Ok(()),
            _ => Err(std::io::Error::other(answer)),
        }
    };
    process.wait_for("the cluster's DNS", LIMIT, probe).await?;
    Ok(process)
}
