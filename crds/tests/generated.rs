//! The generated files are those that the code generates.

use std::path::Path;

#[test]
fn the_generated_files_are_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (path, text) in penstock_crds::generated::files() {
        let committed = std::fs::read_to_string(root.join(path)).unwrap();
        assert!(
            committed == text,
            "{path} is out of date: run cargo run -p penstock-crds --bin generate"
        );
    }
}

#[test]
fn the_crd_is_small_enough_for_client_side_apply() {
    // kubectl keeps the whole object in an annotation of at most 256 KiB.
    let crd = serde_json::to_string(&penstock_crds::crd::crd()).unwrap();
    assert!(crd.len() < 200_000, "{}", crd.len());
}

#[test]
fn the_reference_names_every_field_of_the_spec_and_every_rule() {
    let page = penstock_crds::reference::markdown();
    for field in [
        "group",
        "maxConcurrency",
        "bootstrapServers",
        "deadLetterTopic",
        "socket",
    ] {
        assert!(page.contains(&format!("| `{field}` |")), "{field}");
    }
    for rule in penstock_crds::rules::all() {
        assert!(
            page.contains(&rule.message),
            "{}: {}",
            rule.id,
            rule.message
        );
    }
}
