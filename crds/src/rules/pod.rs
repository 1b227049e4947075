//! Rules of the pods' volumes.

use std::ops::Not as _;

use regex::Regex;

use crate::spec::{KafkaConsumerSpec, Volume};

use super::kinds::{at, found_text, quoted};
use super::{Cel, CelMessage, Finding, Rule};

/// A DNS label.
const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// The prefix of the names of the operator's own volumes.
pub const OWN_VOLUMES: &str = "penstock-";

/// Sources of a volume, in CEL.
const SOURCES: &str = "[has(self.configMap), has(self.secret), has(self.emptyDir), has(self.persistentVolumeClaim), has(self.projected), has(self.csi)]";

pub(super) fn rules() -> Vec<Rule> {
    vec![volume_name(), one_source(), mounted_volume_exists()]
}

fn volume_name() -> Rule {
    at(
        "volume-name",
        &["spec.pod.volumes[].name"],
        format!(
            "self.matches({}) && !self.startsWith({})",
            quoted(LABEL),
            quoted(OWN_VOLUMES)
        ),
        CelMessage::Found(found_text("self")),
        "must be of lower-case letters, digits and '-', begin and end with a letter or digit, and not begin with 'penstock-', as the operator's own volumes do",
        |spec| {
            let label = Regex::new(LABEL).expect("the rules' patterns are valid");
            volumes(spec)
                .filter(|(_, volume)| {
                    !label.is_match(&volume.name) || volume.name.starts_with(OWN_VOLUMES)
                })
                .map(|(path, volume)| Finding::of(format!("{path}.name"), volume.name.as_str()))
                .collect()
        },
    )
}

fn one_source() -> Rule {
    at(
        "volume-one-source",
        &["spec.pod.volumes[]"],
        format!("{SOURCES}.filter(given, given).size() == 1"),
        CelMessage::Fixed,
        "give one source: configMap, secret, emptyDir, persistentVolumeClaim, projected or csi",
        |spec| {
            volumes(spec)
                .filter(|(_, volume)| volume.sources() != 1)
                .map(|(path, _)| Finding::at(path))
                .collect()
        },
    )
}

/// Stands at the spec, because it speaks of the handler and of the pod.
fn mounted_volume_exists() -> Rule {
    Rule {
        id: "mounted-volume-exists".to_owned(),
        fields: vec!["spec.handler.volumeMounts".to_owned()],
        message: "each must name a volume of spec.pod.volumes; add the volume, or correct the name"
            .to_owned(),
        cel: Cel::At {
            nodes: vec!["spec".to_owned()],
            rule: "!has(self.handler.volumeMounts) || self.handler.volumeMounts.all(mount, has(self.pod) && has(self.pod.volumes) && self.pod.volumes.exists(volume, volume.name == mount.name))".to_owned(),
            field_path: Some(".handler.volumeMounts".to_owned()),
            message: CelMessage::Fixed,
        },
        check: Box::new(|spec| {
            let known = |name: &str| volumes(spec).any(|(_, volume)| volume.name == name);
            let all_known = spec.handler.volume_mounts.iter().all(|mount| known(&mount.name));
            all_known
                .not()
                .then(|| Finding::at("spec.handler.volumeMounts"))
                .into_iter()
                .collect()
        }),
    }
}

fn volumes(spec: &KafkaConsumerSpec) -> impl Iterator<Item = (String, &Volume)> {
    let volumes = spec.pod.iter().flat_map(|pod| &pod.volumes);
    volumes
        .enumerate()
        .map(|(index, volume)| (format!("spec.pod.volumes[{index}]"), volume))
}
