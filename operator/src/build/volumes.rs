//! The files in a pod: the configuration, the Secrets of the connection, the directory of the
//! handler's socket, and the user's volumes.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, EmptyDirVolumeSource, KeyToPath, SecretVolumeSource, Volume, VolumeMount,
};
use penstock_crds::spec;
use penstock_crds::validate::Address;

use super::{Blueprint, config_map};
use crate::secrets::connection_entries;

/// The directory in which the runtime finds Secrets, as `SECRET/ENTRY`.
const SECRETS: &str = "/etc/penstock/secrets";

const CONFIG_VOLUME: &str = "penstock-config";
const SOCKET_VOLUME: &str = "penstock-socket";
const TMP_VOLUME: &str = "penstock-tmp";

const TMP: &str = "/tmp";

/// The volumes, and their mounts in each container.
pub(super) struct Mounts {
    /// All volumes of the pod.
    pub(super) volumes: Vec<Volume>,
    /// The mounts of the runtime.
    pub(super) runtime: Vec<VolumeMount>,
    /// The mounts of the handler, with those of the user.
    pub(super) handler: Vec<VolumeMount>,
}

impl Mounts {
    pub(super) fn of(blueprint: &Blueprint<'_>, config_map: &str) -> Self {
        let mut mounts = Self {
            volumes: Vec::new(),
            runtime: Vec::new(),
            handler: Vec::new(),
        };
        mounts.config(config_map);
        mounts.secrets(blueprint);
        mounts.scratch(blueprint);
        mounts.own(blueprint);
        mounts
    }

    /// Returns the names of the operator's volumes whose content ends with the pod.
    pub(super) fn own_scratch(&self) -> Vec<&str> {
        let names = self.volumes.iter().map(|volume| volume.name.as_str());
        names
            .filter(|name| [TMP_VOLUME, SOCKET_VOLUME].contains(name))
            .collect()
    }

    fn config(&mut self, config_map: &str) {
        self.volumes.push(Volume {
            name: CONFIG_VOLUME.into(),
            config_map: Some(ConfigMapVolumeSource {
                name: config_map.to_owned(),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        });
        let file = format!("{}/{}", config_map::DIRECTORY, config_map::FILE);
        let mut mount = read_only(CONFIG_VOLUME, &file);
        // A single file, because the directory also contains that of the Secrets.
        mount.sub_path = Some(config_map::FILE.into());
        self.runtime.push(mount);
    }

    /// Adds a directory for each Secret, with only the named entries.
    fn secrets(&mut self, blueprint: &Blueprint<'_>) {
        let mut secrets: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (secret, entry) in connection_entries(blueprint.consumer) {
            secrets.entry(secret).or_default().insert(entry);
        }
        for (index, (secret, entries)) in secrets.into_iter().enumerate() {
            let name = format!("penstock-secret-{index}");
            self.runtime
                .push(read_only(&name, &format!("{SECRETS}/{secret}")));
            let items = entries.into_iter().map(|entry| KeyToPath {
                path: entry.clone(),
                key: entry,
                mode: None,
            });
            self.volumes.push(Volume {
                name,
                secret: Some(SecretVolumeSource {
                    secret_name: Some(secret),
                    items: Some(items.collect()),
                    ..SecretVolumeSource::default()
                }),
                ..Volume::default()
            });
        }
    }

    /// Adds the directories that the handler can write, because its root is read-only, and that of
    /// its socket.
    fn scratch(&mut self, blueprint: &Blueprint<'_>) {
        let socket = match blueprint.consumer.endpoint.address() {
            Some(Address::Socket(socket)) => socket.parent().map(|path| path.display().to_string()),
            Some(Address::Port(_)) | None => None,
        };
        if socket.as_deref() != Some(TMP) {
            self.volumes.push(empty_dir(TMP_VOLUME, None));
            self.handler.push(mount(TMP_VOLUME, TMP));
        }
        if let Some(directory) = socket {
            self.volumes.push(empty_dir(SOCKET_VOLUME, Some("Memory")));
            self.runtime.push(mount(SOCKET_VOLUME, &directory));
            self.handler.push(mount(SOCKET_VOLUME, &directory));
        }
    }

    fn own(&mut self, blueprint: &Blueprint<'_>) {
        let consumer = blueprint.consumer;
        self.volumes
            .extend(consumer.pod.volumes.iter().map(own_volume));
        let mounts = &consumer.handler.volume_mounts;
        // A mount of the user at /tmp replaces Penstock's. No other mount does: runtime and handler
        // must see the same volume with the socket.
        if mounts.iter().any(|mount| mount.mount_path == TMP) {
            self.volumes.retain(|volume| volume.name != TMP_VOLUME);
            self.handler.retain(|mount| mount.name != TMP_VOLUME);
        }
        self.handler.extend(mounts.iter().cloned());
    }
}

fn own_volume(volume: &spec::Volume) -> Volume {
    Volume {
        name: volume.name.clone(),
        config_map: volume.config_map.clone(),
        secret: volume.secret.clone(),
        empty_dir: volume.empty_dir.clone(),
        persistent_volume_claim: volume.persistent_volume_claim.clone(),
        projected: volume.projected.clone(),
        csi: volume.csi.clone(),
        ..Volume::default()
    }
}

fn empty_dir(name: &str, medium: Option<&str>) -> Volume {
    Volume {
        name: name.into(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: medium.map(str::to_owned),
            size_limit: None,
        }),
        ..Volume::default()
    }
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        ..VolumeMount::default()
    }
}

fn read_only(name: &str, path: &str) -> VolumeMount {
    VolumeMount {
        read_only: Some(true),
        ..mount(name, path)
    }
}
