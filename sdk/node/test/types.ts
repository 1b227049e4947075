// Compiled, and not run: the types are as the documentation uses them.
import { DeadLetter, Retry, Skip, serve, type Handler, type Interceptor } from "penstock";
import { FakeRuntime, handle, message } from "penstock/testing";

const handler: Handler = async (one) => {
  if (one.value === null) {
    return new Skip("a tombstone");
  }
  const order: { amount: number } = one.json();
  if (order.amount < 0) {
    throw new DeadLetter("negative amount");
  }
  const remaining: number = one.extend(1000);
  one.produce({ topic: "totals", key: one.key, value: JSON.stringify(order), headers: [["a", "b"]] });
  await fetch("http://localhost", { signal: one.signal }).catch((cause) => {
    throw new Retry("busy", { delayMs: remaining, cause });
  });
};

const measure: Interceptor = (next) => async (one) => {
  const verdict = await next(one);
  console.log(one.idempotencyKey);
  return verdict;
};

await serve(handler, { concurrency: 4, interceptors: [measure] });
const verdict = await handle(handler, message({ amount: 1 }, { key: "k" }));
console.log(verdict.outcome === "done", verdict.produced[0]?.value?.toString());
const runtime = new FakeRuntime(handler, { order: "key" });
const [first] = runtime.send(message("{}"));
await first?.begun;
// @ts-expect-error a handler returns nothing or a verdict
const wrong: Handler = async () => 7;
void wrong;
