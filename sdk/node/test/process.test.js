import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import { healthService, service } from "../src/contract.js";

const program = fileURLToPath(new URL("program.js", import.meta.url));
const Client = grpc.makeGenericClientConstructor(service, "Handler");
const HealthClient = grpc.makeGenericClientConstructor(healthService, "Health");
const directory = await mkdtemp(join(tmpdir(), "penstock-node-"));
const ends = [];
let sockets = 0;
after(async () => {
  ends.forEach((end) => end());
  await rm(directory, { recursive: true });
});

/** Starts a handler; `variable` says where it listens. */
function start(variable) {
  const [name, value] = variable.split("=");
  const env = { ...process.env, PENSTOCK_HANDLER_SOCKET: "", PORT: "", NODE_TEST_CONTEXT: undefined, [name]: value };
  const child = spawn(process.execPath, [program], { env, stdio: ["ignore", "pipe", "pipe"] });
  ends.push(() => child.kill("SIGKILL"));
  const lines = [];
  let note = () => {};
  for (const output of [child.stdout, child.stderr]) {
    createInterface({ input: output }).on("line", (line) => {
      lines.push(line);
      note();
    });
  }
  const exited = new Promise((resolve) => child.once("close", (code) => {
    resolve(code);
    note();
  }));
  const line = async (text) => {
    for (;;) {
      const found = lines.find((one) => one.includes(text));
      if (found !== undefined) return found;
      assert.equal(child.exitCode, null, `no ${text} in ${lines.join("\n")}`);
      await new Promise((resolve) => (note = resolve));
    }
  };
  return { child, exited, line };
}

async function startOnSocket() {
  const socket = join(directory, `${sockets++}.sock`);
  const handler = start(`PENSTOCK_HANDLER_SOCKET=${socket}`);
  await handler.line("the handler listens");
  return { ...handler, socket, address: `unix:${socket}` };
}

/** Opens a stream, and waits for credits. */
async function open(address) {
  const client = new Client(address, grpc.credentials.createInsecure());
  ends.push(() => client.close());
  const stream = client.Handle();
  const state = { begun: new Set(), done: new Set(), credits: 0, error: undefined };
  let note = () => {};
  let nextId = 1;
  stream.on("data", (answer) => {
    state.credits += answer.credits ?? 0;
    const each = ({ firstId, count }, set) => {
      for (let id = Number(firstId); id < Number(firstId) + Number(count); id++) set.add(id);
    };
    (answer.begun ?? []).forEach((range) => each(range, state.begun));
    (answer.verdicts ?? []).filter(({ done }) => done).forEach((range) => each(range, state.done));
    note();
  });
  const ended = new Promise((resolve) => {
    stream.on("error", (error) => (state.error = error));
    stream.on("status", (status) => resolve(status.code));
  });
  stream.write({ hello: { version: 2, consumer: "kafka_consumer.test", group: "test", timeoutMs: 60_000, waitMs: 60_000 } });
  const until = async (condition) => {
    while (!condition()) await new Promise((resolve) => (note = resolve));
  };
  const send = (attempt, ...values) => {
    const firstId = nextId;
    nextId += values.length;
    const deliveries = values.map((value, index) => ({ offset: firstId + index, attempt, value: Buffer.from(value) }));
    stream.write({ batch: { firstId, beginByMs: Date.now() + 60_000, runs: [{ topic: "test", epoch: 1, deliveries }] } });
    return firstId;
  };
  await until(() => state.credits > 0);
  return { state, ended, until, send };
}

for (const [name, before, attempt, values, poison] of [
  ["alone", 0, 1, ["exit"], 0],
  ["a crash", 0, 1, ["crash"], 0],
  ["among others", 0, 1, ["", "", "second", "", "exit", "", "second"], 4],
  ["again, after many in short", 5000, 2, ["exit"], 0],
]) {
  test(`the report of a call that ends the process leaves before: ${name}`, async () => {
    for (let round = 0; round < 3; round++) {
      const { address, exited } = await startOnSocket();
      const { state, ended, until, send } = await open(address);
      for (let sent = 0; sent < before; sent += 100) send(1, ...Array(100).fill(""));
      await until(() => state.done.size === before);
      const first = send(attempt, ...values);
      assert.notEqual(await ended, grpc.status.OK);
      assert(state.begun.has(first + poison), "the poison has not begun");
      await exited;
    }
  });
}

test("an error that nobody catches is a verdict, and the process lives", async () => {
  const { address, child, exited, line } = await startOnSocket();
  const { state, until, send } = await open(address);
  send(1, "throw");
  await line("from a timer");
  const next = send(1, "");
  await until(() => state.done.has(next));
  child.kill("SIGTERM");
  assert.equal(await exited, 0);
});

for (const signal of ["SIGTERM", "SIGINT"]) {
  test(`${signal} finishes what runs and exits with 0`, async () => {
    const { address, child, exited, line } = await startOnSocket();
    const { state, ended, send } = await open(address);
    const first = send(1, "second");
    await line("at work");
    child.kill(signal);
    assert.equal(await ended, grpc.status.OK);
    assert(state.done.has(first));
    assert.equal(await exited, 0);
  });
}

test("a second signal ends at once", async () => {
  const { address, child, exited, line } = await startOnSocket();
  (await open(address)).send(1, "block");
  await line("at work");
  child.kill("SIGTERM");
  await line("stopping");
  child.kill("SIGTERM");
  assert.equal(await exited, 128 + constants.signals.SIGTERM);
});

test("a live socket is not taken", async () => {
  const { socket, address } = await startOnSocket();
  const second = start(`PENSTOCK_HANDLER_SOCKET=${socket}`);
  await second.line("another process listens on");
  assert.equal(await second.exited, 1);
  await open(address);
});

test("the socket of a killed process is taken", async () => {
  const { socket, child, exited } = await startOnSocket();
  child.kill("SIGKILL");
  await exited;
  await start(`PENSTOCK_HANDLER_SOCKET=${socket}`).line("the handler listens");
  await open(`unix:${socket}`);
});

test("a file that is no socket is kept", async () => {
  const path = join(directory, "precious");
  await writeFile(path, "data");
  const { line, exited } = start(`PENSTOCK_HANDLER_SOCKET=${path}`);
  await line("is not a socket");
  assert.equal(await exited, 1);
  assert.equal(await readFile(path, "utf8"), "data");
});

test("where it can't listen, the error says what to do", async () => {
  for (const [variable, wanted] of [
    ["PORT=http", "it must be a number up to 65535"],
    ["PORT=65536", "it must be a number up to 65535"],
    [`PENSTOCK_HANDLER_SOCKET=/${"a".repeat(108)}`, "has at most 107 bytes"],
    ["PENSTOCK_HANDLER_SOCKET=/nowhere/handler.sock", "can't listen on"],
  ]) {
    const { line, exited } = start(variable);
    await line(wanted);
    assert.equal(await exited, 1);
  }
});

test("a port is served", async () => {
  const { line } = start("PORT=0");
  const [, port] = (await line("the handler listens on port")).match(/port (\d+)/);
  await open(`127.0.0.1:${port}`);
});

test("the health service answers, and a watch does not keep the process", async () => {
  const { address, child, exited } = await startOnSocket();
  const client = new HealthClient(address, grpc.credentials.createInsecure());
  ends.push(() => client.close());
  const serving = await new Promise((resolve, reject) => {
    client.Check(Buffer.alloc(0), (error, answer) => (error ? reject(error) : resolve(answer)));
  });
  assert.equal(serving, true);
  const seen = [];
  const watch = client.Watch(Buffer.alloc(0));
  watch.on("error", () => {});
  const ended = new Promise((resolve) => watch.on("status", resolve));
  watch.on("data", (answer) => {
    seen.push(answer);
    if (answer) child.kill("SIGTERM");
  });
  await ended;
  assert.deepEqual(seen, [true, false]);
  assert.equal(await exited, 0);
});
