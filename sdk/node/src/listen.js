import { lstat, unlink } from "node:fs/promises";
import net from "node:net";
import { ServerCredentials } from "@grpc/grpc-js";

const DEFAULT_SOCKET = "/run/penstock/handler.sock";
// On Linux; macOS takes 103.
const MAX_SOCKET = 107;

/**
 * Listens where the options or the environment say; returns the address.
 * @param {import("@grpc/grpc-js").Server} server
 * @param {{ socket?: string, port?: number }} options
 * @returns {Promise<string>}
 */
export async function listen(server, { socket, port }) {
  if (port !== undefined) {
    return listenPort(server, port);
  }
  const path = socket ?? (process.env.PENSTOCK_HANDLER_SOCKET || undefined);
  if (path === undefined && process.env.PORT) {
    if (!/^\d{1,5}$/.test(process.env.PORT) || Number(process.env.PORT) > 65535) {
      throw new RangeError(`PORT is ${process.env.PORT}; it must be a number up to 65535`);
    }
    return listenPort(server, Number(process.env.PORT));
  }
  try {
    return await listenSocket(server, path ?? DEFAULT_SOCKET);
  } catch (error) {
    if (path === undefined) {
      throw new Error(`${/** @type {Error} */ (error).message}; outside of a pod set PENSTOCK_HANDLER_SOCKET or PORT, as penstock dev does`, { cause: error });
    }
    throw error;
  }
}

/** @param {import("@grpc/grpc-js").Server} server @param {number} port */
async function listenPort(server, port) {
  try {
    // All addresses, of IPv6 and IPv4.
    return `port ${await bind(server, `[::]:${port}`)}`;
  } catch (error) {
    if (await hasIpv6()) {
      throw error;
    }
    return `port ${await bind(server, `0.0.0.0:${port}`)}`;
  }
}

/** Returns true if the machine can listen on addresses of IPv6. */
function hasIpv6() {
  return new Promise((resolve) => {
    const probe = net.createServer();
    probe.once("error", () => resolve(false));
    probe.listen(0, "::", () => probe.close(() => resolve(true)));
  });
}

/** @param {import("@grpc/grpc-js").Server} server @param {string} path */
async function listenSocket(server, path) {
  if (Buffer.byteLength(path) > MAX_SOCKET) {
    throw new RangeError(`the path of a socket has at most ${MAX_SOCKET} bytes: ${path}`);
  }
  await removeStale(path);
  await bind(server, `unix:${path}`);
  return path;
}

/**
 * Removes a socket that a killed process has left. It touches neither a socket on which
 * somebody listens nor a file of another kind.
 * @param {string} path
 */
async function removeStale(path) {
  let found;
  try {
    found = await lstat(path);
  } catch (error) {
    if (/** @type {any} */ (error).code === "ENOENT") {
      return;
    }
    throw error;
  }
  if (!found.isSocket()) {
    throw new Error(`${path} is not a socket; remove it, or choose another path`);
  }
  const code = await new Promise((resolve) => {
    const probe = net.connect(path, () => {
      probe.destroy();
      resolve("");
    });
    probe.once("error", (error) => resolve(/** @type {any} */ (error).code));
  });
  if (code === "") {
    throw new Error(`another process listens on ${path}`);
  }
  if (code !== "ECONNREFUSED") {
    throw new Error(`it is unknown whether another process listens on ${path}: ${code}`);
  }
  await unlink(path);
}

/** @param {import("@grpc/grpc-js").Server} server @param {string} address @returns {Promise<number>} */
function bind(server, address) {
  return new Promise((resolve, reject) => {
    server.bindAsync(address, ServerCredentials.createInsecure(), (error, port) => {
      if (error) {
        reject(new Error(`the handler can't listen on ${address}: ${error.message}`, { cause: error }));
      } else {
        resolve(port);
      }
    });
  });
}
