"""A handler that does what the header `behaviour` of a message says, and nothing without one.

`--list` prints the behaviours. Each call writes partition, offset and attempt to
HOSTILE_JOURNAL.
"""

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from unittest import mock

import penstock

BEHAVIOURS = {}
KEPT = []


def behaviour(function):
    BEHAVIOURS[function.__name__.strip("_").replace("_", "-")] = function
    return function


class RustPanic(BaseException):
    """As pydantic and polars raise it."""


class Unreadable(Exception):
    def __str__(self):
        raise KeyboardInterrupt


@behaviour
def raise_(message):
    raise ValueError("no database")


@behaviour
def panic(message):
    raise RustPanic("no database")


@behaviour
def throw_nothing(message):
    raise Exception


@behaviour
def unreadable_error(message):
    raise Unreadable


@behaviour
def recurse(message):
    return recurse(message)


@behaviour
def allocate_too_much(message):
    KEPT.append(bytearray(1 << 62))


@behaviour
async def cancel_itself(message):
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


@behaviour
def return_retry(message):
    return penstock.Retry("still busy")


@behaviour
def return_skip(message):
    return penstock.Skip("a test message")


@behaviour
def return_dead_letter(message):
    return penstock.DeadLetter("a negative amount")


@behaviour
def return_fail(message):
    raise penstock.Fail("no such order")


@behaviour
async def wrapped_verdict(message):
    async def deny():
        raise penstock.DeadLetter("a negative amount")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(deny())


@behaviour
def return_a_value(message):
    return True


@behaviour
def return_a_generator(message):
    return (part for part in "ab")


@behaviour
def return_a_class(message):
    return penstock.Skip


@behaviour
def huge_reason(message):
    return penstock.Fail("x" * (8 << 20))


@behaviour
def reason_not_text(message):
    return penstock.Fail("odd \ud800")


@behaviour
def reason_with_lines(message):
    return penstock.Fail("first\r\nsecond\0 \x1b[31mred")


@behaviour
def reason_empty(message):
    return penstock.Fail()


@behaviour
def negative_delay(message):
    return penstock.Retry("busy", delay=-5)


@behaviour
def endless_delay(message):
    return penstock.Retry("much later", delay=1e300)


@behaviour
def produce(message):
    message.produce("out", b"1")


@behaviour
def produce_too_much(message):
    for _ in range(20):
        message.produce("out", bytes(1 << 20))


@behaviour
def produce_nonsense(message):
    message.produce("", b"1")


@behaviour
def produce_late(message):
    threading.Timer(0.1, lambda: message.produce("out", b"1")).start()


@behaviour
async def take_too_long(message):
    await asyncio.sleep(3)


@behaviour
def ignore_cancel(message):
    time.sleep(4)


@behaviour
def answer_too_late(message):
    while not message.cancelled:
        time.sleep(0.01)
    # The SDK's clock and the runtime's end within moments of each other.
    time.sleep(0.5)


@behaviour
async def swallow_cancellation(message):
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(0.5)


@behaviour
def wait_forever(message):
    threading.Event().wait()


@behaviour
def extend(message):
    message.extend(3.5)
    time.sleep(2.5)


@behaviour
def extend_forever(message):
    while not message.cancelled:
        message.extend(3600)
        time.sleep(0.1)


@behaviour
def extend_nonsense(message):
    message.extend(-1)


@behaviour
def step_the_clock(message):
    real = time.time
    with mock.patch("time.time", lambda: real() + 86_400):
        time.sleep(0.3)


@behaviour
def outlive(message):
    def work():
        while not stopped.wait(0.001):
            sum(range(100))

    stopped = threading.Event()
    threading.Thread(target=work, daemon=True).start()
    threading.Timer(2, stopped.set).start()


@behaviour
def background_error(message):
    def fail():
        raise ValueError("in the background")

    threading.Timer(0.1, fail).start()


@behaviour
def close_output(message):
    # The message may have come before.
    with contextlib.suppress(OSError):
        os.close(1)


@behaviour
def flood_output(message):
    for _ in range(2000):
        os.write(2, b"flood " * 170 + b"\n")


@behaviour
def leak(message):
    KEPT.append(b"x" * (32 << 20))


@behaviour
def start_a_process(message):
    KEPT.append(subprocess.Popen(["sleep", "30"]))


@behaviour
def fork(message):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


@behaviour
def exhaust_files(message):
    files = []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        while True:
            files.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        time.sleep(0.3)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for file in files:
            os.close(file)


@behaviour
def exit_with_0(message):
    os._exit(0)


@behaviour
def exit_with_1(message):
    os._exit(1)


@behaviour
def abort(message):
    os.abort()


@behaviour
def kill_itself(message):
    os.kill(os.getpid(), signal.SIGKILL)


@behaviour
def segfault(message):
    import ctypes

    ctypes.string_at(0)


@behaviour
def exit_and_stay_away(message):
    os._exit(75)


@behaviour
def terminate_itself(message):
    os.kill(os.getpid(), signal.SIGTERM)


@behaviour
def system_exit(message):
    sys.exit(3)


@behaviour
def exit_later(message):
    threading.Timer(0.02, os._exit, [1]).start()


class Garbage:
    def __del__(self, exit=os._exit):
        exit(1)


@behaviour
def exit_in_a_finalizer(message):
    garbage = Garbage()
    threading.Timer(0.02, lambda garbage: None, [garbage]).start()


@behaviour
def freeze(message):
    subprocess.Popen(["sh", "-c", f"sleep 3; kill -CONT {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)


@behaviour
async def block_the_loop(message):
    time.sleep(3)


def handle(message):
    place = f"{message.partition} {message.offset} {message.attempt}\n"
    os.write(JOURNAL, place.encode())
    headers = dict(message.headers)
    name, times = headers.get("behaviour"), headers.get("times")
    if name is None or (times is not None and message.attempt > int(times)):
        # Some are at work whenever another one ends the process.
        return time.sleep(0.003)
    return BEHAVIOURS[name.decode()](message)


if __name__ == "__main__":
    if "--list" in sys.argv:
        print("\n".join(BEHAVIOURS))
        sys.exit()
    JOURNAL = os.open(os.environ["HOSTILE_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    penstock.serve(handle, grace=2)
