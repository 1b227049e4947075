// Makes the Rust code of the gRPC contract. Shared by the example that writes it and
// the test that it is up to date.

use std::error::Error;
use std::path::{Path, PathBuf};

/// The generated file, from this crate's root.
pub const FILE: &str = "../sdk/rust/src/v1.rs";

/// The file that the generator names after the package.
const PACKAGE: &str = "penstock.handler.v1.rs";

const HEAD: &str = "\
// Generated from proto/penstock/handler/v1/handler.proto; do not edit.
// Regenerate: cargo run -p penstock-runtime --example generate_grpc

";

/// This crate's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// What the file must hold.
pub fn rust() -> Result<String, Box<dyn Error>> {
    let proto = root().join("proto");
    let files = protox::compile(["penstock/handler/v1/handler.proto"], [&proto])?;
    let out = tempfile::tempdir()?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .bytes(".")
        .out_dir(out.path())
        .compile_fds(files)?;
    let code = std::fs::read_to_string(out.path().join(PACKAGE))?;
    Ok(format!("{HEAD}{code}"))
}
