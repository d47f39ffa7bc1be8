"""Where refusals come from: templates, an endpoint, or a model on this machine; all are checked by their words."""

from .messages import RefusalRequest, endpoint_messages
from .templates import template_refusal
from .verdict import refuses
from .writers import (
    Refusals,
    messages_to_send,
    write_from_endpoint,
    write_from_templates,
    write_from_vllm,
)


__all__ = [
    "RefusalRequest",
    "Refusals",
    "endpoint_messages",
    "messages_to_send",
    "refuses",
    "template_refusal",
    "write_from_endpoint",
    "write_from_templates",
    "write_from_vllm",
]
