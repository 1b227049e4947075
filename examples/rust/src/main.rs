//! A handler embedded in its consumer: no request, one call a message.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use penstock_runtime::decode::Json;
use penstock_runtime::handler::{HandlerError, handler_fn};
use penstock_runtime::record::Message;
use serde::Deserialize;

static HANDLED: AtomicU64 = AtomicU64::new(0);

#[derive(Deserialize)]
struct Order {
    id: u64,
    amount: f64,
}

/// The work. Return `HandlerError::retryable` for what may pass.
fn handle(order: &Order) -> Result<(), HandlerError> {
    if order.amount < 0.0 {
        return Err(HandlerError::permanent("an amount is not negative"));
    }
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let handler = handler_fn(|order: Message<'_, Order>| {
        let handled = handle(order.data());
        let number = HANDLED.fetch_add(1, Ordering::Relaxed) + 1;
        if number.is_multiple_of(10_000) {
            let (topic, partition, offset) = (order.topic(), order.partition(), order.offset());
            let id = order.data().id;
            println!("{number} orders, the last from {topic}/{partition}@{offset}: {id}");
        }
        async { handled }
    });
    penstock_runtime::run_main(Json::new(), handler).await
}
