//! Writes the files that are generated from the types and rules: the CRD and the
//! configuration reference. Run it from anywhere in the repository:
//! `cargo run -p penstock-crds --bin generate`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (path, text) in penstock_crds::generated::files() {
        let path = root.join(path);
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(path, text)?;
    }
    Ok(())
}
