// The time in which a handler should finish the messages that it holds, and the time with
// work over which the rate is measured, in milliseconds.
const HORIZON = 2000;
const MEASURED = 250;

/**
 * Decides how many credits to grant: so many that the messages in the handler can be
 * finished within the horizon, at the rate of late. It starts with one for each call that
 * can run, and at most doubles with the messages that were finished.
 */
export class Flow {
  granted = 0;
  returned = 0;
  #finished = 0;
  #floor;
  #window;
  #horizon;
  // Time without work does not count: a quiet minute says nothing about the rate.
  /** @type {number | undefined} */
  #busySince;
  #busy = 0;
  #count = 0;
  #rate = 0;

  /** @param {number} slots @param {number} window @param {number} waitMs 0: none */
  constructor(slots, window, waitMs) {
    this.#floor = Math.min(slots, window);
    this.#window = window;
    this.#horizon = waitMs > 0 ? Math.min(HORIZON, waitMs / 4) : HORIZON;
  }

  /** Notes whether there is work. @param {boolean} is @param {number} now */
  work(is, now) {
    if (is && this.#busySince === undefined) {
      this.#busySince = now;
    } else if (!is && this.#busySince !== undefined) {
      this.#busy += now - this.#busySince;
      this.#busySince = undefined;
    }
  }

  /** Notes that a message was finished. @param {number} now */
  finish(now) {
    this.#finished++;
    this.#count++;
    if (this.#busySince !== undefined) {
      this.#busy += now - this.#busySince;
      this.#busySince = now;
    }
    if (this.#busy < MEASURED) {
      return;
    }
    const rate = this.#count / this.#busy;
    this.#rate = this.#rate > 0 ? (this.#rate + rate) / 2 : rate;
    this.#busy = this.#count = 0;
  }

  /** Returns the number of credits to grant now. */
  grant() {
    const more = Math.max(0, this.#target() - (this.granted - this.returned));
    this.granted += more;
    return more;
  }

  #target() {
    let rate = this.#rate;
    if (rate === 0 && this.#count > 0) {
      rate = this.#count / Math.max(this.#busy, 0.001);
    }
    // The first few are too few to tell.
    const known = this.#floor + 2 * this.#finished;
    return Math.max(this.#floor, Math.min(Math.ceil(rate * this.#horizon), known, this.#window));
  }
}
