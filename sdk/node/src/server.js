import { constants } from "node:os";
import grpc from "@grpc/grpc-js";
import { healthService, service } from "./contract.js";
import { listen } from "./listen.js";
import { Log } from "./log.js";
import { currentCall } from "./schedule.js";
import { Session } from "./session.js";

// How long a stop waits for the runtime to end its streams after the last verdict.
const MAX_GOODBYE = 1000;
const MAX_SETTING = 2 ** 24;
// An event loop that is blocked for so long is reported.
const MAX_BLOCK = 2000;

/** @param {any} options @param {string} name @param {number} standard */
function setting(options, name, standard) {
  const value = options[name] ?? standard;
  if (!Number.isInteger(value) || value < 1 || value > MAX_SETTING) {
    throw new RangeError(`the option ${name} is ${value}; it must be a whole number from 1 to ${MAX_SETTING}`);
  }
  return value;
}

/** Serves a handler. Most programs call serve instead. */
export class Server {
  /** @type {Set<Session>} */
  #sessions = new Set();
  /** @type {Session | undefined} */
  #last;
  #isStopping = false;

  /** @param {any} handler @param {any} [options] */
  constructor(handler, options = {}) {
    if (typeof handler !== "function") {
      throw new TypeError("the handler is not a function");
    }
    const interceptors = options.interceptors ?? [];
    for (const interceptor of interceptors.toReversed?.() ?? [...interceptors].reverse()) {
      handler = interceptor(handler);
      if (typeof handler !== "function") {
        throw new TypeError("an interceptor returned no handler");
      }
    }
    this.options = {
      handler,
      concurrency: setting(options, "concurrency", 16),
      window: setting(options, "window", 2000),
      onSettled: options.onSettled,
      onListening: options.onListening,
      socket: options.socket,
      port: options.port,
    };
    this.log = new Log(options.logger ?? console);
  }

  /** Serves a stream. @param {{ write(message: object): Promise<void>, end(error?: Error): void }} transport */
  accept(transport) {
    const session = new Session(this, transport);
    this.#sessions.add(session);
    if (this.#isStopping) {
      session.stop();
    }
    return session;
  }

  /** Makes a session the last one, and has the one before end. @param {Session} session */
  replace(session) {
    const earlier = this.#last;
    this.#last = session;
    earlier?.stop();
    return earlier;
  }

  /** @param {Session} session */
  forget(session) {
    this.#sessions.delete(session);
  }

  /** Begins no more messages. Resolves to the number of calls that are left. */
  async stop() {
    this.#isStopping = true;
    for (const session of this.#sessions) {
      session.stop();
    }
    await this.#last?.free;
    return this.#last?.schedule?.left ?? 0;
  }

  get isStopping() {
    return this.#isStopping;
  }
}

/** A call over gRPC as a transport. @param {any} call @param {Server} server */
function handleStream(call, server) {
  const session = server.accept({
    write: (message) =>
      new Promise((resolve, reject) => {
        // Called when the message is written to the connection.
        call.write(message, (/** @type {any} */ error) => (error ? reject(error) : resolve()));
      }),
    end: (error) => (error === undefined ? call.end() : call.emit("error", error)),
  });
  call.on("data", (/** @type {any} */ message) => session.take(message));
  call.on("end", () => session.drain());
  call.on("cancelled", () => session.lose());
  call.on("error", () => session.lose());
}

/**
 * Calls the handler for each message until the signal of the options is aborted, or until
 * SIGTERM or SIGINT if there is none. It then begins no other message, and waits for the
 * calls that run. A second signal ends the process at once.
 * @param {any} handler
 * @param {any} [options]
 * @returns {Promise<void>}
 */
export async function serve(handler, options = {}) {
  const server = new Server(handler, options);
  const transport = new grpc.Server({
    "grpc.max_receive_message_length": -1,
    "grpc.max_send_message_length": -1,
  });
  transport.addService(service, { Handle: (/** @type {any} */ call) => handleStream(call, server) });
  /** @type {Set<any>} */
  const watches = new Set();
  transport.addService(/** @type {any} */ (healthService), {
    Check: (/** @type {any} */ _, /** @type {any} */ answer) => answer(null, !server.isStopping),
    Watch: (/** @type {any} */ call) => {
      watches.add(call);
      call.on("cancelled", () => watches.delete(call));
      call.write(!server.isStopping);
    },
  });
  const address = await listen(transport, options);
  server.log.info(`the handler listens on ${address}`);
  server.log.guard("onListening", () => server.options.onListening?.(address));
  const ending = [watchErrors(server), watchLoop(server)];
  try {
    await stopped(server, options.signal, ending);
    const left = server.stop();
    for (const call of watches) {
      call.write(false);
      call.end();
    }
    const count = await left;
    await goodbye(transport);
    if (count > 0) {
      throw new Error(`${count} calls of the handler did not end by their deadline`);
    }
  } finally {
    ending.forEach((end) => end());
  }
}

/** @param {grpc.Server} transport */
async function goodbye(transport) {
  /** @type {NodeJS.Timeout | undefined} */
  let timer;
  await Promise.race([
    new Promise((resolve) => transport.tryShutdown(() => resolve(undefined))),
    new Promise((resolve) => (timer = setTimeout(resolve, MAX_GOODBYE))),
  ]);
  clearTimeout(timer);
  transport.forceShutdown();
}

/**
 * Waits for the stop.
 * @param {Server} server @param {AbortSignal | undefined} signal @param {(() => void)[]} ending
 */
function stopped(server, signal, ending) {
  return new Promise((resolve) => {
    if (signal !== undefined) {
      if (signal.aborted) {
        resolve(undefined);
      }
      signal.addEventListener("abort", () => resolve(undefined), { once: true });
      return;
    }
    let count = 0;
    /** @param {NodeJS.Signals} name */
    const receive = (name) => {
      count++;
      if (count > 1) {
        server.log.error(`${name} again: the process ends at once`);
        process.exit(128 + constants.signals[name]);
      }
      server.log.info(`${name}: stopping; a second signal ends the process at once`);
      resolve(undefined);
    };
    for (const name of /** @type {NodeJS.Signals[]} */ (["SIGTERM", "SIGINT"])) {
      process.on(name, receive);
      ending.push(() => process.off(name, receive));
    }
  });
}

/**
 * An error that nobody catches is the verdict of the call that it comes from. Any other
 * ends the process, as without this.
 * @param {Server} server
 */
export function watchErrors(server) {
  /** @param {unknown} error @param {string} origin */
  const take = (error, origin) => {
    const call = /** @type {any} */ (currentCall.getStore());
    if (call === undefined) {
      server.log.error(`${origin}: it comes from no message, so the process ends`, error);
      process.exit(1);
    }
    if (call.fail === undefined) {
      server.log.error(`${origin} after the end of the call of ${call.message.idempotencyKey}`, error);
    } else {
      call.fail(error);
    }
  };
  process.on("uncaughtException", take);
  return () => {
    process.off("uncaughtException", take);
  };
}

/** Reports an event loop that is blocked. @param {Server} server */
function watchLoop(server) {
  let last = performance.now();
  const timer = setInterval(() => {
    const blocked = performance.now() - last - 1000;
    last = performance.now();
    if (blocked > MAX_BLOCK) {
      server.log.warn(`the event loop was blocked for ${Math.round(blocked)} ms; no verdict, cancellation or signal gets through meanwhile; move such work to a worker thread`);
    }
  }, 1000);
  timer.unref();
  return () => clearInterval(timer);
}
