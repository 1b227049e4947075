import { verdictName } from "./verdicts.js";

const MAX_FAILURES = 10;
const MAX_SHOWN = 1000;

/**
 * The handler's log. It logs at most ten failures a second: an outage has every message
 * fail, and the runtime counts them.
 */
export class Log {
  #logger;
  #second = 0;
  #count = 0;
  #suppressed = 0;

  /** @param {import("./index.js").Logger} logger */
  constructor(logger) {
    this.#logger = logger;
  }

  /** @param {string} text */
  info(text) {
    this.guard("the logger", () => this.#logger.info(text));
  }

  /** @param {string} text */
  warn(text) {
    this.guard("the logger", () => this.#logger.warn(text));
  }

  /** @param {string} text @param {unknown} [error] */
  error(text, error) {
    this.guard("the logger", () => (error === undefined ? this.#logger.error(text) : this.#logger.error(text, error)));
  }

  /**
   * Logs a verdict other than done.
   * @param {import("./message.js").Message} message
   * @param {import("./verdicts.js").Judgement} judged
   * @param {unknown} thrown
   */
  failure(message, judged, thrown) {
    this.guard("the logger", () => this.#failure(message, judged, thrown));
  }

  /**
   * @param {import("./message.js").Message} message
   * @param {import("./verdicts.js").Judgement} judged
   * @param {unknown} thrown
   */
  #failure(message, judged, thrown) {
    if (judged.name === "skip") {
      return;
    }
    const second = Math.floor(Date.now() / 1000);
    if (second !== this.#second) {
      [this.#second, this.#count] = [second, 0];
    }
    if (this.#count === MAX_FAILURES) {
      this.#suppressed++;
      return;
    }
    this.#count++;
    const more = this.#suppressed > 0 ? `; ${this.#suppressed} failures before this one were not logged` : "";
    this.#suppressed = 0;
    const where = `${message.topic}/${message.partition}/${message.offset}, attempt ${message.attempt}`;
    // A verdict is a decision, and needs no stack.
    const stack = verdictName(thrown) === undefined ? thrown : /** @type {Error} */ (thrown).cause;
    this.error(`a message failed (${where}): ${judged.name}: ${judged.reason.slice(0, MAX_SHOWN)}${more}`, stack);
  }

  /**
   * Calls code of the program that is no handler. An error there ends nothing.
   * @param {string} what @param {() => void} call
   */
  guard(what, call) {
    try {
      call();
    } catch (error) {
      process.stderr.write(`penstock: ${what} failed: ${error instanceof Error ? error.stack : "unknown"}\n`);
    }
  }
}
