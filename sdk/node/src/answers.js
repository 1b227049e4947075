const MAX_ANSWER = 1024 * 1024;

/** Gathers parts of the handler's answers, and sends them one after the other. */
export class Answers {
  #send;
  #sizeOf;
  /** @type {object | undefined} */
  #welcome;
  #credits = 0;
  /** @type {Set<number>} */
  #begun = new Set();
  /** @type {object[]} */
  #extensions = [];
  /** @type {number[]} */
  #done = [];
  /** @type {object[]} */
  #verdicts = [];
  /** @type {(() => void)[]} Called when what is gathered now was written. */
  #confirm = [];
  #scheduled = false;
  #sending = false;
  /** @type {Promise<void>} */
  #flushing = Promise.resolve();
  #ended = false;

  /**
   * @param {object} welcome
   * @param {(message: object) => Promise<void>} send resolves when the message is written
   * @param {(message: object) => number} sizeOf
   */
  constructor(welcome, send, sizeOf) {
    this.#welcome = welcome;
    this.#send = send;
    this.#sizeOf = sizeOf;
    this.#wake();
  }

  /** @param {number} credits */
  grant(credits) {
    if (credits > 0) {
      this.#credits += credits;
      this.#wake();
    }
  }

  /**
   * Reports that a call begins. With confirm it returns a promise that resolves when the
   * report is written, or never will be.
   * @param {number} id @param {boolean} confirm
   */
  begin(id, confirm) {
    this.#begun.add(id);
    this.#wake();
    if (confirm && !this.#ended) {
      return new Promise((resolve) => this.#confirm.push(() => resolve(undefined)));
    }
    return undefined;
  }

  /** @param {number} id @param {import("./verdicts.js").Judgement} judged */
  settle(id, judged) {
    this.#begun.delete(id);
    if (judged.name === "done" && !judged.produce?.length) {
      this.#done.push(id);
    } else {
      this.#verdicts.push({ firstId: id, count: 1, [judged.name]: outcomeOf(judged) });
    }
    this.#wake();
  }

  /** @param {number} id @param {number} ms */
  extend(id, ms) {
    this.#extensions.push({ deliveries: { firstId: id, count: 1 }, timeMs: Math.floor(ms) });
    this.#wake();
  }

  /** Sends nothing more, and lets those go on that wait for it. */
  end() {
    this.#ended = true;
    for (const confirm of this.#confirm.splice(0)) {
      confirm();
    }
  }

  #wake() {
    if (!this.#scheduled && !this.#sending && !this.#ended) {
      this.#scheduled = true;
      // Calls that end in this turn of the event loop share an answer.
      setImmediate(() => {
        this.#scheduled = false;
        void this.flush();
      });
    }
  }

  /** Sends what was gathered, and waits until it is written. */
  flush() {
    this.#flushing = this.#flushing.then(() => this.#flushNow());
    return this.#flushing;
  }

  async #flushNow() {
    this.#sending = true;
    try {
      while (!this.#ended) {
        const confirm = this.#confirm.splice(0);
        const messages = this.#take();
        if (messages.length === 0) {
          confirm.forEach((written) => written());
          break;
        }
        for (const message of messages) {
          await this.#send(message);
        }
        confirm.forEach((written) => written());
      }
    } catch {
      // The stream is lost; its end is noticed where it is read.
      this.end();
    } finally {
      this.#sending = false;
    }
  }

  #take() {
    /** @type {any} */
    const first = { begun: ranges([...this.#begun].sort(ascending)), extensions: this.#extensions, verdicts: [] };
    if (this.#welcome !== undefined) {
      first.welcome = this.#welcome;
    }
    const verdicts = this.#verdicts;
    for (const range of ranges(this.#done.sort(ascending))) {
      verdicts.push({ ...range, done: {} });
    }
    const credits = this.#credits;
    this.#welcome = undefined;
    this.#begun.clear();
    [this.#extensions, this.#done, this.#verdicts, this.#credits] = [[], [], [], 0];
    const all = this.#cut(first, verdicts);
    if (credits > 0) {
      // A zero would be sent too.
      all[all.length - 1].credits = credits;
    }
    return all.length === 1 && this.#sizeOf(first) === 0 ? [] : all;
  }

  /** @param {any} first @param {object[]} verdicts @returns {any[]} */
  #cut(first, verdicts) {
    const all = [first];
    let size = this.#sizeOf(first);
    for (const verdict of verdicts) {
      const more = this.#sizeOf({ verdicts: [verdict] });
      if (size > 0 && size + more > MAX_ANSWER) {
        all.push({ verdicts: [] });
        size = 0;
      }
      all[all.length - 1].verdicts.push(verdict);
      size += more;
    }
    return all;
  }
}

/** @param {import("./verdicts.js").Judgement} judged */
function outcomeOf({ name, reason, delayMs, produce }) {
  switch (name) {
    case "done":
      return { produce };
    case "retry":
      return { reason, delayMs: delayMs ?? 0 };
    default:
      return { reason };
  }
}

/** @param {number} a @param {number} b */
function ascending(a, b) {
  return a - b;
}

/** @param {number[]} ids sorted */
function ranges(ids) {
  /** @type {{ firstId: number, count: number }[]} */
  const all = [];
  for (const id of ids) {
    const last = all[all.length - 1];
    if (last !== undefined && last.firstId + last.count === id) {
      last.count++;
    } else {
      all.push({ firstId: id, count: 1 });
    }
  }
  return all;
}
