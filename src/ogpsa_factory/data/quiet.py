"""Libraries that log to the terminal what a user of our commands has no use for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Let LLaMA-Factory and transformers, which must be imported already, say errors only; then as before."""
    loggers = [logging.getLogger(name) for name in ("llamafactory", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
