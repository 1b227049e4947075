import { fileURLToPath } from "node:url";
import protoLoader from "@grpc/proto-loader";

const file = fileURLToPath(new URL("../proto/handler.proto", import.meta.url));
const definitions = protoLoader.loadSync(file, { longs: String, enums: String, oneofs: true, arrays: true });

/** The service of the contract. @type {any} */
export const service = definitions["penstock.handler.v1.Handler"];

/** Encodes and decodes the two kinds of messages. */
export const fromRuntime = {
  /** @param {object} message @returns {Buffer} */
  encode: (message) => service.Handle.requestSerialize(message),
  /** @param {Buffer} bytes @returns {any} */
  decode: (bytes) => service.Handle.requestDeserialize(bytes),
};

export const fromHandler = {
  /** @param {object} message @returns {Buffer} */
  encode: (message) => service.Handle.responseSerialize(message),
  /** @param {Buffer} bytes @returns {any} */
  decode: (bytes) => service.Handle.responseDeserialize(bytes),
};

/** @param {object} message */
export function sizeOf(message) {
  return fromHandler.encode(message).length;
}

const SERVING = Buffer.from([0x08, 1]);
const NOT_SERVING = Buffer.from([0x08, 2]);
const health = {
  requestStream: false,
  requestSerialize: (/** @type {Buffer} */ bytes) => bytes,
  requestDeserialize: (/** @type {Buffer} */ bytes) => bytes,
  responseSerialize: (/** @type {boolean} */ serving) => (serving ? SERVING : NOT_SERVING),
  responseDeserialize: (/** @type {Buffer} */ bytes) => bytes.equals(SERVING),
};

/** grpc.health.v1.Health, as far as the runtime asks. */
export const healthService = {
  Check: { ...health, path: "/grpc.health.v1.Health/Check", responseStream: false },
  Watch: { ...health, path: "/grpc.health.v1.Health/Watch", responseStream: true },
};
