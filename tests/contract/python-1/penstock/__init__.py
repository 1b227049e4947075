"""Handlers for Penstock over gRPC: `serve(handle)` is all there is to call."""

from penstock._message import Message
from penstock._serve import serve
from penstock._verdicts import DeadLetter, Fail, Retry, Skip

__all__ = ["DeadLetter", "Fail", "Message", "Retry", "Skip", "serve"]
