//! Writes the metrics reference, `docs/metrics.md`.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    std::fs::write(path, penstock_runtime::metrics_reference::markdown()?)?;
    Ok(())
}
