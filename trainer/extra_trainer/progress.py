"""What a person sees while a run goes on: a progress bar on a terminal, plain lines elsewhere."""

import threading
import time
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

#: Seconds between lines where there is no terminal.
LINE_EVERY = 10.0


class _Shown:
    """A progress bar, or a line now and then."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        self._console = console
        self._title = title
        self._total = total
        self._last_line = float("-inf")
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=total, detail="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _show(self, done: int, detail: str) -> None:
        self._progress.update(self._task, completed=done, detail=detail)
        now = time.monotonic()
        if not self._console.is_terminal and (now - self._last_line > LINE_EVERY or done == self._total):
            self._last_line = now
            self._console.print(f"{self._title}: {done}/{self._total} {detail}", highlight=False)


class EvaluationProgress(_Shown):
    """Progress of an evaluation, in samples; may be told from several threads."""

    def __init__(self, console: Console, title: str, samples: int) -> None:
        super().__init__(console, title, samples)
        self._lock = threading.Lock()
        self._done = 0

    def advance(self, samples: int) -> None:
        """So many samples more are finished."""
        with self._lock:
            self._done += samples
            self._show(self._done, "samples")


class TrainingProgress(_Shown):
    """Progress of training, in steps, with the figures of the last one."""

    def __init__(self, console: Console, steps: int) -> None:
        super().__init__(console, "Training", steps)
        self._shown = -1

    def update(self, records: list[dict[str, Any]]) -> None:
        """Shows the run's metrics as they stand."""
        done = records[-1]["step"] if records else 0
        if done != self._shown:
            self._shown = done
            self._show(done, _figures(records[-1]) if records else "starting Ray and OpenRLHF")


def _figures(record: dict[str, Any]) -> str:
    seconds = sum(value for name, value in record.items() if name.startswith("seconds/"))
    return (
        f"reward {record['reward']:.2f}  novelty {record['novelty']:.3f}  entropy {record['entropy']:.2f}  "
        f"guided {record['guided_groups']:.0f}  {seconds:.1f} s/step"
    )
