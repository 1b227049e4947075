//! A fuzz target: reads standard input as what a BatchHttp handler answers, and ends well.
//!
//! ```text
//! cargo afl build --package penstock-runtime --example fuzz_http
//! cargo afl fuzz -i seeds -o found target/debug/examples/fuzz_http
//! ```
//!
//! The first byte says how many messages the batch had, and whether the rest is a whole
//! answer or the body of one, for a fuzzer seldom finds the right length.

use std::io::Read as _;

use penstock_runtime::handler::http::hear;

fn main() -> std::io::Result<()> {
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input)?;
    let Some((kind, rest)) = input.split_first() else {
        return Ok(());
    };
    let count = usize::from(kind / 2);
    let answer = match kind % 2 {
        0 => rest.to_vec(),
        _ => {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ";
            let head = format!("{head}{}\r\n\r\n", rest.len());
            [head.as_bytes(), rest].concat()
        }
    };
    let whole = hear([&answer], count);
    assert!(whole.len() <= count);
    assert_eq!(hear(answer.chunks(1), count), whole);
    Ok(())
}
