import assert from "node:assert/strict";
import { test } from "node:test";
import { DeadLetter, Fail, Retry, SettledError, Skip } from "penstock";
import { FakeRuntime, handle, message } from "penstock/testing";
import { Answers } from "../src/answers.js";
import { sizeOf } from "../src/contract.js";

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const outcomes = async (sent) => (await Promise.all(sent.map(({ verdict }) => verdict))).map(({ outcome }) => outcome);
const keyed = (...keys) => keys.map((key, index) => message(String(index), { key: key === "" ? null : key }));

/** A promise with its resolve function. */
function gate() {
  let open;
  const opened = new Promise((resolve) => (open = resolve));
  return { opened, open };
}

test("the first answer says who the handler is", async () => {
  const runtime = new FakeRuntime(() => {});
  await runtime.until(() => runtime.welcome !== undefined);
  assert.equal(runtime.welcome.version, 2);
  assert.equal(runtime.welcome.sdkName, "penstock-node");
  assert.deepEqual(runtime.welcome.orders, ["ORDER_UNSPECIFIED", "ORDER_BATCH", "ORDER_KEY"]);
  assert.deepEqual(runtime.welcome.features, ["FEATURE_BEGUN", "FEATURE_EXTEND", "FEATURE_CANCEL"]);
  await runtime.stop();
});

test("an order that is not known is refused with the remedy", async () => {
  const runtime = new FakeRuntime(() => {}, { order: 77 });
  await runtime.ended;
  assert.equal(runtime.welcome.sdkName, "penstock-node");
  assert.equal(runtime.error.code, 9);
  assert.match(runtime.error.message, /does not know the order 77 that consumer kafka_consumer.test needs; update the SDK/);
});

const hostile = {
  "it returns nothing": [() => {}, "done", ""],
  "it resolves to null": [async () => null, "done", ""],
  "it throws": [() => { throw new Error("busy"); }, "retry", "Error: busy"],
  "it rejects": [async () => { throw new Error("busy"); }, "retry", "Error: busy"],
  "it throws a verdict": [() => { throw new Skip("old"); }, "skip", "old"],
  "it returns a verdict": [async () => new DeadLetter("negative"), "deadLetter", "negative"],
  "its verdict is a cause": [() => { throw new Error("order 7", { cause: new Fail("no amount") }); }, "fail", "Error: order 7"],
  "its verdict is one of several": [() => { throw new AggregateError([new Error("a"), new Skip("old")], "two"); }, "skip", "AggregateError: two"],
  "its causes are a circle": [() => { const error = new Error("a"); error.cause = error; throw error; }, "retry", "Error: a"],
  "it throws nothing": [() => { throw undefined; }, "retry", "the handler threw undefined"],
  "it throws a symbol": [() => { throw Symbol("a"); }, "retry", "the handler threw Symbol(a)"],
  "it throws an object that throws": [() => { throw { toString() { throw new Error("no"); } }; }, "retry", "the handler threw an object whose properties throw"],
  "it throws an object without a prototype": [() => { throw Object.create(null); }, "retry", "the handler threw an object whose properties throw"],
  "its verdict is a proxy that throws": [() => { throw new Proxy({}, { get() { throw new Error("no"); } }); }, "retry", "the handler threw an object whose properties throw"],
  "it returns a value": [() => ({ status: "failed" }), "retry", /the handler returned an object/],
  "it is a generator, which does not run": [function* () { yield 1; }, "retry", /the handler returned an object \(\[object Generator\]\)/],
  "its promise is no promise": [() => ({ then: (resolve) => resolve() }), "done", ""],
  "its promise rejects twice": [() => ({ then: (_, reject) => { reject(new Error("a")); reject(new Error("b")); } }), "retry", "Error: a"],
  "its promise throws": [() => ({ then() { throw new Error("a"); } }), "retry", "Error: a"],
  "its reason is huge": [() => { throw new Error("a".repeat(4 << 20)); }, "retry", /^Error: a{16000,16400}…$/],
  "its reason is no text": [() => { throw new Fail("\ud800"); }, "fail", /^(\ufffd|\ud800)$/],
  "its topic is no topic": [(one) => { try { one.produce({ topic: "a b" }); } catch {} }, "fail", "a b is no name of a topic"],
  "its record is no record": [(one) => { try { one.produce({ topic: "a", value: 7 }); } catch {} }, "fail", "the value is neither a string nor a Uint8Array"],
  "it floods produce": [(one) => { for (let i = 0; i < 20_000; i++) { try { one.produce({ topic: "a", value: Buffer.alloc(1024) }); } catch {} } }, "fail", "the records of one message exceed 15 MiB"],
  "it changes its message": [(one) => { one.key = null; one.topic = ""; one.headers = null; }, "done", ""],
  "a timer of its throws": [async () => { setTimeout(() => { throw new Error("from a timer"); }, 1); await new Promise(() => {}); }, "retry", "Error: from a timer"],
  "a promise of its is not awaited": [async () => { void Promise.reject(new Error("not awaited")); await new Promise(() => {}); }, "retry", "Error: not awaited"],
  "an emitter of its throws": [async () => { process.nextTick(() => { throw new Error("from a tick"); }); await new Promise(() => {}); }, "retry", "Error: from a tick"],
  "it blocks until it is aborted": [(one) => new Promise((_, reject) => one.signal.addEventListener("abort", () => reject(one.signal.reason))), "retry", /TimeoutError: the time of the attempt is over/],
};

for (const [name, [handler, outcome, reason]] of Object.entries(hostile)) {
  for (const order of ["any", "key", "batch"]) {
    test(`whatever a handler does is a verdict, and stops no other: ${name}, ${order}`, async (t) => {
      const uncaught = await caught(t);
      const runtime = new FakeRuntime((one) => (one.value.length > 0 ? handler(one) : undefined), { order, concurrency: 1, timeoutMs: 200 });
      for (let round = 0; round < 2; round++) {
        const verdict = await runtime.send(message("hostile", { key: "a" }))[0].verdict;
        assert.equal(verdict.outcome, outcome);
        assert.match(verdict.reason, typeof reason === "string" ? new RegExp(`^${reason.replaceAll(/[()]/g, "\\$&")}$`) : reason);
        assert.deepEqual(verdict.produced, []);
        assert.deepEqual(await outcomes(runtime.send(message("", { key: "b" }))), ["done"]);
      }
      await runtime.stop();
      uncaught();
    });
  }
}

/** Has uncaught errors be verdicts, as serve does; node's test runner has listeners of its own. */
async function caught() {
  const { watchErrors } = await import("../src/server.js");
  const others = ["uncaughtException", "unhandledRejection"].map((event) => [event, process.listeners(event)]);
  others.forEach(([event]) => process.removeAllListeners(event));
  const end = watchErrors({ log: { error(text) { throw new Error(text); } } });
  return () => {
    end();
    others.forEach(([event, listeners]) => listeners.forEach((listener) => process.on(event, listener)));
  };
}

test("messages of a key keep their order in every mode", async () => {
  for (const order of ["any", "key", "batch"]) {
    const at = new Set();
    const last = new Map();
    const runtime = new FakeRuntime(async (one) => {
      const key = String(one.key);
      assert(!at.has(key) && (last.get(key) ?? -1) < Number(one.value));
      at.add(key);
      last.set(key, Number(one.value));
      await pause(5);
      at.delete(key);
    }, { order });
    const messages = keyed("a", "b", "a", "c", "b", "a");
    const sent = runtime.send(...messages.slice(0, 3));
    await sent[0].begun;
    sent.push(...runtime.send(...messages.slice(3)));
    assert.deepEqual(await outcomes(sent), Array(6).fill("done"));
    await runtime.stop();
  }
});

test("in order nothing of a batch begins behind a failure", async () => {
  const begun = [];
  const runtime = new FakeRuntime((one) => {
    begun.push(Number(one.value));
    if (begun.length === 2) throw new Skip("old");
    if (begun.length === 4) throw new Fail("no amount");
  }, { order: "batch" });
  const sent = runtime.send(...keyed("a", "a", "b", "", "", "c"));
  assert.deepEqual(await outcomes(sent), ["done", "skip", "done", "fail", "release", "release"]);
  assert.deepEqual(begun, [0, 1, 2, 3]);
  assert.deepEqual(await outcomes(runtime.send(message())), ["done"]);
  await runtime.stop();
});

test("nothing of a key begins behind a failure in its batch", async () => {
  const runtime = new FakeRuntime((one) => {
    if (String(one.value) === "0") throw new Skip("old");
    if (["1", "7"].includes(String(one.value))) throw new Error("busy");
  }, { order: "key" });
  const messages = keyed("a", "a", "b", "a", "a", "a", "", "x", "x", "");
  messages[5].partition = 1;
  messages[7].key = messages[8].key = Buffer.alloc(0);
  const wanted = ["skip", "retry", "done", "release", "release", "done", "done", "retry", "release", "done"];
  assert.deepEqual(await outcomes(runtime.send(...messages)), wanted);
  await runtime.stop();
});

test("a cancelled message of a key holds back those behind it in its batch", async () => {
  const { opened, open } = gate();
  const runtime = new FakeRuntime((one) => (String(one.value) === "0" ? opened : undefined), { order: "key" });
  const sent = runtime.send(...keyed("a", "a"));
  await sent[0].begun;
  runtime.cancel("timedOut", sent[0]);
  open();
  assert.deepEqual(await outcomes([sent[1]]), ["release"]);
  assert.equal(sent[0].isSettled, false);
  await runtime.stop();
});

test("begun is reported when a call starts", async () => {
  const { opened, open } = gate();
  const runtime = new FakeRuntime(() => opened, { concurrency: 2 });
  const sent = runtime.send(...keyed("", "", ""));
  await Promise.all([sent[0].begun, sent[1].begun]);
  assert.equal(sent[2].hasBegun, false);
  open();
  assert.deepEqual(await outcomes(sent), Array(3).fill("done"));
  await runtime.stop();
});

test("a stop finishes what runs and releases the rest at once", async () => {
  const { opened, open } = gate();
  const runtime = new FakeRuntime(() => opened, { concurrency: 2 });
  const sent = runtime.send(...keyed("", "", "", "a", "a"));
  await sent[1].begun;
  const stopped = runtime.stop();
  assert.deepEqual(await outcomes(sent.slice(2)), Array(3).fill("release"));
  open();
  assert.deepEqual(await outcomes(sent.slice(0, 2)), ["done", "done"]);
  await stopped;
  assert.equal(runtime.error, undefined);
});

test("a stop does not wait beyond the deadline", async () => {
  const runtime = new FakeRuntime(() => new Promise(() => {}), { timeoutMs: 50 });
  await runtime.send(message())[0].begun;
  await runtime.stop();
});

test("when the runtime ends its side, what it sent is done first", async () => {
  const runtime = new FakeRuntime(() => pause(5), { concurrency: 2 });
  const sent = runtime.send(...keyed("", "a", "a", "a", ""));
  runtime.close();
  await runtime.ended;
  assert.deepEqual(await outcomes(sent), Array(5).fill("done"));
  await runtime.stop();
});

test("what did not begin in time is released", async () => {
  const late = new FakeRuntime(() => {});
  assert.deepEqual(await outcomes(late.sendBy(Date.now() - 1000, ...keyed("", "a"))), ["release", "release"]);
  await late.stop();
  // As the runtime says, and when the clock has gone back.
  for (const [waitMs, beginBy] of [[60_000, 30], [30, 60_000]]) {
    const { opened, open } = gate();
    const runtime = new FakeRuntime(() => opened, { concurrency: 1, waitMs });
    const sent = runtime.sendBy(Date.now() + beginBy, ...keyed("a", "a", ""));
    assert.deepEqual(await outcomes(sent.slice(1)), ["release", "release"]);
    open();
    assert.deepEqual(await outcomes(sent.slice(0, 1)), ["done"]);
    await runtime.stop();
  }
});

test("cancellation reaches the calls that are named, and returns the credits", async () => {
  const aborted = gate();
  const { opened, open } = gate();
  const runtime = new FakeRuntime(async (one) => {
    if (String(one.value) === "0") {
      one.signal.addEventListener("abort", () => aborted.open(one.signal.reason.name));
      await aborted.opened;
    } else {
      await opened;
    }
  }, { concurrency: 2 });
  const sent = runtime.send(...keyed("", "", "", "", ""));
  await sent[1].begun;
  await pause(5);
  const { credits } = runtime;
  runtime.cancel("revoked", sent[0], sent[2], sent[4]);
  assert.equal(await aborted.opened, "AbortError");
  open();
  assert.deepEqual(await outcomes([sent[1], sent[3]]), ["done", "done"]);
  await runtime.until(() => runtime.credits >= credits + 5);
  assert.deepEqual([sent[0], sent[2], sent[4]].map(({ isSettled }) => isSettled), [false, false, false]);
  await runtime.stop();
});

test("extend moves the deadline within its limit", async () => {
  const given = [];
  const runtime = new FakeRuntime(async (one) => {
    for (let part = 0; part < 3; part++) {
      await pause(200);
      given.push(one.extend(1000));
    }
    given.push(one.extend(60_000));
    await new Promise((_, reject) => one.signal.addEventListener("abort", () => reject(one.signal.reason)));
  }, { timeoutMs: 1000, maxTimeoutMs: 2500 });
  const began = performance.now();
  const [sent] = runtime.send(message());
  assert.equal((await sent.verdict).outcome, "retry");
  assert(performance.now() - began >= 2495);
  assert.equal(sent.extensions.length, 4);
  // Sums of fractions of milliseconds.
  assert(given[2] > 999 && given[3] > 1000 && given[3] <= 1900, String(given));
  await runtime.stop();
});

test("a new stream begins when the calls of the old one have ended", async () => {
  const { opened, open } = gate();
  const started = gate();
  let isAtWork = false;
  const runtime = new FakeRuntime(async (one) => {
    assert.equal(isAtWork, false);
    if (String(one.value) === "first") {
      isAtWork = true;
      started.open();
      await opened;
      isAtWork = false;
    }
  });
  runtime.send(message("first", { key: "a" }));
  await started.opened;
  runtime.reconnect();
  const sent = runtime.feed(message("second", { key: "a" }));
  await runtime.until(() => runtime.welcome !== undefined);
  await pause(20);
  assert.equal(runtime.credits, 0);
  open();
  assert.deepEqual(await outcomes(await sent), ["done"]);
  await runtime.stop();
});

test("records to produce come with their message, and are copied", async () => {
  const value = Buffer.from("1");
  const { produced } = await handle((one) => {
    one.produce({ topic: "totals", key: one.key, value, headers: [["a", "x"], ["b"]], timestamp: new Date(5), partition: 2 });
    one.produce({ topic: "gone" });
    value[0] = 0;
  }, message("{}", { key: "customer-7" }));
  assert.deepEqual(produced, [
    { topic: "totals", partition: 2, key: Buffer.from("customer-7"), value: Buffer.from("1"), headers: [["a", Buffer.from("x")], ["b", null]], timestamp: new Date(5) },
    { topic: "gone", partition: undefined, key: null, value: null, headers: [], timestamp: undefined },
  ]);
  let late;
  await handle((one) => { late = one; }, message());
  assert.throws(() => late.produce({ topic: "late" }), SettledError);
  assert.equal(late.extend(1000), 0);
});

test("a message comes as it was built", async () => {
  const sent = message(null, { key: "k", topic: "orders", partition: 3, epoch: 7n, offset: 2n ** 60n, attempt: 2, headers: [["a", Buffer.from("1")], ["b", null], ["a", Buffer.alloc(0)]] });
  let got;
  await handle((one) => { got = one; }, sent);
  assert.deepEqual(JSON.parse(JSON.stringify(got)), JSON.parse(JSON.stringify(sent)));
  assert.equal(got.idempotencyKey, `test/orders/3/${2n ** 60n}`);
  assert.equal(got.value, null);
  assert.deepEqual(got.header("a"), Buffer.alloc(0));
  assert.equal(got.header("c"), undefined);
});

test("interceptors wrap each call, the first outermost", async () => {
  const calls = [];
  const wrap = (name) => (next) => async (one) => {
    calls.push(name);
    return next(one);
  };
  const verdict = await handle(() => { throw new Retry("busy", { delayMs: 1500 }); }, message(), { interceptors: [wrap("a"), wrap("b")] });
  assert.deepEqual(verdict, { outcome: "retry", reason: "busy", delayMs: 1500, produced: [] });
  assert.deepEqual(calls, ["a", "b"]);
});

test("mistakes in the arguments are errors", () => {
  for (const [handler, options] of [[undefined], [() => {}, { concurrency: 0 }], [() => {}, { window: 1.5 }], [() => {}, { interceptors: [() => undefined] }]]) {
    assert.throws(() => new FakeRuntime(handler, options));
  }
  assert.throws(() => new Retry("busy", { delayMs: -1 }), RangeError);
});

test("credits start small and follow the rate", async () => {
  const slow = new FakeRuntime(() => pause(20), { concurrency: 2 });
  await slow.until(() => slow.credits > 0);
  assert.equal(slow.credits, 2);
  await outcomes(await slow.feed(...keyed(...Array(60).fill(""))));
  await slow.until(() => slow.credits > 10);
  assert(slow.credits <= 202, String(slow.credits));
  await slow.stop();
});

test("each delivery returns its credit, within the window", async () => {
  for (const order of ["any", "key", "batch"]) {
    const runtime = new FakeRuntime((one) => {
      if (String(one.value) === "0") throw new Error("busy");
    }, { order, window: 3 });
    for (let round = 0; round < 20; round++) {
      await outcomes(runtime.send(...keyed("a", "a", "", "a")));
      await outcomes(runtime.sendBy(Date.now() - 1000, ...keyed("a", "")));
    }
    await runtime.until(() => runtime.credits >= (order === "batch" ? 1 : 3));
    assert(runtime.credits <= 3, String(runtime.credits));
    await runtime.stop();
  }
});

test("a call that ends within an answer needs no report that it begins", async () => {
  const sent = [];
  const answers = new Answers({ version: 2 }, async (answer) => sent.push(answer), sizeOf);
  for (const id of [1, 2, 4, 5]) answers.begin(id, false);
  answers.settle(2, { name: "done", reason: "" });
  answers.settle(1, { name: "done", reason: "" });
  answers.grant(3);
  await answers.flush();
  assert.equal(sent.length, 1);
  assert.deepEqual(sent[0].begun, [{ firstId: 4, count: 2 }]);
  assert.deepEqual(sent[0].verdicts, [{ firstId: 1, count: 2, done: {} }]);
  assert.equal(sent[0].credits, 3);
});

test("answers are cut at a mebibyte", async () => {
  const sent = [];
  const answers = new Answers({ version: 2 }, async (answer) => sent.push(answer), sizeOf);
  for (let id = 0; id < 300; id++) answers.settle(id, { name: "fail", reason: "a".repeat(16_000) });
  answers.grant(3);
  await answers.flush();
  assert.equal(sent.flatMap(({ verdicts }) => verdicts).length, 300);
  assert(sent.every((answer) => sizeOf(answer) <= 1024 * 1024) && sent.length >= 5);
  assert.deepEqual(sent.map(({ welcome }) => welcome !== undefined), sent.map((_, index) => index === 0));
  assert.deepEqual(sent.map(({ credits }) => credits ?? 0), sent.map((_, index) => (index === sent.length - 1 ? 3 : 0)));
});

test("verdicts get through between very short calls", async () => {
  let sent = [];
  let settledEarly = false;
  const runtime = new FakeRuntime((one) => {
    if (String(one.value) === "busy") {
      const until = performance.now() + 0.02;
      while (performance.now() < until);
      settledEarly ||= sent.at(0)?.isSettled === true && !sent.at(-1).isSettled;
    }
  });
  await outcomes(runtime.send(...keyed(...Array(1100).fill(""))));
  sent = runtime.send(...Array.from({ length: 2000 }, () => message("busy")));
  await outcomes(sent);
  assert(settledEarly, "the first verdict came with the last");
  await runtime.stop();
});

test("calls that never wait let verdicts and a stop through", async () => {
  let stopped;
  let count = 0;
  const runtime = new FakeRuntime(() => {
    const until = performance.now() + 2;
    while (performance.now() < until);
    if (++count === 20) stopped = runtime.stop();
  }, { concurrency: 1 });
  const all = await outcomes(runtime.send(...keyed(...Array(200).fill(""))));
  await stopped;
  assert(all.includes("release"), "the stop came last");
});

test("failures are logged with their stacks, and a flood in part", async () => {
  const errors = [];
  const logger = { info() {}, warn() {}, error: (text, error) => errors.push([text, error]) };
  const runtime = new FakeRuntime(function failing() { throw new Error("busy"); }, { logger });
  await outcomes(runtime.send(...keyed(...Array(100).fill(""))));
  assert(errors.length >= 10 && errors.length <= 20, String(errors.length));
  assert.match(errors[0][0], /a message failed \(test\/0\/\d+, attempt 1\): retry/);
  assert.match(errors[0][1].stack, /handler.test.js/);
  await runtime.stop();
});

test("a hook or a logger that throws stops nothing", async () => {
  const logger = { info() { throw new Error("no"); }, warn() {}, error() { throw new Error("no"); } };
  const write = process.stderr.write;
  process.stderr.write = () => true;
  try {
    const verdict = await handle(() => { throw new Skip("old"); }, message(), { logger, onSettled() { throw new Error("no"); } });
    assert.equal(verdict.outcome, "skip");
  } finally {
    process.stderr.write = write;
  }
});
