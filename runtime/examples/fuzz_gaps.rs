//! A fuzz target: reads standard input as a commit's metadata, and ends well.
//!
//! ```text
//! cargo afl build --package penstock-runtime --example fuzz_gaps
//! cargo afl fuzz -i seeds -o found target/debug/examples/fuzz_gaps
//! ```
//!
//! The first byte says how the rest is taken: as the text itself, or as what the
//! text's checksum covers, for a fuzzer seldom finds a checksum.

use std::io::Read as _;

use penstock_runtime::gaps::{Gaps, METADATA_LIMIT, sealed};

fn main() -> std::io::Result<()> {
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input)?;
    let Some((kind, rest)) = input.split_first() else {
        return Ok(());
    };
    let text = match kind % 2 {
        0 => rest.to_vec(),
        _ => sealed(rest).into_bytes(),
    };
    let committed = i64::from(kind / 2);
    if let Ok(Some(gaps)) = Gaps::decode(&text, committed) {
        check(&gaps);
    }
    Ok(())
}

/// What was read is written, and read again, as the same.
fn check(gaps: &Gaps) {
    let text = gaps.encode(usize::MAX);
    let again = Gaps::decode(text.as_bytes(), gaps.base());
    assert_eq!(
        again,
        Ok(Some(gaps.clone()).filter(|gaps| !gaps.is_empty()))
    );
    assert!(gaps.encode(METADATA_LIMIT).len() <= METADATA_LIMIT);
}
