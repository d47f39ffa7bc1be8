"""Any OpenAI-compatible chat endpoint: many requests at once, every reply kept on disk as soon as it is there."""

from .cache import ReplyCache
from .client import Reply, complete, complete_each, next_start
from .settings import Endpoint, Estimate, Messages, OnReply, estimate, request_key


__all__ = [
    "Endpoint",
    "Estimate",
    "Messages",
    "OnReply",
    "Reply",
    "ReplyCache",
    "complete",
    "complete_each",
    "estimate",
    "next_start",
    "request_key",
]
