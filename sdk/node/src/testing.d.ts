import { Handler, Header, Message, MessageFields, Options } from "penstock";

/** Returns a message; an object is encoded as JSON, and null makes a tombstone. */
export function message(value?: string | object | null, fields?: Omit<MessageFields, "key"> & { key?: string | Buffer | null }): Message;

export interface Verdict {
  outcome: "done" | "retry" | "skip" | "deadLetter" | "fail" | "release";
  reason: string;
  /** The minimum delay before the message is sent again. */
  delayMs: number;
  produced: {
    topic: string;
    partition?: number;
    key: Buffer | null;
    value: Buffer | null;
    headers: Header[];
    timestamp?: Date;
  }[];
}

export interface Delivery {
  readonly id: number;
  readonly message: Message;
  readonly verdict: Promise<Verdict>;
  /** Resolves when the handler reports that it begins the message, or settles it. */
  readonly begun: Promise<void>;
  readonly hasBegun: boolean;
  readonly isSettled: boolean;
  readonly extensions: number[];
}

export interface RuntimeOptions extends Omit<Options, "socket" | "port" | "signal" | "onListening"> {
  /** The order of the consumer; "any" by default, "batch" for InOrder, "key" for KeyOrdered. */
  order?: "any" | "batch" | "key";
  timeoutMs?: number;
  maxTimeoutMs?: number;
  waitMs?: number;
}

/** Has a handler process one message, and returns its verdict. */
export function handle(handler: Handler, message: Message, options?: RuntimeOptions): Promise<Verdict>;

/** A runtime in memory, with a stream to a handler. */
export class FakeRuntime {
  constructor(handler: Handler, options?: RuntimeOptions);
  /** The number of messages that the handler takes now. */
  readonly credits: number;
  readonly welcome: any;
  readonly error: Error | undefined;
  /** Resolves when the handler has ended the stream. */
  readonly ended: Promise<void>;
  /** Sends messages as one batch, whatever the credits. */
  send(...messages: Message[]): Delivery[];
  /** Sends messages with a last moment at which they may begin, in milliseconds since 1970. */
  sendBy(beginByMs: number, ...messages: Message[]): Delivery[];
  /** Sends messages in batches for which there are credits. */
  feed(...messages: Message[]): Promise<Delivery[]>;
  cancel(reason: "revoked" | "timedOut" | "notBegun", ...deliveries: Delivery[]): void;
  /** Loses the stream. */
  lose(): void;
  /** Loses the stream, and opens another one. */
  reconnect(): void;
  /** Ends the runtime's side of the stream. */
  close(): void;
  /** Waits until a condition holds, which is checked at each answer. */
  until(condition: () => boolean): Promise<void>;
  /** Stops the handler, and waits until it has ended the stream. */
  stop(): Promise<void>;
}
