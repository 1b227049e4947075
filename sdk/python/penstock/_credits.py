"""Credits: the number of messages that a stream accepts."""

from __future__ import annotations

from collections.abc import Callable

# A stream accepts the messages that it can finish within this time, in seconds.
HORIZON = 2.0

# The maximum time of a measurement in seconds. Only time with messages at hand counts.
MAX_MEASUREMENT = 2.0


class Credits:
    """Decides how many messages may be at hand. Starts low, and follows the rate.

    Invariant: credits that the runtime has not used, plus messages at hand, grow only up to
    `limit`. The limit changes only after the runtime had used nearly all credits: otherwise
    the rate is that of the topic and not that of the handler.
    """

    def __init__(
        self, lanes: int, window: int, wait: float, grant: Callable[[int], None], now: float
    ) -> None:
        self._grant = grant
        self._window = window
        self._floor = min(window, 2 * lanes)
        # Well before the time at which the runtime would take waiting messages back.
        self._horizon = min(HORIZON, wait / 4)
        self.limit = self._floor
        self.unused = 0
        self.at_hand = 0
        self._least_unused = 0
        self._finished = 0
        self._busy = 0.0
        self._since = now

    def start(self) -> None:
        """Grants the first credits."""
        self._fill()

    def stop(self) -> None:
        """Grants no more."""
        self._grant = lambda credits: None

    def received(self, count: int, now: float) -> None:
        """Counts messages that came."""
        self._count_time(now)
        # Below 0 if the runtime sends more than it may. It is served all the same.
        self.unused -= count
        self._least_unused = min(self._least_unused, self.unused)
        self.at_hand += count

    def ended(self, now: float, *, finished: bool) -> None:
        """Counts a message that is gone: finished by the handler, or withdrawn."""
        self._count_time(now)
        self.at_hand -= 1
        if finished:
            self._finished += 1
        if 2 * self._finished >= self.limit or self._busy >= MAX_MEASUREMENT:
            self._adjust()
        self._fill()

    def _count_time(self, now: float) -> None:
        if self.at_hand:
            self._busy += now - self._since
        self._since = now

    def _adjust(self) -> None:
        if 8 * self._least_unused <= self.limit:
            wanted = self._finished / max(self._busy, 1e-6) * self._horizon
            self.limit = round(max(self._floor, min(wanted, 2 * self.limit, self._window)))
        self._finished, self._busy = 0, 0.0
        self._least_unused = self.unused

    def _fill(self) -> None:
        more = self.limit - self.unused - self.at_hand
        if more > 0:
            self.unused += more
            self._grant(more)
