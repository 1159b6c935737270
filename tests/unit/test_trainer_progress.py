"""The display during a run: a live table on a terminal, lines elsewhere, with the same figures."""

import io

import pytest
from rich.console import Console

from extra_trainer.reports.progress import TrainingProgress, time_left
from extra_trainer.runs.schema import StepMetrics
from support.run_folders import step_metrics


def _metrics(step: int, generation: float = 1.5) -> StepMetrics:
    return step_metrics(
        step,
        reward=0.25,
        novelty=0.0125,
        entropy=0.5,
        guided_groups=2.0,
        guided_rescued=1.0,
        response_tokens=30.0,
        seconds={"generation": generation, "novelty_wait": 0.5},
    )


def _shown(terminal: bool, steps: int) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, legacy_windows=False)
    with TrainingProgress(console, 20, 128) as progress:
        progress.update([])
        progress.update([_metrics(step) for step in range(1, steps + 1)])
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_shows_a_table_of_the_last_steps_and_of_phases() -> None:
    shown = _shown(True, 12)
    for text in ("12/20", "reward", "0.0125", "0.500", "1,920", "novelty wait", "generation", "ETA 0:00:16"):
        assert text in shown


@pytest.mark.parametrize("steps", [1, 20])
def test_elsewhere_there_are_plain_lines(steps: int) -> None:
    shown = _shown(False, steps)
    assert "\x1b" not in shown
    first, *others = shown.splitlines()
    assert first == "Training: 0/20 starting Ray and OpenRLHF"
    # Lines are apart in time; the last step has one in any case.
    assert len(others) == (steps == 20)
    for line in others:
        for text in (
            "20/20",
            "reward 0.25",
            "guided 2 (rescued 1)",
            "novelty wait 0.5",
            "1920 tokens/s",
            "ETA 0:00:00",
        ):
            assert text in line


def test_the_time_left_is_that_of_the_last_steps() -> None:
    metrics = [_metrics(step, 100.0 if step < 10 else 1.5) for step in range(1, 25)]
    assert time_left(metrics, 30) == "0:00:12"
