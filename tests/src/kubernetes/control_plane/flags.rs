//! How the programs of a control plane are called.

use std::path::Path;

use super::{Builder, Files};

pub(super) fn etcd(dir: &Path, client: u16, peer: u16) -> Vec<String> {
    let client = format!("http://127.0.0.1:{client}");
    let peer = format!("http://127.0.0.1:{peer}");
    vec![
        format!("--data-dir={}", dir.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        // Its data need not outlive the machine.
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
    ]
}

pub(super) fn api_server(settings: &Builder, files: &Files, port: u16, etcd: u16) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    let mut flags = vec![
        format!("--etcd-servers=http://127.0.0.1:{etcd}"),
        format!("--bind-address={}", settings.address),
        format!("--advertise-address={}", settings.address),
        format!("--secure-port={port}"),
        format!("--cert-dir={}", path(&files.dir.join("apiserver"))),
        format!("--tls-cert-file={}", path(&files.serving.certificate)),
        format!("--tls-private-key-file={}", path(&files.serving.key)),
        format!("--client-ca-file={}", path(&files.authority.certificate())),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!(
            "--service-account-key-file={}",
            path(&files.service_accounts.certificate)
        ),
        format!(
            "--service-account-signing-key-file={}",
            path(&files.service_accounts.key)
        ),
        format!("--service-cluster-ip-range={}", settings.services),
        format!(
            "--kubelet-client-certificate={}",
            path(&files.admin.certificate)
        ),
        format!("--kubelet-client-key={}", path(&files.admin.key)),
        // The node's name need not resolve here.
        "--kubelet-preferred-address-types=InternalIP".into(),
        "--profiling=false".into(),
    ];
    if settings.address.is_loopback() {
        // Endpoints must not be loopback addresses, so the service gets none.
        flags.push("--endpoint-reconciler-type=none".into());
    }
    if !settings.controllers {
        // It waits for service accounts, which the controllers make.
        flags.push("--disable-admission-plugins=ServiceAccount".into());
    }
    flags
}

pub(super) fn controllers(files: &Files, port: u16) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    let mut flags = client(files, "controllers", port);
    flags.extend([
        format!("--root-ca-file={}", path(&files.authority.certificate())),
        format!(
            "--cluster-signing-cert-file={}",
            path(&files.authority.certificate())
        ),
        format!(
            "--cluster-signing-key-file={}",
            path(&files.authority.key())
        ),
        format!(
            "--service-account-private-key-file={}",
            path(&files.service_accounts.key)
        ),
        "--use-service-account-credentials".into(),
    ]);
    flags
}

pub(super) fn scheduler(files: &Files, port: u16) -> Vec<String> {
    client(files, "scheduler", port)
}

/// Of a program that works on the API server and serves its own pages at `port`.
fn client(files: &Files, name: &str, port: u16) -> Vec<String> {
    let kubeconfig = files.dir.join(format!("{name}.kubeconfig"));
    let kubeconfig = kubeconfig.display();
    vec![
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--bind-address=127.0.0.1".into(),
        format!("--secure-port={port}"),
        format!("--cert-dir={}", files.dir.join(name).display()),
        "--leader-elect=false".into(),
        "--profiling=false".into(),
    ]
}
