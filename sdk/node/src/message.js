const MAX_PRODUCED = 15 * 1024 * 1024;
const TOPIC = /^(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}$/;

/** The error of a call on a message whose handler has returned. */
export class SettledError extends Error {
  constructor() {
    super("the handler is no longer at work on this message");
    this.name = "SettledError";
  }
}

/** One Kafka message, delivered once. */
export class Message {
  /** @type {import("./call.js").Call | undefined} */
  #call;
  #settled = false;
  /** @type {object[]} */
  #produced = [];
  #size = 0;
  /** @type {Error | undefined} */
  #refused;

  /** @param {Record<string, any>} fields @param {import("./call.js").Call} [call] */
  constructor(fields, call) {
    this.group = fields.group ?? "";
    this.topic = fields.topic ?? "";
    this.partition = fields.partition ?? 0;
    /** Counts the partition assignments of the runtime. @type {bigint} */
    this.epoch = BigInt(fields.epoch ?? 0);
    /** @type {bigint} */
    this.offset = BigInt(fields.offset ?? 0);
    /** Undefined where the message has none. @type {Date | undefined} */
    this.timestamp = fields.timestamp;
    /** Null where there is none; an empty one is not null. @type {Buffer | null} */
    this.key = fields.key ?? null;
    /** Null in a tombstone. @type {Buffer | null} */
    this.value = fields.value ?? null;
    /** In the message's order; a name may occur more than once. @type {[string, Buffer | null][]} */
    this.headers = fields.headers ?? [];
    /** The number of this attempt, from 1. @type {number} */
    this.attempt = fields.attempt ?? 1;
    this.#call = call;
  }

  /** Identifies the message for good: the same at every attempt and in every process. */
  get idempotencyKey() {
    return `${this.group}/${this.topic}/${this.partition}/${this.offset}`;
  }

  /**
   * Ends when the time of the attempt is over or the message's partition was assigned to
   * another consumer.
   * @returns {AbortSignal}
   */
  get signal() {
    return this.#call?.signal ?? new AbortController().signal;
  }

  /**
   * Returns the value of the last header of a name; undefined if there is none.
   * @param {string} name
   */
  header(name) {
    return this.headers.findLast(([found]) => found === name)?.[1];
  }

  /** Returns the value as JSON. */
  json() {
    if (this.value === null) {
      throw new SyntaxError("a tombstone has no value");
    }
    return JSON.parse(this.value.toString("utf8"));
  }

  /**
   * Gives the attempt at least this time from now on, within handler.maxTimeout of the
   * manifest. Returns the time that it has, which may be less.
   * @param {number} ms
   * @returns {number}
   */
  extend(ms) {
    if (!Number.isFinite(ms) || ms <= 0) {
      throw new RangeError(`${ms} ms is no time to extend an attempt by`);
    }
    return this.#call === undefined ? ms : this.#call.extend(ms);
  }

  /**
   * Adds a record to the transaction that commits this message's offset. The record is
   * copied. If it is refused, the message fails even if the handler catches the error.
   * @param {any} record
   */
  produce(record) {
    if (this.#settled) {
      throw new SettledError();
    }
    if (this.#refused !== undefined) {
      throw this.#refused;
    }
    try {
      const encoded = encodeRecord(record);
      this.#size += sizeOf(encoded);
      if (this.#size > MAX_PRODUCED) {
        throw new RangeError(`the records of one message exceed ${MAX_PRODUCED / 1024 / 1024} MiB`);
      }
      this.#produced.push(encoded);
    } catch (error) {
      this.#produced = [];
      this.#refused = /** @type {Error} */ (error);
      throw error;
    }
  }

  /**
   * Ends the time for produce, and returns what a handler's success stands for.
   * @returns {import("./verdicts.js").Judgement}
   */
  close() {
    this.#settled = true;
    if (this.#refused !== undefined) {
      return { name: "fail", reason: this.#refused.message };
    }
    return { name: "done", reason: "", produce: this.#produced };
  }

  toJSON() {
    return { ...this, offset: String(this.offset), epoch: String(this.epoch) };
  }
}

/** @param {any} record */
function encodeRecord(record) {
  const { topic, partition, key, value, headers = [], timestamp } = record;
  if (typeof topic !== "string" || !TOPIC.test(topic)) {
    throw new TypeError(`${String(topic).slice(0, 60)} is no name of a topic`);
  }
  if (partition !== undefined && !(Number.isInteger(partition) && partition >= 0 && partition < 2 ** 31)) {
    throw new RangeError(`there is no partition ${partition}`);
  }
  /** @type {Record<string, any>} */
  const encoded = { topic, headers: [] };
  for (const [name, data] of headers) {
    if (typeof name !== "string") {
      throw new TypeError("the name of a header is not a string");
    }
    encoded.headers.push({ name: name.toWellFormed?.() ?? name, ...present("value", bytesOf(data, "a header")) });
  }
  Object.assign(encoded, present("key", bytesOf(key, "the key")), present("value", bytesOf(value, "the value")));
  if (partition !== undefined) {
    encoded.partition = partition;
  }
  if (timestamp !== undefined) {
    const ms = timestamp instanceof Date ? timestamp.getTime() : timestamp;
    if (!Number.isSafeInteger(ms) || ms < 0) {
      throw new RangeError(`the timestamp ${ms} is no number of milliseconds since 1970`);
    }
    encoded.timestampMs = ms;
  }
  return encoded;
}

/** @param {string} name @param {Buffer | undefined} data */
function present(name, data) {
  return data === undefined ? {} : { [name]: data };
}

/** @param {any} data @param {string} what @returns {Buffer | undefined} a copy */
function bytesOf(data, what) {
  if (data === undefined || data === null) {
    return undefined;
  }
  if (typeof data === "string") {
    return Buffer.from(data, "utf8");
  }
  if (data instanceof Uint8Array) {
    return Buffer.from(data);
  }
  throw new TypeError(`${what} is neither a string nor a Uint8Array`);
}

/** @param {any} record */
function sizeOf(record) {
  let size = record.topic.length + (record.key?.length ?? 0) + (record.value?.length ?? 0) + 64;
  for (const header of record.headers) {
    size += Buffer.byteLength(header.name) + (header.value?.length ?? 0) + 16;
  }
  return size;
}
