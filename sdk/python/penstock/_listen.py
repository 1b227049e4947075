"""Where the server listens."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

DEFAULT_SOCKET = "/run/penstock/handler.sock"

# The maximum length of a socket's path in bytes.
MAX_PATH = 107

# The time to ask a server at a socket, in seconds.
PROBE_TIMEOUT = 1.0

_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\[\]]+\]|[^:\[\]]+):(?P<port>\d+)", re.ASCII)


def addresses(address: str | None, environment: Mapping[str, str]) -> list[str]:
    """Returns the addresses to try in their order, as gRPC writes them.

    The environment decides without an address: `PENSTOCK_HANDLER_SOCKET`, then `PORT`.
    """
    if address is not None:
        return [_check(address)]
    path, port = environment.get("PENSTOCK_HANDLER_SOCKET"), environment.get("PORT")
    if path or not port:
        return [_check(f"unix:{path or DEFAULT_SOCKET}")]
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ValueError(f"PORT is {port!r}, which is no port number")
    # Both families, or IPv4 where a machine has no IPv6.
    return [f"[::]:{port}", f"0.0.0.0:{port}"]


def socket_path(address: str) -> str | None:
    """Returns the path of a Unix socket's address, `None` for any other address."""
    if not address.startswith("unix:"):
        return None
    path = address.removeprefix("unix:")
    return path[2:] if path.startswith("///") else path


def _check(address: str) -> str:
    if not isinstance(address, str):
        raise TypeError(f"the address is text, not {type(address).__name__}")
    path = socket_path(address)
    if path is not None:
        if not path or len(os.fsencode(path)) > MAX_PATH:
            raise ValueError(f"a socket's path has 1 to {MAX_PATH} bytes: {path!r}")
        return f"unix:{path}"
    found = _HOST_AND_PORT.fullmatch(address)
    if address.startswith("unix-abstract:") or (found and int(found["port"]) < 1 << 16):
        return address
    raise ValueError(f"the address {address!r} is neither unix:/PATH nor HOST:PORT")


class SocketLock:
    """Keeps a socket's path for this process, and removes a socket that nobody serves.

    The lock file next to the socket stays: a lock on a file that may be removed is none.
    """

    def __init__(self, path: str) -> None:
        directory = Path(path).parent
        if not directory.is_dir():
            raise FileNotFoundError(
                errno.ENOENT,
                f"can't listen on {path}, as its directory does not exist: create it, or set "
                "PENSTOCK_HANDLER_SOCKET to another path, or PORT to a port",
            )
        self._file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _in_use(path) from None
            _remove_stale(path)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Lets another process have the path."""
        os.close(self._file)


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(
            errno.EEXIST, f"can't listen on {path}, as it is no socket: remove it by hand"
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_TIMEOUT)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            pass
        except OSError:
            # A server that is too busy to answer is one.
            raise _in_use(path) from None
        else:
            raise _in_use(path)
    os.unlink(path)


def _in_use(path: str) -> OSError:
    return OSError(errno.EADDRINUSE, f"can't listen on {path}, as another process serves it")
