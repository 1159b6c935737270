"""Structured logs on standard error: JSON lines, or readable lines on a terminal.

What cannot be written, on a full disk for example, is dropped: a log must not fail what it tells of.
"""

import contextlib
import logging
import os
import sys

import structlog


def configure(level: str) -> None:
    """Sets up structlog, from `level` ("debug", "info", "warning", "error") up."""
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        # One write a line: workers write to the same file.
        logger_factory=structlog.WriteLoggerFactory(_StandardError()),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )


class _StandardError:
    """Not sys.stderr: what that could not write it would keep, and fail the exit of the process."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(2, text.encode("utf-8", "replace"))

    def flush(self) -> None:
        """Nothing is kept."""


def request_id() -> str:
    """The id of the request that is worked on here; empty outside of one."""
    found: str = structlog.contextvars.get_contextvars().get("request_id", "")
    return found
