//! What a cluster leaves behind: nothing, however it ends. The cluster here is one
//! beside that of the other tests.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use penstock_tests::process::{Process, Program};
use tokio::sync::Mutex;

use super::Outcome;

const SOON: Duration = Duration::from_secs(180);

const PROGRAM: &str = env!("CARGO_BIN_EXE_penstock-test-cluster");
const DIR: &str = "/var/tmp/penstock-test-cluster-1";
const CGROUP: &str = "penstock1";
const INTERFACE: &str = "penstock1";

/// There is one cluster of that number.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A pod with a mount of its own.
const POD: &str = "kubectl wait --for=create serviceaccount/default --timeout=30s && \
    kubectl run web --image=registry.example/orders-go:test && \
    kubectl wait --for=condition=Ready pod/web --timeout=60s";

fn cluster(arguments: &[&str]) -> Program {
    Program::new(PROGRAM)
        .args(arguments)
        .env("PENSTOCK_TEST_CLUSTER_NUMBER", "1")
}

async fn wait_until_up(process: &Process) -> Outcome {
    process.wait_for_line("export KUBECONFIG=", SOON).await?;
    process.wait_for_line("# images:", SOON).await?;
    Ok(())
}

/// What the cluster has on this machine, by kind.
fn traces() -> Result<BTreeMap<&'static str, Vec<String>>, Box<dyn Error>> {
    let lines = |text: String| -> Vec<String> {
        let ours = |line: &&str| line.contains(DIR) || line.contains("10.209.");
        text.lines().filter(ours).map(str::to_owned).collect()
    };
    let run = |program: &str, arguments: &[&str]| -> Result<String, Box<dyn Error>> {
        let output = Command::new(program).args(arguments).output()?;
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {output:?}"
        );
        Ok(String::from_utf8(output.stdout)?)
    };
    let paths = |found: Vec<String>| -> Vec<String> {
        let there = |path: &String| fs::symlink_metadata(path).is_ok();
        found.into_iter().filter(there).collect()
    };
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let cgroups = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|path| path.starts_with("/sys/fs/cgroup"))
        .map(|path| format!("{path}/{CGROUP}"));

    let mut traces = BTreeMap::new();
    traces.insert("processes", lines(run("ps", &["-eww", "-o", "args"])?));
    traces.insert("cgroups", paths(cgroups.collect()));
    traces.insert(
        "interface",
        paths(vec![format!("/sys/class/net/{INTERFACE}")]),
    );
    traces.insert("routes", lines(run("ip", &["route"])?));
    traces.insert("directory", paths(vec![DIR.to_owned()]));
    traces.insert("mounts", lines(mounts));
    traces.retain(|_, found| !found.is_empty());
    Ok(traces)
}

/// What a cluster must not change even while it is up.
fn machine() -> Result<Vec<String>, Box<dyn Error>> {
    let rules = Command::new("iptables-save").output()?;
    assert!(rules.status.success(), "{rules:?}");
    let rules = String::from_utf8(rules.stdout)?;
    // The other lines tell the time.
    let rules = rules.lines().filter(|line| !line.starts_with('#'));
    let mut seen: Vec<_> = rules.map(str::to_owned).collect();
    for path in [
        "/etc/hosts",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/kernel/panic",
        "/proc/sys/kernel/panic_on_oops",
    ] {
        seen.push(fs::read_to_string(path)?);
    }
    for path in [
        "/var/lib/kubelet",
        "/var/log/pods",
        "/run/netns",
        "/run/containerd",
        "/opt/containerd",
    ] {
        let entries = fs::read_dir(path).map(Iterator::count).unwrap_or_default();
        seen.push(format!("{path}: {entries}"));
    }
    Ok(seen)
}

#[tokio::test]
async fn a_command_runs_with_a_cluster_of_which_nothing_is_left() -> Outcome {
    let _alone = ALONE.lock().await;
    let before = machine()?;
    // The command waits until all has been looked at.
    let dir = tempfile::tempdir()?;
    let go_on = dir.path().join("go-on");
    assert!(Command::new("mkfifo").arg(&go_on).status()?.success());
    let script = format!(
        "{POD} && echo kafka at $PENSTOCK_TEST_CLUSTER_KAFKA && ls $PENSTOCK_TEST_CLUSTER && \
         read -r line <{}; exit 7",
        go_on.display()
    );
    let process = cluster(&["run", "sh", "-c", &script]).start()?;
    process.wait_for_line("access.json", SOON).await?;
    assert_eq!(process.count("kafka at 10.209.0.1:"), 1);

    let up = traces()?;
    for kind in ["processes", "cgroups", "interface", "routes", "directory"] {
        assert!(up.contains_key(kind), "no {kind} in {up:?}");
    }
    assert_eq!(machine()?, before);

    fs::write(&go_on, "\n")?;
    assert_eq!(process.wait(SOON).await?.code(), Some(7));
    assert_eq!(traces()?, BTreeMap::new());
    assert_eq!(machine()?, before);
    Ok(())
}

#[tokio::test]
async fn it_comes_up_again_after_it_was_killed_and_goes_down_when_told() -> Outcome {
    let _alone = ALONE.lock().await;
    let before = machine()?;
    let killed = cluster(&["up"]).start()?;
    wait_until_up(&killed).await?;
    killed.kill()?;
    killed.wait(SOON).await?;
    assert!(traces()?.contains_key("directory"));

    let again = cluster(&["up"]).start()?;
    wait_until_up(&again).await?;
    let refused = cluster(&["up"]).start()?;
    assert!(!refused.wait(SOON).await?.success());
    assert_eq!(refused.count("a test cluster is up already"), 1);

    let down = cluster(&["down"]).start()?;
    assert!(down.wait(SOON).await?.success(), "{}", down.tail());
    assert!(again.wait(SOON).await?.success());
    assert_eq!(traces()?, BTreeMap::new());
    assert_eq!(machine()?, before);

    // Nor does it matter when there is nothing to take down.
    let down = cluster(&["down"]).start()?;
    assert!(down.wait(SOON).await?.success(), "{}", down.tail());
    Ok(())
}

#[tokio::test]
async fn what_a_killed_cluster_left_is_taken_down() -> Outcome {
    let _alone = ALONE.lock().await;
    let killed = cluster(&["run", "sh", "-c", &format!("{POD}; echo there; sleep 600")]).start()?;
    killed.wait_for_line("there", SOON).await?;
    killed.kill()?;
    killed.wait(SOON).await?;

    let down = cluster(&["down"]).start()?;
    assert!(down.wait(SOON).await?.success(), "{}", down.tail());
    drop(killed);
    assert_eq!(traces()?, BTreeMap::new());
    Ok(())
}

#[tokio::test]
async fn who_may_not_have_a_node_is_told_why() -> Outcome {
    // Where anybody can run it, and ask for another user's cluster in vain.
    let dir = tempfile::tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let copy = dir.path().join("penstock-test-cluster");
    fs::copy(PROGRAM, &copy)?;
    let told = |command: &mut Command| -> Result<String, Box<dyn Error>> {
        let output = command
            .arg("up")
            .env("PENSTOCK_TEST_CLUSTER_NUMBER", "14")
            .output()?;
        assert!(!output.status.success());
        Ok(String::from_utf8(output.stderr)?)
    };

    let user = told(Command::new(&copy).uid(65534).gid(65534).current_dir("/"))?;
    assert!(user.contains("a node needs root"), "{user}");
    let bare = told(Command::new(&copy).env("PATH", dir.path()))?;
    assert!(
        bare.contains("a node needs containerd (package containerd)"),
        "{bare}"
    );
    assert!(bare.contains("hack/setup"), "{bare}");
    assert!(!Path::new("/var/tmp/penstock-test-cluster-14").exists());
    Ok(())
}
