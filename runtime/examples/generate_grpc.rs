//! Writes the Rust code of the gRPC contract from its proto file:
//! `cargo run -p penstock-runtime --example generate_grpc`.

use std::error::Error;

#[path = "../proto/generate.rs"]
mod generate;

fn main() -> Result<(), Box<dyn Error>> {
    std::fs::write(generate::root().join(generate::FILE), generate::rust()?)?;
    Ok(())
}
