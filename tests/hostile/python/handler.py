"""A handler that does what the header `behaviour` of a message says, and nothing without one.

`--list` prints the behaviours. Each call writes partition, offset and attempt to HOSTILE_JOURNAL.
"""

import os
import sys
import time

import penstock

BEHAVIOURS = {}


def behaviour(function):
    BEHAVIOURS[function.__name__.replace("_", "-")] = function
    return function


class RustPanic(BaseException):
    """As pydantic and polars raise it."""


@behaviour
def raise_(message):
    raise ValueError("no database")


@behaviour
def panic(message):
    raise RustPanic("no database")


@behaviour
def return_retry(message):
    return penstock.Retry("still busy")


@behaviour
def return_skip(message):
    return penstock.Skip("a test message")


@behaviour
def exit_with_1(message):
    os._exit(1)


def handle(message):
    os.write(JOURNAL, f"{message.partition} {message.offset} {message.attempt}\n".encode())
    headers = dict(message.headers)
    name, times = headers.get("behaviour"), headers.get("times")
    if name is None or (times is not None and message.attempt > int(times)):
        # Some are at work whenever another one ends the process.
        return time.sleep(0.003)
    return BEHAVIOURS[name.decode()](message)


BEHAVIOURS = {name.rstrip("-"): function for name, function in BEHAVIOURS.items()}

if __name__ == "__main__":
    if "--list" in sys.argv:
        print("\n".join(BEHAVIOURS))
        sys.exit()
    JOURNAL = os.open(os.environ["HOSTILE_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    penstock.serve(handle, grace=2)
