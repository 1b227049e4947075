//! The images of a test cluster, made from what cargo built and from the examples.
//!
//! There is no base image: an image holds a program and the libraries that `ldd`
//! lists, at the places where this machine has them.

mod archive;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ClusterError, command};
use crate::process::find_binary;
use archive::Archive;

/// containerd's name for what Kubernetes has of it.
pub(super) const NAMESPACE: &str = "k8s.io";

/// What holds a pod's namespaces.
pub(super) const PAUSE: &str = "registry.example/pause:test";

const PAUSE_SOURCE: &str = include_str!("../../kubernetes/pause.c");

/// The root of the workspace.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Files that programs look for besides their libraries: authorities that they
/// trust, and OpenSSL's settings.
const COMMON: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/openssl.cnf",
    "/usr/lib/ssl/openssl.cnf",
];

/// An image of a test cluster.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// Its name without registry and tag, also that of its program.
    pub name: &'static str,
    source: Source,
    /// A cluster comes up without it when its program has not been built.
    optional: bool,
}

/// What an image is made from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// The binary of that name in this workspace.
    Cargo,
    /// A directory of this repository with a Go program in it.
    Go(&'static str),
}

/// All images that a cluster has.
pub const IMAGES: [Image; 5] = [
    Image {
        name: "penstock-runtime",
        source: Source::Cargo,
        optional: false,
    },
    Image {
        name: "penstock-operator",
        source: Source::Cargo,
        optional: true,
    },
    Image {
        name: "penstock-test-handler",
        source: Source::Cargo,
        optional: false,
    },
    Image {
        name: "orders-rust",
        source: Source::Cargo,
        optional: false,
    },
    Image {
        name: "orders-go",
        source: Source::Go("examples/go"),
        optional: false,
    },
];

impl Image {
    /// As a pod names it: `registry.example/NAME:test`. No such registry exists, so
    /// the pull policy must be `IfNotPresent`, which it is by default.
    pub fn reference(&self) -> String {
        format!("registry.example/{}:test", self.name)
    }
}

/// An image as a file that containerd imports.
pub(super) struct Written {
    pub(super) reference: String,
    pub(super) archive: PathBuf,
}

/// Writes all images that can be made to files in `dir`, the pause image first.
pub(super) fn write_all(dir: &Path) -> Result<Vec<Written>, ClusterError> {
    fs::create_dir_all(dir).map_err(ClusterError::io(dir.display().to_string()))?;
    let mut written = vec![write_pause(dir)?];
    for image in IMAGES {
        if image.optional
            && matches!(image.source, Source::Cargo)
            && find_binary(image.name).is_err()
        {
            continue;
        }
        let program = image.program(dir)?;
        written.push(write(dir, &program, image.reference())?);
    }
    Ok(written)
}

impl Image {
    /// Its program, without what debuggers need, which is most of its size.
    fn program(&self, dir: &Path) -> Result<PathBuf, ClusterError> {
        let program = dir.join(self.name);
        match self.source {
            Source::Cargo => command::run(
                Command::new("strip")
                    .args(["--strip-debug", "-o"])
                    .arg(&program)
                    .arg(find_binary(self.name)?),
            )?,
            Source::Go(source) => command::run(
                Command::new("go")
                    .args([
                        "build",
                        "-trimpath",
                        "-buildvcs=false",
                        "-ldflags=-s -w",
                        "-o",
                    ])
                    .arg(&program)
                    .arg(".")
                    .current_dir(Path::new(ROOT).join(source))
                    .env("CGO_ENABLED", "0"),
            )?,
        };
        Ok(program)
    }
}

fn write_pause(dir: &Path) -> Result<Written, ClusterError> {
    let source = dir.join("pause.c");
    fs::write(&source, PAUSE_SOURCE).map_err(ClusterError::io(source.display().to_string()))?;
    let program = dir.join("pause");
    command::run(
        Command::new("cc")
            .args(["-Os", "-static", "-s", "-o"])
            .arg(&program)
            .arg(&source),
    )?;
    write(dir, &program, PAUSE.to_owned())
}

fn write(dir: &Path, program: &Path, reference: String) -> Result<Written, ClusterError> {
    let name = program.file_name().unwrap_or_default();
    let at = Path::new("/").join(name);
    let mut archive = Archive::default();
    let libraries = libraries(program);
    if !libraries.is_empty() {
        for common in COMMON
            .map(Path::new)
            .into_iter()
            .filter(|path| path.exists())
        {
            archive.file(common, common);
        }
    }
    for library in libraries {
        archive.file(&library, &library);
    }
    archive.temporary();
    archive.file(&at, program);

    let path = dir.join(name).with_extension("tar");
    archive
        .write(&path, &reference, &at.to_string_lossy())
        .map_err(ClusterError::io(path.display().to_string()))?;
    Ok(Written {
        reference,
        archive: path,
    })
}

/// The libraries of a program and what loads them; none of one that is static, which
/// `ldd` refuses.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let listed = command::run(Command::new("ldd").arg(program)).unwrap_or_default();
    let paths = listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    paths.map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_comes_with_its_libraries_and_their_loader() {
        let own = std::env::current_exe().unwrap();
        let libraries = libraries(&own);
        let has = |part: &str| {
            let mut names = libraries.iter().map(|path| path.to_string_lossy());
            names.any(|name| name.contains(part))
        };
        assert!(has("libc.so"), "{libraries:?}");
        assert!(has("ld-linux"), "{libraries:?}");
        assert!(libraries.iter().all(|path| path.is_file()), "{libraries:?}");
    }
}
