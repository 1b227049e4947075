"""Watches the event loop from a thread: for calls that block it, and for a stop that hangs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
import traceback

from penstock._handler import log

# The time between two looks, and the time after which a loop counts as blocked, in seconds.
INTERVAL = 0.25
BLOCKED = 1.0


class Watchdog:
    """Warns once for each time that the event loop is blocked."""

    def __init__(self, loop: asyncio.AbstractEventLoop, blocked: float = BLOCKED) -> None:
        self._loop = loop
        self._blocked = blocked
        self._loop_thread = threading.get_ident()
        self._ended = threading.Event()
        self._exit_at: float | None = None
        self._answered = True
        self._thread = threading.Thread(
            target=self._watch, name="penstock-watchdog", daemon=True
        )

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._ended.set()

    def exit_after(self, seconds: float) -> None:
        """Ends the process at that time unless the watchdog is stopped before."""
        self._exit_at = time.monotonic() + seconds

    def _watch(self) -> None:
        asked, warned, looked = time.monotonic(), False, time.monotonic()
        while not self._ended.wait(INTERVAL):
            now = time.monotonic()
            if now - looked > 2 * INTERVAL:
                # The whole process stood still, not the loop alone.
                asked = now
            looked = now
            if self._exit_at is not None and now > self._exit_at:
                log.critical("the handler did not stop in time; the process exits now")
                os._exit(1)
            if self._loop.is_closed():
                continue
            if self._answered:
                if warned:
                    log.warning("the event loop is free again after %.1f s", now - asked)
                asked, warned = now, False
                self._answered = False
                # It may be closed at this very moment.
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._answer)
            elif now - asked > self._blocked and not warned:
                warned = True
                self._warn(now - asked)

    def _answer(self) -> None:
        self._answered = True

    def _warn(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        stack = "".join(traceback.format_stack(frame)) if frame else ""
        log.warning(
            "the event loop has been blocked for %.1f s, so that no other call, verdict or "
            "signal is served: await instead, or make the handler a plain function, which "
            "runs in a thread. The loop is here:\n%s",
            seconds,
            stack,
        )
