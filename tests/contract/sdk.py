"""A handler with the SDK on PYTHONPATH, one of those that are frozen here."""

import asyncio

import penstock
import probes


async def handle(message):
    before = probes.note(message.partition, message.offset, message.attempt)
    headers = dict(message.headers)
    probe = headers.get("probe", b"").decode()
    if probe == "skip":
        raise penstock.Skip("a test message")
    if before > 0:
        return
    if probe in ("wait", "extend"):
        await asyncio.sleep(probes.TOO_LONG)
    elif probe == "return":
        raise penstock.Retry("not now")


penstock.serve(handle)
