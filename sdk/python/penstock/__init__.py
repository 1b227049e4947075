"""Kafka message handlers for Penstock over gRPC.

`serve(handle)` serves a function until SIGTERM; `Server` has the same as an async context
manager. A handler returns, or raises or returns a verdict: `Retry`, `Skip`, `DeadLetter` or
`Fail`. `penstock.testing` runs handlers without a runtime.
"""

from penstock._message import Message, Record
from penstock._server import Server, serve
from penstock._verdicts import DeadLetter, Fail, Retry, Skip, Verdict

__all__ = [
    "DeadLetter",
    "Fail",
    "Message",
    "Record",
    "Retry",
    "Server",
    "Skip",
    "Verdict",
    "serve",
]
