import { fromHandler, fromRuntime } from "./contract.js";
import { Message } from "./message.js";
import { Server } from "./server.js";

const ORDERS = { any: "ORDER_UNSPECIFIED", batch: "ORDER_BATCH", key: "ORDER_KEY" };
const REASONS = { revoked: "REASON_REVOKED", timedOut: "REASON_TIMED_OUT", notBegun: "REASON_NOT_BEGUN" };
let offsets = 0;

/**
 * Returns a message, at its first attempt, in partition 0 of the topic "test". Each has
 * another offset.
 * @param {string | object | null} [value] an object is encoded as JSON
 * @param {any} [fields]
 */
export function message(value = "", fields = {}) {
  const text = value === null || typeof value === "string" ? value : JSON.stringify(value);
  return new Message({
    group: "test",
    topic: "test",
    partition: 0,
    epoch: 1,
    offset: offsets++,
    timestamp: new Date(),
    value: text === null ? null : Buffer.from(text),
    attempt: 1,
    ...fields,
    key: typeof fields.key === "string" ? Buffer.from(fields.key) : fields.key,
  });
}

/**
 * Has a handler process one message, and returns its verdict.
 * @param {any} handler @param {Message} one @param {any} [options]
 */
export async function handle(handler, one, options) {
  const runtime = new FakeRuntime(handler, options);
  try {
    return await runtime.send(one)[0].verdict;
  } finally {
    await runtime.stop();
  }
}

/** A message that was sent. */
class Delivery {
  hasBegun = false;
  isSettled = false;
  /** @type {number[]} */
  extensions = [];
  /** @type {(verdict: any) => void} */
  settle = () => {};
  /** @type {() => void} */
  begin = () => {};

  /** @param {number} id @param {Message} sent */
  constructor(id, sent) {
    this.id = id;
    this.message = sent;
    /** Resolves to the verdict. @type {Promise<any>} */
    this.verdict = new Promise((resolve) => (this.settle = resolve));
    /** Resolves when the handler reports that it begins the message, or settles it. */
    this.begun = new Promise((resolve) => (this.begin = () => resolve(undefined)));
  }
}

/** A runtime in memory. It throws if the answers of the handler break the contract. */
export class FakeRuntime {
  /** @type {any} */
  welcome;
  credits = 0;
  /** Why the stream has ended, if it was not in order. @type {Error | undefined} */
  error;
  #config;
  #server;
  /** @type {any} */
  #session;
  #nextId = 1;
  /** @type {Map<number, Delivery>} */
  #deliveries = new Map();
  /** @type {Set<() => void>} */
  #waiting = new Set();
  #breaches = /** @type {string[]} */ ([]);

  /** @param {any} handler @param {any} [options] */
  constructor(handler, options = {}) {
    const { order = "any", timeoutMs = 10_000, maxTimeoutMs = timeoutMs, waitMs = 60_000, ...others } = options;
    this.#config = { order: /** @type {any} */ (ORDERS)[order] ?? order, timeoutMs, maxTimeoutMs, waitMs };
    const silent = { info() {}, warn() {}, error() {} };
    this.#server = new Server(handler, { logger: silent, ...others });
    this.#connect();
  }

  #connect() {
    this.credits = 0;
    this.welcome = this.error = undefined;
    this.#nextId = 1;
    this.#deliveries = new Map();
    let isLost = false;
    /** @type {(value?: any) => void} */
    let resolveEnded = () => {};
    /** Resolves when the handler has ended the stream. */
    this.ended = new Promise((resolve) => (resolveEnded = resolve));
    const session = this.#server.accept({
      // As on a connection, it takes a turn of the event loop, and what can't be encoded fails.
      write: async (answer) => {
        const copied = fromHandler.decode(fromHandler.encode(answer));
        await new Promise((resolve) => setImmediate(resolve));
        if (isLost) {
          throw new Error("the stream is lost");
        }
        if (this.#session === session) {
          this.#take(copied);
        }
      },
      end: (error) => {
        this.error = error;
        resolveEnded();
        this.#note();
      },
    });
    this.#session = session;
    this.lose = () => {
      isLost = true;
      session.lose();
    };
    const { order, timeoutMs, maxTimeoutMs, waitMs } = this.#config;
    this.#say({ hello: { version: 2, consumer: "kafka_consumer.test", group: "test", order, timeoutMs, maxTimeoutMs, waitMs } });
  }

  /** @param {object} said */
  #say(said) {
    this.#session.take(fromRuntime.decode(fromRuntime.encode(said)));
  }

  /** Loses the stream, and opens another one while calls of the first may run. */
  reconnect() {
    this.lose?.();
    this.#connect();
  }

  /** Sends messages as one batch, whatever the credits. @param {Message[]} messages */
  send(...messages) {
    return this.sendBy(Date.now() + this.#config.waitMs, ...messages);
  }

  /**
   * Sends messages with a last moment at which they may begin.
   * @param {number} beginByMs @param {Message[]} messages
   */
  sendBy(beginByMs, ...messages) {
    const firstId = this.#nextId;
    const sent = messages.map((one) => new Delivery(this.#nextId++, one));
    for (const delivery of sent) {
      this.#deliveries.set(delivery.id, delivery);
    }
    this.credits -= messages.length;
    this.#say({ batch: { firstId, beginByMs, runs: messages.map(encode) } });
    return sent;
  }

  /** Sends messages in batches for which there are credits. @param {Message[]} messages */
  async feed(...messages) {
    const sent = [];
    while (sent.length < messages.length) {
      await this.until(() => this.credits > 0);
      sent.push(...this.send(...messages.slice(sent.length, sent.length + this.credits)));
    }
    return sent;
  }

  /** Withdraws deliveries. @param {"revoked" | "timedOut" | "notBegun"} reason @param {Delivery[]} deliveries */
  cancel(reason, ...deliveries) {
    this.#say({ cancel: { reason: REASONS[reason], deliveries: deliveries.map(({ id }) => ({ firstId: id, count: 1 })) } });
  }

  /** Stops the handler as SIGTERM does, and waits until it has ended the stream. */
  async stop() {
    await this.#server.stop();
    await this.ended;
    this.#check();
  }

  /** Ends the runtime's side of the stream: it sends nothing more. */
  close() {
    this.#session.drain();
  }

  /** Waits until a condition holds. @param {() => boolean} condition */
  async until(condition) {
    while (!condition()) {
      await new Promise((resolve) => this.#waiting.add(() => resolve(undefined)));
    }
    this.#check();
  }

  #note() {
    for (const resolve of this.#waiting) {
      resolve();
    }
    this.#waiting.clear();
  }

  #check() {
    if (this.#breaches.length > 0) {
      throw new Error(`the handler's answers break the contract: ${this.#breaches.join("; ")}`);
    }
  }

  /** @param {any} answer */
  #take(answer) {
    if (answer.welcome) {
      this.welcome = answer.welcome;
    }
    this.#expect(this.welcome !== undefined, "an answer before welcome");
    for (const range of answer.begun ?? []) {
      this.#each(range, (delivery) => {
        this.#expect(!delivery.hasBegun && !delivery.isSettled, `${delivery.id} begins twice`);
        delivery.hasBegun = true;
        delivery.begin();
      });
    }
    for (const { deliveries, timeMs } of answer.extensions ?? []) {
      this.#each(deliveries, (delivery) => {
        this.#expect(delivery.hasBegun, `an extension of ${delivery.id}, which has not begun`);
        delivery.extensions.push(Number(timeMs));
      });
    }
    for (const verdict of answer.verdicts ?? []) {
      this.#each(verdict, (delivery) => this.#settle(delivery, verdict));
    }
    this.credits += answer.credits ?? 0;
    this.#note();
  }

  /** @param {Delivery} delivery @param {any} verdict */
  #settle(delivery, verdict) {
    const outcome = verdict.outcome;
    this.#expect(!delivery.isSettled, `a second verdict on ${delivery.id}`);
    this.#expect(outcome !== "release" || !delivery.hasBegun, `${delivery.id} has begun and is released`);
    delivery.isSettled = true;
    const { reason = "", delayMs = "0", produce = [] } = verdict[outcome];
    delivery.settle({ outcome, reason, delayMs: Number(delayMs), produced: produce.map(decodeRecord) });
    delivery.begin();
  }

  /** @param {any} range @param {(delivery: Delivery) => void} take */
  #each({ firstId, count }, take) {
    for (let id = Number(firstId); id < Number(firstId) + Number(count ?? 1); id++) {
      const delivery = this.#deliveries.get(id);
      this.#expect(delivery !== undefined, `an answer to ${id}, which was not sent`);
      if (delivery !== undefined) {
        take(delivery);
      }
    }
  }

  /** @param {boolean} ok @param {string} breach */
  #expect(ok, breach) {
    if (!ok) {
      this.#breaches.push(breach);
    }
  }
}

/** @param {Message} one */
function encode({ topic, partition, epoch, offset, timestamp, key, value, headers, attempt }) {
  /** @type {any} */
  const delivery = { offset: String(offset), attempt, headers: [] };
  for (const [name, data] of headers) {
    delivery.headers.push(data === null ? { name } : { name, value: data });
  }
  if (timestamp !== undefined) {
    delivery.timestampMs = timestamp.getTime();
  }
  if (key !== null) {
    delivery.key = key;
  }
  if (value !== null) {
    delivery.value = value;
  }
  return { topic, partition, epoch: String(epoch), deliveries: [delivery] };
}

/** @param {any} record */
function decodeRecord({ topic, partition, key, value, headers = [], timestampMs }) {
  return {
    topic,
    partition,
    key: key ?? null,
    value: value ?? null,
    headers: headers.map((/** @type {any} */ header) => [header.name ?? "", header.value ?? null]),
    timestamp: timestampMs === undefined ? undefined : new Date(Number(timestampMs)),
  };
}
