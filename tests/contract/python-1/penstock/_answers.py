"""What goes back to the runtime, gathered until it is sent."""

import asyncio

from penstock.handler.v1 import handler_pb2 as v1

DONE = {"done": v1.Done()}


class Answers:
    """Verdicts and credits. To be used in the event loop only."""

    def __init__(self):
        self._credits = 0
        self._verdicts = []
        self._ended = False
        self._changed = asyncio.Event()

    def grant(self, credits):
        self._credits += credits
        self._changed.set()

    def settle(self, verdicts):
        """Takes pairs of a delivery's number and its verdict, None for done, and grants
        their credits anew."""
        for number, verdict in verdicts:
            self._credits += 1
            last = self._verdicts[-1] if self._verdicts else None
            if verdict is not None:
                self._verdicts.append([number, 1, verdict.outcome()])
            elif last is not None and last[2] is DONE and last[0] + last[1] == number:
                last[1] += 1
            else:
                self._verdicts.append([number, 1, DONE])
        self._changed.set()

    def end(self):
        self._ended = True
        self._changed.set()

    async def stream(self):
        """The answers as they come, until the end."""
        while True:
            if self._credits or self._verdicts:
                yield self._take()
            elif self._ended:
                return
            else:
                await self._changed.wait()
                self._changed.clear()

    def _take(self):
        credits, verdicts = self._credits, self._verdicts
        self._credits, self._verdicts = 0, []
        entries = [
            v1.Verdict(first_id=first, count=count, **outcome) for first, count, outcome in verdicts
        ]
        return v1.FromHandler(credits=credits, verdicts=entries)
