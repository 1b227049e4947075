/** A header's name and value; a value is null where there is none. */
export type Header = [name: string, value: Buffer | null];

/** A record to produce in the transaction that commits a message's offset. */
export interface ProducedRecord {
  topic: string;
  /** Without it the key selects the partition. */
  partition?: number;
  key?: string | Uint8Array | null;
  /** Null or absent: a tombstone. */
  value?: string | Uint8Array | null;
  headers?: Iterable<[name: string, value?: string | Uint8Array | null]>;
  /** Absent: now. A number is milliseconds since 1970. */
  timestamp?: Date | number;
}

/** The fields with which a test makes a message. */
export interface MessageFields {
  group?: string;
  topic?: string;
  partition?: number;
  epoch?: bigint | number;
  offset?: bigint | number;
  timestamp?: Date;
  key?: Buffer | null;
  value?: Buffer | null;
  headers?: Header[];
  attempt?: number;
}

/** One Kafka message, delivered once. */
export class Message {
  constructor(fields?: MessageFields);
  group: string;
  topic: string;
  partition: number;
  /** Counts the partition assignments of the runtime. */
  epoch: bigint;
  offset: bigint;
  timestamp: Date | undefined;
  /** Null where there is none; an empty one is not null. */
  key: Buffer | null;
  /** Null in a tombstone. */
  value: Buffer | null;
  /** In the message's order; a name may occur more than once. */
  headers: Header[];
  /** The number of this attempt, from 1. */
  attempt: number;
  /** GROUP/TOPIC/PARTITION/OFFSET: the same at every attempt and in every process. */
  readonly idempotencyKey: string;
  /** Aborted when the time of the attempt is over or the message was withdrawn. */
  readonly signal: AbortSignal;
  /** Returns the value of the last header of a name; undefined if there is none. */
  header(name: string): Buffer | null | undefined;
  /** Returns the value as JSON. */
  json(): any;
  /**
   * Gives the attempt at least this time from now on, within handler.maxTimeout of the
   * manifest. Returns the time in milliseconds that it has, which may be less.
   */
  extend(ms: number): number;
  /** Adds a record to the transaction that commits this message's offset; it is copied. */
  produce(record: ProducedRecord): void;
  toJSON(): object;
}

/** The error of a call on a message whose handler has returned. */
export class SettledError extends Error {}

/** A verdict other than done. A handler throws or returns it, or an error that has it as its cause. */
export abstract class Verdict extends Error {}

/** The attempt failed in a way that may pass. Any error that is no verdict counts as one. */
export class Retry extends Verdict {
  constructor(reason?: string | Error, options?: { delayMs?: number; cause?: unknown });
  readonly delayMs: number;
}

/** The message is not to be handled. */
export class Skip extends Verdict {
  constructor(reason?: string | Error, options?: { cause?: unknown });
}

/** The message goes to the dead-letter topic at once. */
export class DeadLetter extends Verdict {
  constructor(reason?: string | Error, options?: { cause?: unknown });
}

/** The message can't be handled, and another attempt would not help. */
export class Fail extends Verdict {
  constructor(reason?: string | Error, options?: { cause?: unknown });
}

/** Handles one message. It returns nothing, or a verdict. */
export type Handler = (message: Message) => void | Verdict | Promise<void | Verdict>;

/** Wraps each call of a handler. */
export type Interceptor = (next: Handler) => Handler;

export interface Logger {
  info(text: string): void;
  warn(text: string): void;
  error(text: string, error?: unknown): void;
}

export interface Options {
  /** The maximum number of calls at the same time; 16 by default. */
  concurrency?: number;
  /** The maximum number of messages in memory; 2000 by default. */
  window?: number;
  /** Wrap each call, the first one outermost. */
  interceptors?: Interceptor[];
  /** The console by default. */
  logger?: Logger;
  /** Listens on this socket, instead of the one that the environment names. */
  socket?: string;
  /** Listens on this port, instead of what the environment says. */
  port?: number;
  /** Stops the server when it is aborted; signals of the process do not then. */
  signal?: AbortSignal;
  onListening?(address: string): void;
  /** There is a verdict on a message: done, retry, skip, deadLetter, fail or release. */
  onSettled?(message: Message, verdict: string): void;
}

/**
 * Calls the handler for each message until SIGTERM or SIGINT. It then begins no other
 * message, waits for the calls that run, and resolves. A second signal ends the process.
 */
export function serve(handler: Handler, options?: Options): Promise<void>;

/** Serves a handler on streams of another kind. Most programs call serve instead. */
export class Server {
  constructor(handler: Handler, options?: Options);
  stop(): Promise<number>;
}

export const version: string;
