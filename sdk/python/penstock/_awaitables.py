"""Results that have to be awaited, of any shape."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from typing import Any

# An awaitable may give another one; a chain of them ends somewhere.
MAX_AWAITABLES = 10


async def resolve(result: Any) -> Any:
    """Awaits a result until it is no awaitable any more, and returns it."""
    for _ in range(MAX_AWAITABLES):
        if isinstance(result, concurrent.futures.Future):
            result = asyncio.wrap_future(result)
        if not inspect.isawaitable(result):
            return result
        result = await result
    if inspect.iscoroutine(result):
        result.close()
    raise RecursionError("the handler's awaitables never end")


def is_awaitable(result: object) -> bool:
    """Returns `True` if the result has to be awaited."""
    return inspect.isawaitable(result) or isinstance(result, concurrent.futures.Future)
