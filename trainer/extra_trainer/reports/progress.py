"""Progress of training and evaluation: on a terminal a bar and a live table, elsewhere plain lines.

All figures of training come from the run's metrics. The seconds of a step are the sum of its phases; tokens a
second are the tokens sampled in a step divided by its seconds; the time left assumes the median seconds of
the last steps.
"""

import math
import statistics
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Self

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

from extra_trainer.runs.schema import StepMetrics

#: Share of rollouts cut off at the limit on their length from which on that is said.
MUCH_CUT_OFF = 0.5
#: Steps in the table.
LAST_STEPS = 8
#: Steps that the time left and the seconds of phases are averaged over.
PACE_STEPS = 10
#: Characters of the longest phase's bar.
PHASE_BAR = 30
#: Seconds between lines where there is no terminal.
LINE_EVERY = 10.0


class _Bar:
    """A progress bar on a terminal, a line every LINE_EVERY seconds elsewhere."""

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


class EvaluationProgress(_Bar):
    """Progress of an evaluation, in samples; may be advanced from several threads."""

    def __init__(self, console: Console, title: str, samples: int) -> None:
        super().__init__(console, title, samples)
        self._lock = threading.Lock()
        self._done = 0

    def advance(self, samples: int) -> None:
        """Add finished samples."""
        with self._lock:
            self._done += samples
            self._show(self._done, "samples")


class TrainingProgress:
    """Progress of training, in steps, with the metrics of the last ones."""

    def __init__(self, console: Console, steps: int, rollouts_per_step: int) -> None:
        self._console = console
        self._steps = steps
        self._rollouts_per_step = rollouts_per_step
        self._last_shown = -1
        self._last_line = float("-inf")
        self._warned = False
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

    def update(self, metrics: Sequence[StepMetrics]) -> None:
        """Show the run's metrics of the steps so far."""
        done = metrics[-1].step if metrics else 0
        if done == self._last_shown:
            return
        self._last_shown = done
        self._warn(metrics)
        left = f"ETA {time_left(metrics, self._steps)}" if metrics else "starting Ray and OpenRLHF"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, left=left)
            parts: list[RenderableType] = [self._bar]
            if metrics:
                parts += [step_table(metrics[-LAST_STEPS:], self._rollouts_per_step), phase_table(metrics)]
            self._live.update(Group(*parts), refresh=True)
            return
        now = time.monotonic()
        if now - self._last_line > LINE_EVERY or done == self._steps:
            self._last_line = now
            figures = f" {_line(metrics[-1], self._rollouts_per_step)}" if metrics else ""
            self._console.print(
                f"Training: {done}/{self._steps}{figures} {left}", highlight=False, soft_wrap=True
            )

    def _warn(self, metrics: Sequence[StepMetrics]) -> None:
        """Say once that many responses are cut off."""
        first = next((step for step in metrics if step.value("cut_off") >= MUCH_CUT_OFF), None)
        if first is None or self._warned:
            return
        self._warned = True
        self._console.print(
            f"Warning: {first.value('cut_off'):.0%} of the rollouts of step {first.step} were cut off at"
            " rollout.response_max_tokens. rollout.overlong says how they count. Raise the limit, or check"
            " that the model ends its answers (chat template, end-of-sequence token).",
            highlight=False,
            soft_wrap=True,
        )


def step_table(metrics: Sequence[StepMetrics], rollouts_per_step: int) -> Table:
    """Return a table with a row for each step."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    # Only runs with rollout.overlong: mask have this metric.
    masks = any(not math.isnan(step.value("masked")) for step in metrics)
    for head in (
        *("step", "reward", "novelty", "entropy", "guided", "rescued"),
        *(("masked",) if masks else ()),
        *("s/step", "tokens/s"),
    ):
        table.add_column(head, justify="right")
    for step in metrics:
        table.add_row(
            str(step.step),
            f"{step.reward:.3f}",
            f"{step.novelty:.4f}",
            f"{step.entropy:.3f}",
            f"{step.guided_groups:.0f}",
            f"{step.guided_rescued:.0f}",
            *((f"{step.value('masked'):.0f}",) if masks else ()),
            f"{step.total_seconds:.1f}",
            f"{_tokens_a_second(step, rollouts_per_step):,.0f}",
        )
    return table


def phase_table(metrics: Sequence[StepMetrics]) -> Table:
    """Return a table of the mean seconds of each phase in the last steps, the longest first."""
    last = metrics[-PACE_STEPS:]
    means = {
        phase: sum(step.seconds.get(phase, 0.0) for step in last) / len(last)
        for phase in dict.fromkeys(phase for step in last for phase in step.seconds)
    }
    longest = max(means.values(), default=0.0) or 1.0
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    table.add_column("")
    for phase, mean in sorted(means.items(), key=lambda item: -item[1]):
        bar = "━" * round(PHASE_BAR * mean / longest)
        table.add_row(_phase_title(phase), f"{mean:.2f}", bar)
    return table


def time_left(metrics: Sequence[StepMetrics], steps: int) -> str:
    """Return hours, minutes and seconds until step `steps`, at the median pace of the last steps."""
    pace = statistics.median(step.total_seconds for step in metrics[-PACE_STEPS:])
    return str(timedelta(seconds=round(pace * (steps - metrics[-1].step))))


def _line(step: StepMetrics, rollouts_per_step: int) -> str:
    phases = ", ".join(f"{_phase_title(phase)} {seconds:.1f}" for phase, seconds in step.seconds.items())
    return (
        f"reward {step.reward:.2f}  novelty {step.novelty:.4f}  entropy {step.entropy:.2f}  "
        f"guided {step.guided_groups:.0f} (rescued {step.guided_rescued:.0f})  "
        f"{step.total_seconds:.1f} s/step ({phases})  "
        f"{_tokens_a_second(step, rollouts_per_step):.0f} tokens/s "
    )


def _phase_title(phase: str) -> str:
    return phase.replace("_", " ")


def _tokens_a_second(step: StepMetrics, rollouts_per_step: int) -> float:
    return step.response_tokens * rollouts_per_step / max(step.total_seconds, 1e-9)
