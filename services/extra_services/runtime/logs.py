"""Structured logs on standard error: JSON lines, or readable lines on a terminal."""

import logging
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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def request_id() -> str:
    """The id of the request that is worked on here; empty outside of one."""
    found: str = structlog.contextvars.get_contextvars().get("request_id", "")
    return found
