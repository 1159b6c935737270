"""What a person sees while a run goes on: on a terminal a bar and a live table, elsewhere plain lines.

Everything shown of training is in the run's metrics. Seconds are those of a step's phases; tokens a second
are the tokens sampled in a step over all of its seconds, and the time left is that of the steps left at the
median of the last ones.
"""

import statistics
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

#: What the metrics of phases begin with.
PHASE = "seconds/"
#: Steps shown in the table; steps whose pace tells the time left; characters of the longest phase's bar.
LAST_STEPS = 8
PACE_STEPS = 10
PHASE_BAR = 30
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


class TrainingProgress:
    """Progress of training, in steps, with the figures of the last ones."""

    def __init__(self, console: Console, steps: int, rollouts: int) -> None:
        """`rollouts` are those of a step."""
        self._console = console
        self._steps = steps
        self._rollouts = rollouts
        self._shown = -1
        self._last_line = float("-inf")
        self._bar = Progress(
            TextColumn("Training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            TimeElapsedColumn(),
        )
        self._task = self._bar.add_task("", total=steps, left="")
        self._live = Live(console=console, refresh_per_second=2, auto_refresh=console.is_terminal)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def update(self, records: list[dict[str, Any]]) -> None:
        """Shows the run's metrics as they stand."""
        done = records[-1]["step"] if records else 0
        if done == self._shown:
            return
        self._shown = done
        left = f"ETA {time_left(records, self._steps)}" if records else "starting Ray and OpenRLHF"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, left=left)
            shown: list[RenderableType] = [self._bar]
            if records:
                shown += [step_table(records[-LAST_STEPS:], self._rollouts), phase_table(records)]
            self._live.update(Group(*shown), refresh=True)
            return
        now = time.monotonic()
        if now - self._last_line > LINE_EVERY or done == self._steps:
            self._last_line = now
            figures = f" {_line(records[-1], self._rollouts)}" if records else ""
            self._console.print(
                f"Training: {done}/{self._steps}{figures} {left}", highlight=False, soft_wrap=True
            )


def step_table(records: Sequence[dict[str, Any]], rollouts: int) -> Table:
    """A row a step."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("step", "reward", "novelty", "entropy", "guided", "rescued", "s/step", "tokens/s"):
        table.add_column(head, justify="right")
    for record in records:
        table.add_row(
            str(record["step"]),
            f"{record['reward']:.3f}",
            f"{record['novelty']:.4f}",
            f"{record['entropy']:.3f}",
            f"{record['guided_groups']:.0f}",
            f"{record['guided_rescued']:.0f}",
            f"{_seconds(record):.1f}",
            f"{_tokens_a_second(record, rollouts):,.0f}",
        )
    return table


def phase_table(records: Sequence[dict[str, Any]]) -> Table:
    """Seconds of a step by phase, the mean of the last steps; the longest first."""
    last = records[-PACE_STEPS:]
    means = {
        name: sum(record.get(name, 0.0) for record in last) / len(last)
        for name in dict.fromkeys(name for record in last for name in record)
        if name.startswith(PHASE)
    }
    longest = max(means.values(), default=0.0) or 1.0
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    table.add_column("")
    for name, mean in sorted(means.items(), key=lambda item: -item[1]):
        bar = "━" * round(PHASE_BAR * mean / longest)
        table.add_row(_phase(name), f"{mean:.2f}", bar)
    return table


def time_left(records: Sequence[dict[str, Any]], steps: int) -> str:
    """Hours, minutes and seconds until the last step, as the last steps went."""
    pace = statistics.median(_seconds(record) for record in records[-PACE_STEPS:])
    return str(timedelta(seconds=round(pace * (steps - records[-1]["step"]))))


def _line(record: dict[str, Any], rollouts: int) -> str:
    phases = ", ".join(f"{_phase(name)} {record[name]:.1f}" for name in record if name.startswith(PHASE))
    return (
        f"reward {record['reward']:.2f}  novelty {record['novelty']:.4f}  entropy {record['entropy']:.2f}  "
        f"guided {record['guided_groups']:.0f} (rescued {record['guided_rescued']:.0f})  "
        f"{_seconds(record):.1f} s/step ({phases})  {_tokens_a_second(record, rollouts):.0f} tokens/s "
    )


def _phase(name: str) -> str:
    return name.removeprefix(PHASE).replace("_", " ")


def _seconds(record: dict[str, Any]) -> float:
    return float(sum(value for name, value in record.items() if name.startswith(PHASE)))


def _tokens_a_second(record: dict[str, Any], rollouts: int) -> float:
    return float(record["response_tokens"] * rollouts / max(_seconds(record), 1e-9))
