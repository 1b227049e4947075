//! The control groups of a node: one by its name in each hierarchy of the machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Makes `name` in each hierarchy.
pub(in super::super) fn create(name: &str) -> io::Result<()> {
    for root in roots()? {
        fs::create_dir_all(root.join(name))?;
        delegate(&root);
    }
    Ok(())
}

/// Version 2: has the groups in `root` control what the machine can, as the kubelet
/// demands. It says what is missing when the system refuses.
fn delegate(root: &Path) {
    let available = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_whitespace() {
        let _ = fs::write(
            root.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
}

/// Processes in `name` and below.
pub(in super::super) fn processes(name: &str) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for root in roots()? {
        for dir in tree(&root.join(name)) {
            found.extend(members(&dir));
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Processes of the container `id` in `name`.
pub(in super::super) fn container(name: &str, id: &str) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for root in roots()? {
        let dirs = tree(&root.join(name)).into_iter();
        for dir in dirs.filter(|dir| dir.ends_with(id)) {
            found.extend(members(&dir));
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Removes `name` and what is below it, once no process is in it.
pub(in super::super) fn remove(name: &str) -> io::Result<()> {
    for root in roots()? {
        for dir in tree(&root.join(name)) {
            match fs::remove_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Where hierarchies are mounted: one of version 2, or several of version 1.
fn roots() -> io::Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let roots = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let path = words.next()?;
        let kind = words.next()?;
        (matches!(kind, "cgroup" | "cgroup2") && path.starts_with("/sys/fs/cgroup"))
            .then(|| path.into())
    });
    Ok(roots.collect())
}

/// Processes in the group at `dir` itself; none when it is gone.
fn members(dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let ids = text.lines().filter_map(|line| line.parse().ok());
    ids.collect()
}

/// The directories from the deepest to `dir` itself; none when it is not there.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let below = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut found: Vec<_> = below.flat_map(|entry| tree(&entry.path())).collect();
    found.push(dir.to_owned());
    found
}
