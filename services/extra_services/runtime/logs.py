"""Structured logs on standard error: JSON lines, or readable lines on a terminal.

A line that cannot be written, for example on a full disk, is dropped: logging must not fail a request.
"""

import contextlib
import logging
import os
import sys

import structlog


def configure(level: str) -> None:
    """Configure structlog for lines of at least `level` ("debug", "info", "warning", "error")."""
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
        # One write per line: workers write to the same file.
        logger_factory=structlog.WriteLoggerFactory(_StandardError()),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )


class _StandardError:
    """Writes unbuffered. sys.stderr would keep lines it could not write, and fail the exit of the process."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(2, text.encode("utf-8", "replace"))

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""


def request_id() -> str:
    """Return the id of the current request; empty outside of one."""
    found: str = structlog.contextvars.get_contextvars().get("request_id", "")
    return found
