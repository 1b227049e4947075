/** @typedef {{ name: string, reason: string, delayMs?: number, produce?: object[] }} Judgement */

// Recognised across several copies of this package.
const BRAND = Symbol.for("penstock.verdict");
const MAX_REASON = 16 * 1024;
const MAX_CAUSES = 32;

/** A verdict other than done. It is thrown or returned by a handler. */
export class Verdict extends Error {
  /**
   * @param {string} name
   * @param {string | Error} [reason]
   * @param {{ cause?: unknown }} [options]
   */
  constructor(name, reason = "", options = {}) {
    const cause = reason instanceof Error ? reason : options.cause;
    super(reason instanceof Error ? reason.message : String(reason), cause === undefined ? {} : { cause });
    this.name = new.target.name;
    Object.defineProperty(this, BRAND, { value: name });
  }
}

/** The attempt failed in a way that may pass. Any error that is no verdict counts as one. */
export class Retry extends Verdict {
  /**
   * @param {string | Error} [reason]
   * @param {{ delayMs?: number, cause?: unknown }} [options] the minimum delay before the
   *   next attempt; backoff.max limits it
   */
  constructor(reason, options = {}) {
    super("retry", reason, options);
    const delay = options.delayMs ?? 0;
    if (!Number.isFinite(delay) || delay < 0) {
      throw new RangeError(`delayMs is ${delay}; it must be a number of at least 0`);
    }
    this.delayMs = Math.min(Math.round(delay), Number.MAX_SAFE_INTEGER);
  }
}

/** The message is not to be handled: logged, counted as skipped, and committed past. */
export class Skip extends Verdict {
  /** @param {string | Error} [reason] @param {{ cause?: unknown }} [options] */
  constructor(reason, options) {
    super("skip", reason, options);
  }
}

/** The message goes to the dead-letter topic at once. */
export class DeadLetter extends Verdict {
  /** @param {string | Error} [reason] @param {{ cause?: unknown }} [options] */
  constructor(reason, options) {
    super("deadLetter", reason, options);
  }
}

/** The message can't be handled, and another attempt would not help. */
export class Fail extends Verdict {
  /** @param {string | Error} [reason] @param {{ cause?: unknown }} [options] */
  constructor(reason, options) {
    super("fail", reason, options);
  }
}

/**
 * Returns the name of a verdict, or undefined for any other value.
 * @param {any} value
 * @returns {string | undefined}
 */
export function verdictName(value) {
  return typeof value === "object" && value !== null ? value[BRAND] : undefined;
}

/**
 * Returns the judgement of what a handler threw: that of the outermost verdict among the
 * error, its causes and the errors that it joins, with the text of the error.
 * @param {unknown} thrown
 * @returns {Judgement}
 */
export function judge(thrown) {
  try {
    const found = findVerdict(thrown);
    const reason = clean(textOf(thrown));
    const name = found === undefined ? "retry" : /** @type {string} */ (verdictName(found));
    return name === "retry" ? { name, reason, delayMs: found?.delayMs ?? 0 } : { name, reason };
  } catch {
    return { name: "retry", reason: "the handler threw an object whose properties throw", delayMs: 0 };
  }
}

/** @param {any} thrown @returns {any} */
function findVerdict(thrown) {
  let waiting = [thrown];
  for (let count = 0; count < MAX_CAUSES && waiting.length > 0; count++) {
    const [first, ...others] = waiting;
    if (verdictName(first) !== undefined) {
      return first;
    }
    const causes = [];
    if (first instanceof Error) {
      if (Array.isArray(/** @type {any} */ (first).errors)) {
        causes.push(.../** @type {any} */ (first).errors);
      }
      if (first.cause !== undefined) {
        causes.push(first.cause);
      }
    }
    waiting = [...others, ...causes];
  }
  return undefined;
}

/** @param {any} thrown @returns {string} */
function textOf(thrown) {
  if (verdictName(thrown) !== undefined) {
    return thrown.message;
  }
  return thrown instanceof Error ? `${thrown.name}: ${thrown.message}` : `the handler threw ${String(thrown)}`;
}

/**
 * Returns a text that can be sent, and not too long.
 * @param {string} reason
 */
export function clean(reason) {
  const text = String(reason).slice(0, MAX_REASON).toWellFormed?.() ?? String(reason).slice(0, MAX_REASON);
  return reason.length > MAX_REASON ? `${text}…` : text;
}
