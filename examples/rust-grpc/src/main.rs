//! Handles orders that the runtime sends over gRPC.

#![forbid(unsafe_code)]

use std::error::Error;

use penstock_handler::signals::stop_on_signal;
use penstock_handler::{Delivered, HandlerError, Server};
use serde::Deserialize;

#[derive(Deserialize)]
struct Order {
    id: u64,
    amount: f64,
}

async fn handle(message: Delivered) -> Result<(), HandlerError> {
    let value = message.value.as_deref().unwrap_or_default();
    // What is no order now will never be one.
    let order: Order = serde_json::from_slice(value).map_err(HandlerError::permanent)?;
    if order.amount < 0.0 {
        return Err(HandlerError::dead_letter(format_args!(
            "order {} has a negative amount",
            order.id
        )));
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    Server::from_env()?.run(handle, stop_on_signal()?).await?;
    Ok(())
}
