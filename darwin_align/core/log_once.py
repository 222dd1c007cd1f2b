"""Warnings that are logged once a process."""

from __future__ import annotations

import logging
from functools import lru_cache

__all__ = ["log_once"]


@lru_cache
def log_once(logger: logging.Logger, sentence: str) -> None:
    """Log a warning the first time that it occurs in the process."""
    logger.warning("%s", sentence)
