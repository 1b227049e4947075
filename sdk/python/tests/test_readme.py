"""The README's examples run."""

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

from tests.process import Handler, ProcessTest

SDK = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (SDK / "README.md").read_text(), re.S)
EXAMPLE = SDK.parents[1] / "examples/python-grpc/handler.py"


class Readme(ProcessTest):
    async def program(self, *arguments):
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": str(SDK),
                "PENSTOCK_HANDLER_SOCKET": str(self.socket),
            },
        )

    async def handles(self, *arguments):
        """Runs a program that serves: it handles a message, and ends at SIGTERM."""
        process = await self.program(*arguments)
        handler = Handler(process, f"unix:{self.socket}")
        self.addAsyncCleanup(handler.close)
        await handler.open()
        await handler.send(1)
        await handler.until(lambda heard: heard.outcomes)
        handler.signal(signal.SIGTERM)
        self.assertEqual(await handler.ended(), 0, handler.log_at_end)
        return handler.heard.outcomes[0]

    async def test_each_example_runs(self):
        self.assertEqual(len(BLOCKS), 6)
        for block in BLOCKS:
            with self.subTest(block=block):
                if "penstock.serve(" in block:
                    outcome = await self.handles("-c", block)
                    # The first one wants an amount, which the message lacks.
                    expected = "fail" if '["amount"]' in block else "done"
                    self.assertEqual(outcome.name, expected, outcome.reason)
                else:
                    process = await self.program("-c", block)
                    _, errors = await process.communicate()
                    self.assertEqual((process.returncode, errors.decode()), (0, ""))

    async def test_the_example_runs(self):
        outcome = await self.handles(str(EXAMPLE))
        self.assertEqual(outcome.name, "done")
