"""Any OpenAI-compatible chat endpoint: many requests at once, every reply kept on disk as soon as it is there."""

from .cache import ReplyCache
from .client import complete, next_start
from .settings import Endpoint, Estimate, Messages, OnReply, estimate, request_key


__all__ = [
    "Endpoint",
    "Estimate",
    "Messages",
    "OnReply",
    "ReplyCache",
    "complete",
    "estimate",
    "next_start",
    "request_key",
]
