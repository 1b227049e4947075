//! Images of one layer, written as `docker save` writes them, which containerd
//! imports: no other tool is needed, and it takes no more than copying the files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// The user that images run as, which needs no name on the machine.
const USER: &str = "65532:65532";

/// An image that is being put together.
#[derive(Debug, Default)]
pub(super) struct Archive {
    files: Vec<(PathBuf, PathBuf)>,
    temporary: bool,
}

impl Archive {
    /// Puts the file `from` at the path `at` of the image.
    pub(super) fn file(&mut self, at: impl Into<PathBuf>, from: impl Into<PathBuf>) {
        self.files.push((at.into(), from.into()));
    }

    /// Gives it a directory for temporary files.
    pub(super) fn temporary(&mut self) {
        self.temporary = true;
    }

    /// Writes the image `name` to `path`; it runs `program`.
    pub(super) fn write(&self, path: &Path, name: &str, program: &str) -> io::Result<()> {
        let layer = self.layer()?;
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Entrypoint": [program], "User": USER, "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))] },
            "history": [{ "created_by": "penstock-tests" }],
        })
        .to_string();
        let config_name = format!("{}.json", digest(config.as_bytes()));
        let manifest = json!([{
            "Config": config_name,
            "RepoTags": [name],
            "Layers": ["layer.tar"],
        }])
        .to_string();

        let mut archive = tar::Builder::new(File::create(path)?);
        append(
            &mut archive,
            Path::new(&config_name),
            0o644,
            config.as_bytes(),
        )?;
        append(&mut archive, Path::new("layer.tar"), 0o644, &layer)?;
        append(
            &mut archive,
            Path::new("manifest.json"),
            0o644,
            manifest.as_bytes(),
        )?;
        archive.into_inner()?.flush()
    }

    fn layer(&self) -> io::Result<Vec<u8>> {
        let mut layer = tar::Builder::new(Vec::new());
        for dir in self.dirs() {
            append_dir(&mut layer, &dir, 0o755)?;
        }
        if self.temporary {
            append_dir(&mut layer, Path::new("tmp"), 0o1777)?;
        }
        for (at, from) in &self.files {
            let bytes = fs::read(from).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", from.display()))
            })?;
            append(&mut layer, inside(at), 0o755, &bytes)?;
        }
        layer.into_inner()
    }

    /// All directories that the files are in, the outer before the inner.
    fn dirs(&self) -> BTreeSet<PathBuf> {
        let ancestors = self
            .files
            .iter()
            .flat_map(|(at, _)| inside(at).ancestors().skip(1));
        ancestors
            .filter(|dir| !dir.as_os_str().is_empty())
            .map(Path::to_owned)
            .collect()
    }
}

/// A path of the image as archives have it.
fn inside(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn append_dir<W: Write>(to: &mut tar::Builder<W>, path: &Path, mode: u32) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Directory);
    header.set_mode(mode);
    header.set_size(0);
    to.append_data(&mut header, path, io::empty())
}

fn append<W: Write>(
    to: &mut tar::Builder<W>,
    path: &Path,
    mode: u32,
    bytes: &[u8],
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(mode);
    header.set_size(u64::try_from(bytes.len()).map_err(io::Error::other)?);
    to.append_data(&mut header, path, bytes)
}

fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// This machine's, by the name that images have for it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn entries(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut archive = tar::Archive::new(bytes);
        let read = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mode = entry.header().mode().unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (path, mode, content)
        });
        read.collect()
    }

    #[test]
    fn the_layer_is_what_the_manifest_names_and_the_same_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("program");
        fs::write(&source, "run").unwrap();
        let mut image = Archive::default();
        image.file("/usr/bin/program", &source);
        image.temporary();
        let path = dir.path().join("image.tar");
        image
            .write(&path, "registry.example/a:1", "/usr/bin/program")
            .unwrap();

        let written = fs::read(&path).unwrap();
        let outer = entries(&written);
        let find = |name: &str| {
            let found = outer.iter().find(|(path, ..)| path == name);
            found.unwrap().2.clone()
        };
        let manifest: serde_json::Value = serde_json::from_slice(&find("manifest.json")).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "registry.example/a:1");
        let config = find(manifest[0]["Config"].as_str().unwrap());
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        let layer = find("layer.tar");
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            format!("sha256:{}", digest(&layer))
        );
        let inner: Vec<_> = entries(&layer)
            .into_iter()
            .map(|(path, mode, content)| (path, mode, content.len()))
            .collect();
        let expected = [
            ("usr", 0o755, 0),
            ("usr/bin", 0o755, 0),
            ("tmp", 0o1777, 0),
            ("usr/bin/program", 0o755, 3),
        ];
        assert_eq!(
            inner,
            expected.map(|(path, mode, size)| (path.to_owned(), mode, size))
        );

        image
            .write(&path, "registry.example/a:1", "/usr/bin/program")
            .unwrap();
        assert_eq!(fs::read(&path).unwrap(), written);
    }
}
