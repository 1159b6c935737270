"""How `bench step` puts the runs of its arms side by side."""

import pytest

from benchmarks.step import Measured


def _run(measured: Measured, seconds: float, steps: int = 3) -> None:
    measured.seconds.append([seconds] * steps)
    measured.rewards.append([0.5] * steps)
    measured.cpu.append({"policy": seconds})
    measured.tokens += [30.0] * steps
    measured.phases += [{"update": seconds}] * steps


def test_a_ratio_is_of_runs_of_one_seed_and_an_unfinished_round_does_not_count() -> None:
    trl, grpo = Measured(), Measured()
    for seconds in (4.0, 9.0, 3.0):
        _run(trl, seconds)
    for seconds in (2.0, 3.0):
        _run(grpo, seconds)
    with pytest.raises(ValueError, match="shorter"):
        trl.over(grpo)
    trl.keep(2)
    assert trl.over(grpo) == [2.0, 3.0]
    figures = trl.figures()
    assert (figures["steps"], figures["step_seconds"], figures["cpu_seconds"]) == (6, 6.5, 6.5)
    assert (len(trl.tokens), len(trl.phases), len(trl.rewards)) == (6, 6, 2)
