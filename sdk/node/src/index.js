export { Message, SettledError } from "./message.js";
export { Server, serve } from "./server.js";
export { SDK_VERSION as version } from "./session.js";
export { DeadLetter, Fail, Retry, Skip, Verdict } from "./verdicts.js";
