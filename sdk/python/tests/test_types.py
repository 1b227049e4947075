"""The types, as mypy checks them."""

import asyncio
import sys
import tempfile
import unittest
from pathlib import Path

SDK = Path(__file__).parents[1]

# As a user writes it.
PROGRAM = """
from collections.abc import Sequence

import penstock
from penstock import Message, Verdict, testing


async def handle(message: Message) -> None:
    message.produce("out", message.value, key=message.key, headers=message.headers)


def plain(message: Message) -> Verdict | None:
    return penstock.Skip("empty") if not message.value else None


async def batch(messages: list[Message]) -> Sequence[Verdict | None]:
    return [plain(message) for message in messages]


penstock.serve(handle, permanent=ValueError)
penstock.Server(plain, concurrency=4, permanent=[ValueError, KeyError])
penstock.Server(batch, batch_size=100)
outcome: testing.Outcome = testing.run(handle, testing.message(b"{}"))[0]
"""


class Types(unittest.IsolatedAsyncioTestCase):
    async def test_the_sdk_and_a_program_are_strictly_typed(self):
        with tempfile.TemporaryDirectory(prefix="penstock-sdk-") as directory:
            program = Path(directory, "program.py")
            program.write_text(PROGRAM)
            cache = f"--cache-dir={directory}/cache"
            options = ["-m", "mypy", "--config-file", "pyproject.toml", cache]
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *options,
                "-p",
                "penstock",
                "-p",
                "program",
                cwd=SDK,
                env={"MYPYPATH": f"{directory}:{SDK}"},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            out, _ = await process.communicate()
        self.assertEqual((process.returncode, out.decode()[:8]), (0, "Success:"), out.decode())
