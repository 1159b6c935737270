"""How a command ends: the errors that are told instead of traced, Ctrl-C, and the exit codes."""

import signal
from collections.abc import Callable
from types import FrameType

from rich.console import Console


def exit_code(
    work: Callable[[], int], console: Console, told: tuple[type[Exception], ...], when_stopped: str
) -> int:
    """What `work` returns; 1 if it ends with an error that is `told`, 130 after Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return work()
    except told as error:
        console.print(f"[red]{type(error).__name__}[/]", end=": ")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print(when_stopped)
        return 130


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
