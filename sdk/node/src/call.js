import { Message } from "./message.js";

// A timer of Node takes no longer time.
export const MAX_TIMER = 2 ** 31 - 1;
// The time in which a handler should end once its signal is aborted.
const MAX_LINGER = 10_000;

/** @param {() => void} call @param {number} ms */
export function after(call, ms) {
  return setTimeout(call, Math.min(Math.max(0, ms), MAX_TIMER));
}

/** One delivery. */
export class Call {
  /** @type {"waiting" | "running" | "over"} */
  state = "waiting";
  /** The runtime has withdrawn it while it ran: a verdict has no effect. */
  isVoid = false;
  /** @type {number | undefined} Of performance.now(). */
  began;
  deadline = Infinity;
  /** @type {AbortController | undefined} Made when somebody asks. */
  #controller;
  /** @type {NodeJS.Timeout | undefined} */
  #timer;
  /** @type {NodeJS.Timeout | undefined} */
  #linger;
  /** @type {((error: unknown) => void) | undefined} Ends the call with an error. */
  fail;

  /** @param {import("./schedule.js").Schedule} schedule @param {Batch} batch @param {number} id @param {object} fields */
  constructor(schedule, batch, id, fields) {
    this.schedule = schedule;
    this.batch = batch;
    this.id = id;
    this.message = new Message(fields, this);
    this.key = this.message.key;
    this.line = schedule.lineOf(this);
    const { topic, partition } = this.message;
    this.place = schedule.placeOf(topic, partition, this.key);
  }

  get signal() {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      this.#watch();
    }
    return this.#controller.signal;
  }

  #watch() {
    clearTimeout(this.#timer);
    if (this.#controller !== undefined && Number.isFinite(this.deadline) && this.state !== "over") {
      const left = this.deadline - performance.now();
      this.#timer = after(() => (performance.now() < this.deadline ? this.#watch() : this.abort("TimeoutError")), left);
    }
  }

  /** @param {number} deadline */
  setDeadline(deadline) {
    this.deadline = deadline;
    this.#watch();
  }

  /** @param {"TimeoutError" | "AbortError"} name */
  abort(name) {
    const text = name === "TimeoutError" ? "the time of the attempt is over" : "the message was withdrawn";
    this.#controller ??= new AbortController();
    this.#controller.abort(new DOMException(text, name));
    clearTimeout(this.#timer);
  }

  /** Withdraws a call that runs. @param {"TimeoutError" | "AbortError"} name */
  void(name) {
    if (this.isVoid) {
      return;
    }
    this.isVoid = true;
    this.abort(name);
    this.#linger = after(() => {
      const { topic, partition, offset } = this.message;
      this.schedule.log.warn(`the handler does not end although its signal is aborted (${topic}/${partition}/${offset}); it holds one of the calls that can run at the same time`);
    }, MAX_LINGER);
    this.#linger.unref();
  }

  end() {
    this.state = "over";
    clearTimeout(this.#timer);
    clearTimeout(this.#linger);
  }

  /** @param {number} ms @returns {number} */
  extend(ms) {
    const { timeout, maxTimeout, answers } = this.schedule;
    const now = performance.now();
    if (this.state !== "running" || this.isVoid || this.began === undefined || now >= this.deadline) {
      return 0;
    }
    if (timeout === 0) {
      return ms;
    }
    const given = Math.min(ms, Math.max(0, this.began + Math.max(timeout, maxTimeout) - now));
    if (now + given > this.deadline) {
      this.setDeadline(now + given);
      answers.extend(this.id, given);
    }
    return this.deadline - now;
  }
}

/** A batch as the runtime sent it. */
export class Batch {
  /** @type {Call[]} */
  calls = [];
  /** Places of which nothing more may begin. @type {Set<string>} */
  stopped = new Set();
  open = 0;
  waiting = 0;
  /** Runs while calls wait. @type {NodeJS.Timeout | undefined} */
  expiry;

  /** @param {number} firstId @param {number} beginBy */
  constructor(firstId, beginBy) {
    this.firstId = firstId;
    this.beginBy = beginBy;
  }
}

/** Messages that are handled one after the other. */
export class Line {
  /** @type {Set<Call>} */
  queue = new Set();
  isBusy = false;

  /** @param {string | undefined} name */
  constructor(name) {
    this.name = name;
  }
}
