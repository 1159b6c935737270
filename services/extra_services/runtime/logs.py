"""Structured logs on standard error: JSON lines, or readable lines on a terminal.

Texts of callers and models are in the values. On a terminal their line ends and escape sequences are shown as
such, so that no text makes a line of its own or moves the cursor; JSON escapes them anyway.

A line that cannot be written, for example on a full disk, is dropped: logging must not fail a request.
"""

import contextlib
import logging
import os
import sys

import structlog


def configure(level: str) -> None:
    """Configure structlog for lines of at least `level` ("debug", "info", "warning", "error")."""
    structlog.configure(
        processors=processors(terminal=sys.stderr.isatty()),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        # One write per line: workers write to the same file.
        logger_factory=structlog.WriteLoggerFactory(_StandardError()),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )


def processors(*, terminal: bool) -> list[structlog.typing.Processor]:
    """Return what makes a line of an event, for a terminal or as JSON."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        *([_shown, structlog.dev.ConsoleRenderer()] if terminal else [structlog.processors.JSONRenderer()]),
    ]


def _shown(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape what is not printable in all texts; a stack trace keeps its lines, indented."""
    shown = {key: escaped(value) if isinstance(value, str) else value for key, value in event.items()}
    if isinstance(trace := event.get("exception"), str):
        shown["exception"] = "\n".join(f"  {escaped(line)}" for line in trace.split("\n"))
    return shown


def escaped(text: str) -> str:
    """Return `text` with line ends, escape sequences and other unprintable characters as in Python's repr."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


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
