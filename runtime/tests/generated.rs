//! The generated code is what the proto file gives.

#[path = "../proto/generate.rs"]
mod generate;

#[test]
fn the_generated_code_is_up_to_date() {
    let committed = std::fs::read_to_string(generate::root().join(generate::FILE)).unwrap();
    assert!(
        committed == generate::rust().unwrap(),
        "{} is out of date: run cargo run -p penstock-runtime --example generate_grpc",
        generate::FILE
    );
}
