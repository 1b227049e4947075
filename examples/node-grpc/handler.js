// A Penstock handler over gRPC: what is thrown is the verdict.

import { DeadLetter, Fail, serve } from "penstock";

let handled = 0;

function handle(message) {
  let order;
  try {
    order = message.json();
  } catch (error) {
    throw new Fail(error); // another attempt would not help
  }
  if (order.amount < 0) {
    throw new DeadLetter(`order ${order.id} has a negative amount`);
  }
  if (++handled % 10_000 === 0) {
    console.log(`${handled} orders, the last ${message.idempotencyKey}:`, order);
  }
}

await serve(handle);
