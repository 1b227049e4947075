//! A whole cluster: control plane, DNS, one node with its images, and a Kafka that
//! pods reach.

use std::fs;
use std::path::PathBuf;

use tokio::task::spawn_blocking;

use super::access::Cluster;
use super::control_plane::ControlPlane;
use super::images;
use super::node::{self, Node, Runtime};
use super::place::{Held, Place};
use super::{Binaries, ClusterError, dns};
use crate::kafka::Kafka;
use crate::process::Process;

/// A cluster that this process runs. [`RunningCluster::stop`] removes all of it;
/// dropped, it ends, and what it leaves is removed by [`down`] or by the next start.
#[derive(Debug)]
pub struct RunningCluster {
    // Dropped first to last.
    node: Node,
    dns: Process,
    control_plane: ControlPlane,
    kafka: Kafka,
    cluster: Cluster,
    place: Place,
    held: Held,
}

impl RunningCluster {
    /// Removes what an earlier run left, and brings up cluster `number`, below
    /// [`CLUSTERS`](super::CLUSTERS).
    /// Others than 0 are for tests of the harness itself.
    ///
    /// # Errors
    /// [`ClusterError::NotRoot`], [`ClusterError::Missing`], [`ClusterError::Up`]
    /// when another process runs it, or the step that failed.
    pub async fn start(number: u8) -> Result<Self, ClusterError> {
        node::check()?;
        let place = Place::of(number);
        let held = place.hold()?;
        // Built before the time of any other step counts.
        blocking(Binaries::all).await?;
        place.remove(&held).await?;
        place.prepare(&held)?;
        match bring_up(place).await {
            Ok(parts) => Ok(parts.into_cluster(place, held)),
            Err(error) => {
                // The error tells more than what may fail in cleaning up after it.
                let _ = place.remove(&held).await;
                Err(error)
            }
        }
    }

    /// How to use it.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Its control plane.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// Its node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its Kafka.
    pub fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    /// Its DNS server.
    pub fn dns(&self) -> &Process {
        &self.dns
    }

    /// Takes it down and removes every trace.
    ///
    /// # Errors
    /// [`ClusterError`] says what could not be removed.
    pub async fn stop(self) -> Result<(), ClusterError> {
        let Self {
            node,
            dns,
            control_plane,
            kafka,
            place,
            held,
            ..
        } = self;
        drop((node, dns, control_plane, kafka));
        place.remove(&held).await
    }
}

/// Takes down cluster `number`, whoever runs it, and removes what an interrupted run
/// left.
///
/// # Errors
/// [`ClusterError`] says what could not be removed.
pub async fn down(number: u8) -> Result<(), ClusterError> {
    Place::of(number).clear().await
}

/// What a cluster consists of.
struct Parts {
    node: Node,
    dns: Process,
    control_plane: ControlPlane,
    kafka: Kafka,
    cluster: Cluster,
}

impl Parts {
    fn into_cluster(self, place: Place, held: Held) -> RunningCluster {
        RunningCluster {
            node: self.node,
            dns: self.dns,
            control_plane: self.control_plane,
            kafka: self.kafka,
            cluster: self.cluster,
            place,
            held,
        }
    }
}

async fn bring_up(place: Place) -> Result<Parts, ClusterError> {
    let (dir, network, cgroup) = (place.dir(), place.network(), place.cgroup());
    // The machine's address in the cluster's network comes with the node's namespaces.
    let runtime = Runtime::start(dir.join("node"), network).await?;
    let (control_plane, kafka, (runtime, images)) = tokio::try_join!(
        start_control_plane(place),
        start_kafka(place),
        import_images(runtime, dir.join("images")),
    )?;
    let (dns, node) = tokio::try_join!(
        dns::start(&dir, network, &control_plane),
        Node::join(runtime, &control_plane, &cgroup),
    )?;

    let cluster = Cluster {
        kubeconfig: control_plane.kubeconfig(),
        commands: control_plane.binaries().dir().to_owned(),
        kafka: kafka.bootstrap().to_owned(),
        host: network.host(),
        holder: std::process::id(),
        dir,
        images,
        cgroup,
    };
    cluster.publish()?;
    Ok(Parts {
        node,
        dns,
        control_plane,
        kafka,
        cluster,
    })
}

async fn start_control_plane(place: Place) -> Result<ControlPlane, ClusterError> {
    ControlPlane::builder()
        .controllers()
        .scheduler()
        .network(place.network().host(), &place.network().services())
        .dir(place.dir().join("control-plane"))
        .start()
        .await
}

async fn start_kafka(place: Place) -> Result<Kafka, ClusterError> {
    let kafka = Kafka::builder()
        .host(place.network().host().to_string())
        .within(place.dir());
    Ok(kafka.start().await?)
}

/// Gives the node its images, and tells which.
async fn import_images(
    runtime: Runtime,
    dir: PathBuf,
) -> Result<(Runtime, Vec<String>), ClusterError> {
    blocking(move || {
        let written = images::write_all(&dir)?;
        for image in &written {
            runtime.import(&image.archive)?;
        }
        // They are containerd's now.
        fs::remove_dir_all(&dir).map_err(ClusterError::io(dir.display().to_string()))?;
        let references = written.into_iter().map(|image| image.reference);
        Ok((runtime, references.collect()))
    })
    .await
}

/// Runs what blocks in a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ClusterError> + Send + 'static,
) -> Result<T, ClusterError> {
    spawn_blocking(work)
        .await
        .map_err(|error| ClusterError::io("a thread")(error.into()))?
}
