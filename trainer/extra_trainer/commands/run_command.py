"""The end of a command: reported errors, Ctrl-C and SIGTERM, and the exit code."""

import signal
from collections.abc import Callable
from types import FrameType

from rich.console import Console


def run_command(
    work: Callable[[], int],
    console: Console,
    reported: tuple[type[Exception], ...],
    stopped_message: str,
) -> int:
    """Run a command and return its exit code.

    Args:
        work: The command; returns its exit code.
        console: Where errors are printed.
        reported: Errors that are printed in one line instead of a traceback.
        stopped_message: Printed after Ctrl-C or SIGTERM.

    Returns:
        The result of `work`, 1 after one of the `reported` errors, or 130 after Ctrl-C or SIGTERM.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return work()
    except reported as error:
        console.print(f"[red]{type(error).__name__}[/]", end=": ")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print(stopped_message)
        return 130


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
