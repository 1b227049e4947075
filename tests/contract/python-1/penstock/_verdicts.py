"""What a handler says of a message that it did not handle."""

from penstock.handler.v1 import handler_pb2 as v1

# Longest delay that is sent, in seconds: for ever, as far as it matters.
LONGEST_DELAY = 1 << 51


class Verdict(Exception):
    """Raised by a handler. The reason, text or another exception, appears in logs and
    dead letters."""

    def __init__(self, reason=""):
        super().__init__(reason)
        self.reason = _text(reason)


class Retry(Verdict):
    """May pass: tried again while attempts are left, after at least `delay` seconds."""

    def __init__(self, reason="", delay=0.0):
        super().__init__(reason)
        self.delay = float(delay)

    def outcome(self):
        # Also where it is less than nothing, or no number.
        delay = min(self.delay, LONGEST_DELAY) if self.delay > 0 else 0
        return {"retry": v1.Retry(reason=self.reason, delay_ms=round(delay * 1000))}


class Skip(Verdict):
    """Not to be handled: logged, counted, left behind."""

    def outcome(self):
        return {"skip": v1.Skip(reason=self.reason)}


class DeadLetter(Verdict):
    """To the dead-letter topic at once."""

    def outcome(self):
        return {"dead_letter": v1.DeadLetter(reason=self.reason)}


class Fail(Verdict):
    """Will not pass: what follows is what `onFailure` says."""

    def outcome(self):
        return {"fail": v1.Fail(reason=self.reason)}


class Done:
    """Handled, with records to produce."""

    def __init__(self, records):
        self._records = records

    def outcome(self):
        return {"done": v1.Done(produce=self._records)}


def done(message):
    """The verdict on a message that was handled: None without records."""
    return Done(message.records) if message.records else None


def of(error, permanent):
    """The verdict that an exception stands for."""
    if isinstance(error, Verdict):
        return error
    name = type(error).__name__
    try:
        reason = f"{name}: {error}" if str(error) else name
    except Exception:
        reason = name
    return Fail(reason) if isinstance(error, permanent) else Retry(reason)


def _text(reason):
    """It as protobuf takes it: surrogates, as in the names of odd files, have no UTF-8."""
    return str(reason).encode(errors="replace").decode()
