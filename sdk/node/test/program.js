// A handler in a process of its own, for process.test.js. It does what the message says.
import { serve } from "penstock";

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function handle(message) {
  switch (String(message.value)) {
    case "exit":
      process.exit(3);
    case "crash":
      process.abort();
    case "throw":
      setTimeout(() => {
        throw new Error("from a timer");
      }, 1);
      await new Promise(() => {});
    case "second":
      console.log("at work");
      await pause(1000);
      break;
    case "block":
      console.log("at work");
      await new Promise(() => {});
  }
}

try {
  await serve(handle, { concurrency: 8 });
} catch (error) {
  console.log(error.message);
  process.exitCode = 1;
}
