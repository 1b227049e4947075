// A handler that does what the header `behaviour` of a message says, and nothing without one.
//
// --list prints the behaviours. Each call writes partition, offset and attempt to
// HOSTILE_JOURNAL.
import { spawn } from "node:child_process";
import { closeSync, openSync, writeSync } from "node:fs";
import { DeadLetter, Fail, Retry, Skip, serve } from "../../../sdk/node/src/index.js";

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const aborted = (signal) => new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
const kept = [];

/** Blocks the event loop. */
function block(ms) {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

function recurse() {
  return recurse() + 1;
}

async function kill(signal) {
  process.kill(process.pid, signal);
  await new Promise(() => {});
}

const behaviours = {
  // Errors.
  raise: async () => {
    throw new Error("no database");
  },
  panic: () => {
    throw "no database";
  },
  "throw-nothing": () => {
    throw undefined;
  },
  "unreadable-error": () => {
    throw {
      toString() {
        throw new Error("no text");
      },
    };
  },
  recurse: () => {
    recurse();
  },
  "allocate-too-much": () => {
    kept.push(Buffer.alloc(2 ** 53));
  },

  // Verdicts, and values that are none.
  "return-retry": () => new Retry("still busy"),
  "return-skip": async () => new Skip("a test message"),
  "return-dead-letter": () => {
    throw new DeadLetter("a negative amount");
  },
  "return-fail": () => new Fail("no such order"),
  "wrapped-verdict": () => {
    const cause = new DeadLetter("not this one");
    throw new Error("a negative amount", { cause });
  },
  "return-a-value": () => true,
  "huge-reason": () => new Fail("x".repeat(8 << 20)),
  "reason-not-text": () => new Fail("odd \ud800"),
  "reason-with-lines": () => new Fail("first\r\nsecond\0 \x1b[31mred"),
  "reason-empty": () => new Fail(),
  "negative-delay": () => new Retry("busy", { delayMs: -5000 }),
  "endless-delay": () => new Retry("much later", { delayMs: Number.MAX_VALUE }),

  // Records.
  produce: (message) => message.produce({ topic: "out", value: "1" }),
  "produce-too-much": (message) => {
    try {
      for (let count = 0; count < 20; count++) {
        message.produce({ topic: "out", value: Buffer.alloc(1 << 20) });
      }
    } catch {
      // Ignored, as a careless handler does.
    }
  },
  "produce-nonsense": (message) => {
    try {
      message.produce({ topic: "", value: "1" });
    } catch {
      // Ignored, as a careless handler does.
    }
  },
  "produce-late": (message) => {
    setTimeout(() => {
      try {
        message.produce({ topic: "out", value: "1" });
      } catch {
        // It comes too late.
      }
    }, 100);
  },

  // Time.
  "take-too-long": async () => {
    await pause(3000);
  },
  "ignore-cancel": async () => {
    await pause(4000);
  },
  "answer-too-late": async (message) => {
    await aborted(message.signal);
    // The SDK's clock and the runtime's end within moments of each other.
    await pause(500);
  },
  "wait-forever": () => new Promise(() => {}),
  extend: async (message) => {
    message.extend(3500);
    await pause(2500);
  },
  "extend-forever": async (message) => {
    while (!message.signal.aborted) {
      message.extend(3_600_000);
      await pause(100);
    }
  },
  "extend-nonsense": (message) => {
    message.extend(-1);
  },
  "step-the-clock": async () => {
    const real = Date.now;
    Date.now = () => real() + 86_400_000;
    await pause(300);
    Date.now = real;
  },

  // What it leaves behind.
  outlive: () => {
    const timer = setInterval(() => {}, 1);
    setTimeout(() => clearInterval(timer), 2000);
  },
  "background-error": () => {
    setTimeout(() => Promise.reject(new Error("in the background")), 100);
  },
  "change-message": (message) => {
    Object.assign(message, { topic: "", key: null, headers: [], offset: -1n, attempt: 0 });
  },
  "close-output": () => {
    try {
      closeSync(1);
    } catch {
      // The message came before.
    }
  },
  "flood-output": () => {
    for (let count = 0; count < 2000; count++) {
      process.stderr.write(`${"flood ".repeat(170)}\n`);
    }
  },
  leak: () => {
    kept.push(Buffer.alloc(32 << 20, "x"));
  },
  "start-a-process": () => {
    spawn("sleep", ["30"], { stdio: ["ignore", "ignore", "inherit"] });
  },

  // The process ends.
  "exit-with-0": () => process.exit(0),
  "exit-with-1": () => process.exit(1),
  abort: () => process.abort(),
  "kill-itself": () => kill("SIGKILL"),
  segfault: () => kill("SIGSEGV"),
  "exit-and-stay-away": () => process.exit(75),
  "terminate-itself": () => {
    process.kill(process.pid, "SIGTERM");
  },
  "exit-later": () => {
    setTimeout(() => process.exit(1), 20);
  },

  // The process stands still.
  freeze: async () => {
    spawn("sh", ["-c", `sleep 3; kill -CONT ${process.pid}`]);
    process.kill(process.pid, "SIGSTOP");
  },
  "block-the-loop": () => block(4000),
};

function handler(journal) {
  return (message) => {
    writeSync(journal, `${message.partition} ${message.offset} ${message.attempt}\n`);
    const name = message.header("behaviour");
    const times = message.header("times");
    if (name === undefined || (times !== undefined && message.attempt > Number(times))) {
      // Some are at work whenever another one ends the process.
      return pause(3);
    }
    return behaviours[String(name)](message);
  };
}

if (process.argv.includes("--list")) {
  console.log(Object.keys(behaviours).join("\n"));
} else {
  await serve(handler(openSync(process.env.HOSTILE_JOURNAL, "a")));
}
