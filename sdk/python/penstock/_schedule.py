"""The messages that wait on a stream, and the order in which they begin."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from penstock import _verdicts
from penstock._message import CLAIMED, ENDED, WAITING, Message
from penstock.handler.v1 import handler_pb2 as v1

# The orders that this SDK keeps.
ORDERS = (v1.ORDER_UNSPECIFIED, v1.ORDER_BATCH, v1.ORDER_KEY)


class Schedule:
    """Gives out messages so that at most one of a place is at work.

    A place is the whole stream with ORDER_BATCH, and a key of a partition otherwise. A place
    is in `_behind` while a message of it is ready or at work; its other messages wait there.
    `end` is called with each message that will not begin, and the verdict on it, if any.
    """

    def __init__(
        self, order: int, end: Callable[[Message, _verdicts.Verdict | None], None]
    ) -> None:
        self.order = order
        self._end = end
        self._ready: deque[Message] = deque()
        self._behind: dict[object, deque[Message]] = {}
        # All messages without an end, by their numbers.
        self._open: dict[int, Message] = {}

    def __len__(self) -> int:
        return len(self._open)

    @property
    def ready(self) -> int:
        """The number of messages that may begin now, at most."""
        return len(self._ready)

    def add(self, messages: Iterable[Message]) -> None:
        """Adds the messages of a batch."""
        for message in messages:
            self._open[message._number] = message
            place = message._place = self._place(message)
            if place is None or self._behind.get(place) is None:
                self._ready.append(message)
                if place is not None:
                    self._behind[place] = deque()
            else:
                self._behind[place].append(message)

    def take(self, now: float) -> Message | None:
        """Takes the next message that may begin."""
        while self._ready:
            message = self._ready.popleft()
            if self._may_begin(message, now):
                message._state = CLAIMED
                return message
            self.advance(message)
        return None

    def take_behind(self, message: Message, now: float) -> Message | None:
        """Takes the message that follows in the same place and batch, to begin after it."""
        behind = self._behind.get(message._place)
        while behind and behind[0]._batch is message._batch:
            following = behind.popleft()
            if self._may_begin(following, now):
                following._state = CLAIMED
                return following
        return None

    def put_back(self, messages: list[Message]) -> None:
        """Takes messages back that were taken and have not begun.

        With ORDER_BATCH their place stays taken until `advance`.
        """
        for message in reversed(messages):
            message._state = WAITING
            if self.order == v1.ORDER_BATCH:
                self._behind[message._place].appendleft(message)
            else:
                self._ready.appendleft(message)

    def close(self, message: Message, *, stops: bool) -> None:
        """Notes the end of a message; with `stops`, none behind it may begin."""
        message._state = ENDED
        self._open.pop(message._number, None)
        if stops:
            self._stop(message)

    def advance(self, message: Message) -> None:
        """Lets the next message of the place begin."""
        behind = self._behind.get(message._place)
        if behind:
            self._ready.append(behind.popleft())
        elif behind is not None:
            del self._behind[message._place]

    def release(self, verdict: _verdicts.Verdict) -> None:
        """Gives back each message that waits."""
        for message in self._waiting():
            self._give_back(message, verdict)

    def release_late(self, now: float) -> None:
        """Gives back each message that waits and can't begin in time."""
        for message in self._waiting():
            if message._batch.begin_by <= now:
                self._give_back(message, _verdicts.LATE)

    def cancel(self, first: int, count: int) -> list[Message]:
        """Drops waiting messages; returns those at work, to be stopped."""
        at_work = []
        for message in self._range(first, count):
            message._cancelled = True
            self._stop(message)
            if message._state == WAITING:
                self._give_back(message, None)
            else:
                at_work.append(message)
        return at_work

    def _range(self, first: int, count: int) -> list[Message]:
        if count > len(self._open):
            end = first + count
            return [found for number, found in self._open.items() if first <= number < end]
        numbers = range(first, first + count)
        return [self._open[number] for number in numbers if number in self._open]

    def _waiting(self) -> Iterator[Message]:
        # A copy, as messages leave meanwhile.
        return (found for found in list(self._open.values()) if found._state == WAITING)

    def _may_begin(self, message: Message, now: float) -> bool:
        """Gives a message back that must not begin."""
        if message._state == ENDED:
            return False
        if message._cancelled:  # while it was claimed
            self._give_back(message, None)
        elif message._batch.stopped and message._place in message._batch.stopped:
            self._give_back(message, _verdicts.BEHIND)
        elif message._batch.begin_by <= now:
            self._give_back(message, _verdicts.LATE)
        else:
            return True
        return False

    def _give_back(self, message: Message, verdict: _verdicts.Verdict | None) -> None:
        self.close(message, stops=True)
        self._end(message, verdict)

    def _stop(self, message: Message) -> None:
        if self.order != v1.ORDER_UNSPECIFIED and message._place is not None:
            message._batch.stopped.add(message._place)

    def _place(self, message: Message) -> object:
        if self.order == v1.ORDER_BATCH:
            return "stream"
        if message._delivery.HasField("key"):
            return message._run.topic, message._run.partition, message._delivery.key
        return None


def stops(verdict: _verdicts.Verdict | None) -> bool:
    """Returns `True` if the messages behind one with this verdict must not begin."""
    return verdict is not None and not isinstance(verdict, _verdicts.Skip)
