//! A fuzz target: reads standard input as what a Grpc handler says, and ends well.
//!
//! ```text
//! cargo afl build --package penstock-runtime --example fuzz_grpc
//! cargo afl fuzz -i seeds -o found target/debug/examples/fuzz_grpc
//! ```
//!
//! The first byte says how many deliveries were sent. Then come messages, each after a
//! byte that is its length; the last has what is left.

use std::io::Read as _;

use penstock_runtime::handler::grpc::hear;

/// Most credits that the runtime keeps.
const MOST_CREDITS: usize = 1 << 24;

fn main() -> std::io::Result<()> {
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input)?;
    let Some((count, mut rest)) = input.split_first() else {
        return Ok(());
    };
    let batches = [usize::from(count % 16), usize::from(count / 16)];
    let batches: Vec<_> = batches.into_iter().filter(|count| *count > 0).collect();
    let mut words = Vec::new();
    while let Some((length, behind)) = rest.split_first() {
        let (word, next) = behind.split_at(behind.len().min(usize::from(*length)));
        words.push(word);
        rest = next;
    }
    let heard = hear(&batches, &words);
    assert_eq!(heard.verdicts.len(), batches.iter().sum::<usize>());
    assert!(heard.credits <= MOST_CREDITS);
    // What is said first of a delivery stands, whatever follows.
    let before = hear(&batches, &words[..words.len() / 2]);
    for (first, last) in before.verdicts.iter().zip(&heard.verdicts) {
        assert!(first.is_none() || first == last);
    }
    Ok(())
}
