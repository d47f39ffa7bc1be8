"""Libraries that log to the terminal what a user of our commands has no use for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


_LEVELS = {
    "llamafactory": logging.ERROR,
    "transformers": logging.ERROR,
    "datasets": logging.CRITICAL,  # it logs as an error what it raises right after
    "lm_eval": logging.ERROR,
}


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Let these libraries, which must be imported already, say what is bad only; then as before."""
    loggers = [logging.getLogger(name) for name in _LEVELS]
    levels = [logger.level for logger in loggers]
    for logger, level in zip(loggers, _LEVELS.values(), strict=True):
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
