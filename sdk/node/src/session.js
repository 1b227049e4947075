import { Answers } from "./answers.js";
import { sizeOf } from "./contract.js";
import { Schedule } from "./schedule.js";

export const SDK_NAME = "penstock-node";
export const SDK_VERSION = "0.1.0";

const FAILED_PRECONDITION = 9;
const MAX_MESSAGE = 2 ** 31 - 1;
const ORDERS = ["ORDER_UNSPECIFIED", "ORDER_BATCH", "ORDER_KEY"];

/** An error that ends the stream. */
export class StreamError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = "StreamError";
    this.code = FAILED_PRECONDITION;
    this.details = message;
  }
}

export function welcome() {
  return {
    version: 2,
    sdkName: SDK_NAME,
    sdkVersion: SDK_VERSION,
    orders: ORDERS,
    features: ["FEATURE_BEGUN", "FEATURE_EXTEND", "FEATURE_CANCEL"],
    maxMessageBytes: MAX_MESSAGE,
  };
}

/**
 * One stream, from hello to its end. The transport has write(message), which resolves when
 * the message is written, and end(error), which ends the stream.
 */
export class Session {
  #server;
  #transport;
  #order = "";
  #isOver = false;
  /** @type {() => void} */
  #resolveFree = () => {};
  /** @type {Answers | undefined} */
  #answers;
  /** @type {Schedule | undefined} */
  schedule;

  /**
   * @param {import("./server.js").Server} server
   * @param {{ write(message: object): Promise<void>, end(error?: Error): void }} transport
   */
  constructor(server, transport) {
    this.#server = server;
    this.#transport = transport;
    /** Resolves when no call of this stream or an earlier one runs. @type {Promise<void>} */
    this.free = new Promise((resolve) => (this.#resolveFree = () => resolve(undefined)));
  }

  /** Takes a message of the runtime. @param {any} message */
  take(message) {
    if (this.#isOver) {
      return;
    }
    if (message.hello) {
      this.#greet(message.hello);
    } else if (this.schedule === undefined) {
      this.#refuse("the first message on the stream is not hello");
    } else if (message.batch) {
      const { firstId = "0", beginByMs = "0", runs = [] } = message.batch;
      this.schedule.add(Number(firstId), Number(beginByMs), decode(this.group ?? "", runs));
    } else if (message.cancel) {
      const name = message.cancel.reason === "REASON_TIMED_OUT" ? "TimeoutError" : "AbortError";
      for (const { firstId = "0", count = "0" } of message.cancel.deliveries ?? []) {
        this.schedule.cancel(Number(firstId), Number(count), name);
      }
    }
  }

  /** @param {any} hello */
  #greet(hello) {
    if (this.schedule !== undefined) {
      this.#refuse("there is a second hello on the stream");
      return;
    }
    const { consumer = "", group = "", order = "ORDER_UNSPECIFIED" } = hello;
    if (!ORDERS.includes(order)) {
      const text = `the handler's SDK, ${SDK_NAME} ${SDK_VERSION}, does not know the order ${order} that consumer ${consumer} needs; update the SDK in the handler's image, or change spec.mode`;
      // So that the runtime can name it.
      void this.#transport.write({ welcome: welcome() }).then(() => this.#refuse(text), () => {});
      return;
    }
    this.group = group;
    this.#order = order;
    const { options, log } = this.#server;
    this.#answers = new Answers(welcome(), (message) => this.#transport.write(message), sizeOf);
    this.schedule = new Schedule({
      order,
      slots: order === "ORDER_BATCH" ? 1 : options.concurrency,
      window: options.window,
      timeout: Number(hello.timeoutMs ?? 0),
      maxTimeout: Number(hello.maxTimeoutMs ?? 0),
      wait: Number(hello.waitMs ?? 0),
      handler: options.handler,
      answers: this.#answers,
      log,
      onSettled: options.onSettled,
    });
    log.info(`the runtime has opened a stream (consumer ${consumer}, group ${group}, ${order})`);
    void this.#live(this.#server.replace(this));
  }

  /**
   * Lets calls begin when those of earlier streams have ended: a key is never handled twice
   * at the same time. Ends the stream when its own have.
   * @param {Session | undefined} earlier
   */
  async #live(earlier) {
    const schedule = /** @type {Schedule} */ (this.schedule);
    if (earlier !== undefined) {
      await Promise.race([earlier.free, schedule.quiet]);
    }
    schedule.open();
    await schedule.quiet;
    await this.#answers?.flush();
    this.end();
    await earlier?.free;
    this.#resolveFree();
  }

  /** @param {string} text */
  #refuse(text) {
    this.#server.log.error(`refused the runtime's stream: ${text}`);
    this.lose();
    this.end(new StreamError(text));
  }

  /** Begins nothing more, lets calls that run finish, and ends the stream. */
  stop() {
    if (this.schedule === undefined) {
      this.end();
    } else {
      this.schedule.stop();
    }
  }

  /** The runtime has ended its side. */
  drain() {
    if (this.schedule === undefined) {
      this.end();
    } else {
      this.schedule.drain();
    }
  }

  /** The stream is lost. */
  lose() {
    this.#answers?.end();
    this.schedule?.abort();
  }

  /** @param {Error} [error] */
  end(error) {
    if (this.#isOver) {
      return;
    }
    this.#isOver = true;
    if (this.schedule === undefined) {
      this.#resolveFree();
    }
    this.#server.forget(this);
    this.#transport.end(error);
    if (this.#order !== "") {
      this.#server.log.info("the stream has ended");
    }
  }
}

/** @param {string} group @param {any[]} runs */
function decode(group, runs) {
  const messages = [];
  for (const { topic, partition, epoch, deliveries = [] } of runs) {
    for (const { offset, timestampMs, key, value, headers = [], attempt } of deliveries) {
      messages.push({
        group,
        topic,
        partition,
        epoch,
        offset,
        timestamp: timestampMs === undefined ? undefined : new Date(Number(timestampMs)),
        key,
        value,
        headers: headers.map((/** @type {any} */ header) => [header.name ?? "", header.value ?? null]),
        attempt,
      });
    }
  }
  return messages;
}
