//! The control plane without a node.

use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use penstock_tests::kubernetes::ControlPlane;
use penstock_tests::wait;

use super::Outcome;

const SOON: Duration = Duration::from_secs(60);

fn output(command: &mut Command) -> Result<String, Box<dyn std::error::Error>> {
    let output = command.output()?;
    let text = String::from_utf8(output.stdout)?;
    match output.status.success() {
        true => Ok(text),
        false => Err(String::from_utf8_lossy(&output.stderr).into()),
    }
}

#[tokio::test]
async fn it_is_ready_and_of_the_version_that_is_asked_for() -> Outcome {
    let control_plane = ControlPlane::start().await?;
    let ready = output(control_plane.kubectl().args(["get", "--raw=/readyz"]))?;
    assert_eq!(ready, "ok");
    let version = output(control_plane.kubectl().args(["version", "-o", "json"]))?;
    let version: serde_json::Value = serde_json::from_str(&version)?;
    assert_eq!(version["clientVersion"]["gitVersion"], "v1.34.2");
    assert_eq!(version["serverVersion"]["gitVersion"], "v1.34.2");
    Ok(())
}

#[tokio::test]
async fn controllers_run_only_when_asked_for() -> Outcome {
    let deployment = [
        "create",
        "deployment",
        "web",
        "--image=registry.example/web:1",
    ];
    let pods = ["get", "pods", "-o", "name"];

    let with = ControlPlane::builder().controllers().start().await?;
    output(with.kubectl().args(deployment))?;
    wait::value("a pod of the deployment", SOON, async || {
        match output(with.kubectl().args(pods)) {
            Ok(names) if names.starts_with("pod/web-") => Ok(()),
            Ok(names) => Err(names),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;

    let without = ControlPlane::start().await?;
    assert!(without.controllers().is_none());
    let pod = ["run", "alone", "--image=registry.example/alone:1"];
    output(without.kubectl().args(pod))?;
    assert_eq!(output(without.kubectl().args(pods))?, "pod/alone\n");
    Ok(())
}

#[tokio::test]
async fn it_goes_with_its_value() -> Outcome {
    let control_plane = ControlPlane::start().await?;
    let address = control_plane.server().trim_start_matches("https://");
    let address = address.to_owned();
    let kubeconfig = control_plane.kubeconfig();
    assert!(TcpStream::connect(&address).is_ok());
    assert!(kubeconfig.exists());

    drop(control_plane);
    assert!(TcpStream::connect(&address).is_err());
    assert!(!kubeconfig.exists());
    Ok(())
}

#[tokio::test]
async fn a_flag_that_is_refused_is_told() -> Outcome {
    let refused = ControlPlane::builder().api_server_flag("--no-such-flag");
    let error = refused.start().await.unwrap_err().to_string();
    assert!(error.contains("unknown flag: --no-such-flag"), "{error}");
    Ok(())
}
