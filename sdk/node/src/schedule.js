import { AsyncLocalStorage } from "node:async_hooks";
import { after, Batch, Call, Line, MAX_TIMER } from "./call.js";
import { Flow } from "./flow.js";
import { clean, judge, verdictName } from "./verdicts.js";

/** The call that is at work, for errors that nobody catches. */
export const currentCall = new AsyncLocalStorage();

export const UNSETTLED = "not attempted: an earlier message in order is unsettled";
export const EXPIRED = "not attempted: it waited in the handler for too long";
export const STOPPING = "not attempted: the handler stops";

// Calls that take less time on average do not wait until the report that they begin is
// written, once so many were measured.
const SHORT_CALL = 0.2;
const KNOWN_CALLS = 1000;
// The time for which calls run before others than calls have their turn.
const MAX_TURN = 5;
/** Decides which deliveries of a stream begin when. */
export class Schedule {
  /** @type {Map<number, Batch>} */
  #batches = new Map();
  /** @type {Map<string, Line>} */
  #lines = new Map();
  /** Lines that can begin. @type {Set<Line>} */
  #ready = new Set();
  /** @type {Set<Call>} */
  #running = new Set();
  #waiting = 0;
  #isOpen = false;
  #isClosed = false;
  #isDraining = false;
  #calls = 0;
  #average = 0;
  #turn = 0;
  #turnEnds = false;
  /** @type {() => void} */
  #resolveIdle = () => {};
  #idle = new Promise((resolve) => (this.#resolveIdle = () => resolve(undefined)));
  /** @type {Promise<void> | undefined} */
  #winding;

  /** @param {any} settings */
  constructor({ order, slots, window, timeout, maxTimeout, wait, handler, answers, log, onSettled }) {
    this.order = order;
    this.slots = slots;
    this.timeout = timeout;
    this.maxTimeout = maxTimeout;
    this.wait = wait;
    this.handler = handler;
    this.answers = answers;
    this.log = log;
    this.onSettled = onSettled;
    this.flow = new Flow(slots, window, wait);
    /** Resolves when no call is left, or the time of those that are is over. @type {Promise<void>} */
    this.quiet = new Promise((resolve) => (this.resolveQuiet = () => resolve(undefined)));
  }

  get left() {
    return this.#running.size;
  }

  /** @param {Call} call @returns {Line} */
  lineOf(call) {
    const isInOrder = this.order === "ORDER_BATCH";
    if (!isInOrder && call.key === null) {
      return new Line(undefined);
    }
    const name = isInOrder ? "" : /** @type {Buffer} */ (call.key).toString("latin1");
    let line = this.#lines.get(name);
    if (line === undefined) {
      line = new Line(name);
      this.#lines.set(name, line);
    }
    return line;
  }

  /** @param {string} topic @param {number} partition @param {Buffer | null} key */
  placeOf(topic, partition, key) {
    if (this.order === "ORDER_BATCH") {
      return "";
    }
    return this.order === "ORDER_KEY" && key !== null ? `${topic}/${partition}/${key.toString("latin1")}` : undefined;
  }

  /** Takes a batch. @param {number} firstId @param {number} beginByMs @param {object[]} messages */
  add(firstId, beginByMs, messages) {
    if (this.#isClosed || messages.length === 0 || this.#batches.has(firstId)) {
      return;
    }
    const batch = new Batch(firstId, beginByMs > 0 ? beginByMs : Infinity);
    batch.open = batch.waiting = messages.length;
    this.#batches.set(firstId, batch);
    this.flow.work(true, performance.now());
    messages.forEach((fields, index) => {
      const call = new Call(this, batch, firstId + index, fields);
      batch.calls.push(call);
      call.line.queue.add(call);
      this.#waiting++;
      this.#offer(call.line);
    });
    const left = Math.min(this.wait > 0 ? this.wait : Infinity, batch.beginBy - Date.now());
    if (left <= MAX_TIMER) {
      batch.expiry = after(() => this.#expire(batch), left);
    }
    this.#pump();
  }

  /** Makes a line ready, if there is something to begin. @param {Line} line */
  #offer(line) {
    if (line.isBusy) {
      return;
    }
    if (line.queue.size > 0) {
      this.#ready.add(line);
      return;
    }
    this.#ready.delete(line);
    if (line.name !== undefined) {
      this.#lines.delete(line.name);
    }
  }

  /** Begins calls while there are some and they may run. */
  #pump() {
    if (!this.#isOpen || this.#isClosed) {
      return;
    }
    while (this.#running.size < this.slots && this.#ready.size > 0 && !this.#turnIsOver()) {
      const [line] = this.#ready;
      const [call] = line.queue;
      const reason = this.#refusal(call);
      if (reason !== undefined) {
        this.#release(call, reason);
        this.#grant();
        continue;
      }
      this.#unqueue(call);
      this.#ready.delete(line);
      line.isBusy = true;
      call.state = "running";
      this.#running.add(call);
      void this.#perform(call);
    }
  }

  /** Lets verdicts, cancellation and signals have their turn between calls that never wait. */
  #turnIsOver() {
    const now = performance.now();
    if (this.#turn === 0) {
      this.#turn = now;
      setImmediate(() => {
        this.#turn = 0;
        if (this.#turnEnds) {
          this.#turnEnds = false;
          this.#pump();
        }
      });
    }
    if (now - this.#turn > MAX_TURN) {
      this.#turnEnds = true;
    }
    return this.#turnEnds;
  }

  /** @param {Call} call @returns {string | undefined} why it must not begin */
  #refusal(call) {
    if (call.place !== undefined && call.batch.stopped.has(call.place)) {
      return UNSETTLED;
    }
    return Date.now() > call.batch.beginBy ? EXPIRED : undefined;
  }

  /**
   * Reports that a call begins, calls the handler, and gives the verdict. If the handler
   * ends the process, the runtime knows which messages to blame, as a call does not begin
   * before the report is written. Very short calls save that, unless the message has
   * failed before.
   * @param {Call} call
   */
  async #perform(call) {
    const isCareful = call.message.attempt > 1 || this.#calls < KNOWN_CALLS || this.#average >= SHORT_CALL;
    const written = this.answers.begin(call.id, isCareful);
    if (written !== undefined) {
      await written;
    }
    if (call.isVoid) {
      this.#finish(call, undefined);
      return;
    }
    call.began = performance.now();
    if (this.timeout > 0) {
      call.setDeadline(call.began + this.timeout);
    }
    const judged = await this.#invoke(call);
    this.#calls++;
    this.#average += (performance.now() - call.began - this.#average) / 32;
    this.flow.finish(performance.now());
    this.#finish(call, call.isVoid ? undefined : judged);
  }

  /** Calls the handler. Whatever it does is a verdict. @param {Call} call */
  async #invoke(call) {
    const { message } = call;
    try {
      /** @type {Promise<never>} */
      const uncaught = new Promise((_, reject) => (call.fail = reject));
      uncaught.catch(() => {});
      const result = currentCall.run(call, () => this.handler(message));
      const returned = isThenable(result) ? await Promise.race([result, uncaught]) : result;
      if (verdictName(returned) !== undefined) {
        throw returned;
      }
      if (returned !== undefined && returned !== null) {
        throw new TypeError(`the handler returned ${describe(returned)}; it must return nothing or a verdict`);
      }
      const judged = message.close();
      if (judged.name !== "done") {
        this.log.failure(message, judged, undefined);
      }
      return judged;
    } catch (thrown) {
      message.close();
      const judged = judge(thrown);
      this.log.failure(message, judged, thrown);
      return judged;
    } finally {
      call.fail = undefined;
    }
  }

  /** @param {Call} call @param {import("./verdicts.js").Judgement | undefined} judged */
  #finish(call, judged) {
    this.#running.delete(call);
    call.line.isBusy = false;
    this.#over(call, judged);
    this.#offer(call.line);
    this.#grant();
    this.#pump();
  }

  /** Ends a call, with a judgement if the runtime wants one. @param {Call} call @param {any} judged */
  #over(call, judged) {
    const { batch } = call;
    call.end();
    if (call.place !== undefined && judged?.name !== "done" && judged?.name !== "skip") {
      batch.stopped.add(call.place);
    }
    if (judged !== undefined) {
      this.answers.settle(call.id, judged);
      this.log.guard("onSettled", () => this.onSettled?.(call.message, judged.name));
    }
    this.flow.returned++;
    batch.open--;
    if (batch.open === 0) {
      this.#batches.delete(batch.firstId);
    }
    this.#checkIdle();
  }

  #checkIdle() {
    if ((this.#isClosed || this.#isDraining) && this.#waiting + this.#running.size === 0) {
      this.#resolveIdle();
    }
  }

  /** @param {Call} call */
  #unqueue(call) {
    call.line.queue.delete(call);
    this.#waiting--;
    call.batch.waiting--;
    if (call.batch.waiting === 0) {
      clearTimeout(call.batch.expiry);
    }
  }

  /** Gives back a call that waits. @param {Call} call @param {string} reason */
  #release(call, reason) {
    this.#unqueue(call);
    this.#over(call, { name: "release", reason });
    this.#offer(call.line);
  }

  #grant() {
    this.flow.work(this.#waiting + this.#running.size > 0, performance.now());
    if (this.#isOpen && !this.#isClosed && !this.#isDraining) {
      this.answers.grant(this.flow.grant());
    }
  }

  /** Lets calls begin, and grants the first credits. */
  open() {
    this.#isOpen = true;
    this.#grant();
    this.#pump();
  }

  /** @param {Batch} batch */
  #expire(batch) {
    this.#releaseWaiting(batch, EXPIRED);
    this.#grant();
  }

  /** @param {Batch} batch @param {string} reason */
  #releaseWaiting(batch, reason) {
    for (const call of batch.calls) {
      if (call.state === "waiting") {
        this.#release(call, reason);
      }
    }
  }

  /**
   * Withdraws deliveries.
   * @param {number} firstId @param {number} count @param {"TimeoutError" | "AbortError"} name
   */
  cancel(firstId, count, name) {
    for (const batch of this.#batches.values()) {
      const begin = Math.max(0, firstId - batch.firstId);
      const end = Math.min(batch.calls.length, firstId + count - batch.firstId);
      for (const call of batch.calls.slice(begin, Math.max(begin, end))) {
        if (call.state === "waiting") {
          this.#unqueue(call);
          this.#over(call, undefined);
          this.#offer(call.line);
        } else if (call.state === "running") {
          call.void(name);
        }
      }
    }
    this.#grant();
    this.#pump();
  }

  /** Releases what waits and begins nothing more. */
  stop() {
    this.#isClosed = true;
    for (const batch of this.#batches.values()) {
      this.#releaseWaiting(batch, STOPPING);
    }
    this.#wind();
  }

  /** Ends once what waits was handled. */
  drain() {
    this.#isDraining = true;
    this.#wind();
  }

  /** Ends the schedule of a stream that is lost. */
  abort() {
    this.#isClosed = true;
    this.cancel(0, Infinity, "AbortError");
    this.#wind();
  }

  #wind() {
    this.#checkIdle();
    this.#winding ??= this.#awaitQuiet();
  }

  /** The runtime has cancelled calls whose time is over. */
  async #awaitQuiet() {
    let isIdle = false;
    void this.#idle.then(() => (isIdle = true));
    await Promise.resolve();
    while (!isIdle) {
      let wait = 1000;
      if (this.#waiting === 0) {
        const last = Math.max(...[...this.#running].map(({ deadline }) => deadline));
        wait = Number.isFinite(last) ? last - performance.now() : wait;
      }
      if (wait < 0) {
        this.log.error(`${this.#running.size} calls did not end although their time is over`);
        break;
      }
      /** @type {NodeJS.Timeout | undefined} */
      let timer;
      const passed = new Promise((resolve) => (timer = after(() => resolve(undefined), wait + 1)));
      await Promise.race([this.#idle, passed]);
      clearTimeout(timer);
    }
    this.resolveQuiet?.();
  }
}

/** @param {any} value */
function isThenable(value) {
  return value !== null && (typeof value === "object" || typeof value === "function") && typeof value.then === "function";
}

/** @param {any} value */
function describe(value) {
  if (typeof value === "object") {
    return `an object (${clean(Object.prototype.toString.call(value))})`;
  }
  return `a ${typeof value}`;
}
