"""Runs side by side: what run folders hold, grouped into arms, as curves with intervals over seeds.

An arm is the runs whose configs are the same but for the seed, the run's name and where it took place. A
curve is averaged over a few steps, then over the arm's runs; its band is Student's 95 % interval, which
has no bounds with fewer than two. Runs of one arm may be of different lengths: a curve goes as far as its
shortest. A folder need not be of a finished run: what is not there yet is left out.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import stats

from extra_rl.config_file import ConfigError, read_yaml
from extra_trainer.evaluation.result import Evaluation
from extra_trainer.runs.folder import RunFolder

#: Sections of a config that say where a run takes place, not what is trained; and what may differ in an arm.
WHERE = ("services", "ray")
APART = (*WHERE, "seed", "name")
#: What is shown for a setting that a config does not have.
UNSET = "(not set)"
#: Steps that a point of a curve averages over.
SMOOTHED = 5


@dataclass(frozen=True)
class TrainedRun:
    """One run as its folder tells of it."""

    folder: RunFolder
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    #: None where that evaluation has not ended, or another release wrote it in another form.
    before: Evaluation | None
    after: Evaluation | None

    @classmethod
    def read(cls, path: Path) -> "TrainedRun":
        """ConfigError if there is no run in `path`."""
        folder = RunFolder(path)
        if not folder.config.is_file():
            raise ConfigError(f"{path} holds no run: there is no config.yaml in it")
        before, after = (_evaluation(folder.evaluation(when)) for when in ("before", "after"))
        return cls(folder, read_yaml(folder.config), folder.read_metrics(), before, after)

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"{self.folder.path.name} (seed {self.config.get('seed', '?')})"

    @cached_property
    def novelties(self) -> dict[int, NDArray[np.float64]]:
        """Step -> novelties of its correct rollouts, as measured; empty if no rollouts were kept."""
        return {
            step: np.array([r["novelty"] for r in records if r["status"] == "correct"], dtype=np.float64)
            for step, records in self.folder.read_rollouts()
        }


@dataclass(frozen=True)
class Curve:
    """A figure over the steps of an arm; `low` and `high` are None for a single run."""

    steps: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64] | None
    high: NDArray[np.float64] | None


@dataclass(frozen=True)
class Arm:
    """Runs of one config with different seeds."""

    name: str
    runs: list[TrainedRun]

    @property
    def settings(self) -> dict[str, Any]:
        """Setting (dotted) -> value, of what all its runs have in common."""
        return flattened(what_is_shared(self.runs[0].config))

    @property
    def seeds(self) -> str:
        """Its seeds, as a person lists them."""
        return ", ".join(str(run.config.get("seed", "?")) for run in self.runs)

    def steps(self) -> int:
        """Steps that all its runs have made."""
        return min(len(run.metrics) for run in self.runs)

    def values(self, metric: str) -> NDArray[np.float64]:
        """[runs, steps] of a metric, NaN where a step has none."""
        rows = [[record.get(metric, np.nan) for record in run.metrics[: self.steps()]] for run in self.runs]
        return np.array(rows, dtype=np.float64).reshape(len(self.runs), self.steps())

    def curve(self, metric: str) -> Curve | None:
        """None if there are no steps, or no such metric in them."""
        values = self.values(metric)
        if not values.size or np.isnan(values).all():
            return None
        smooth = smoothed(values)
        steps = np.arange(smooth.shape[1]) + (values.shape[1] - smooth.shape[1]) / 2 + 1
        return Curve(steps, *over_runs(smooth))


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of [runs, steps], each averaged over SMOOTHED steps, or over all if there are fewer."""
    width = min(SMOOTHED, values.shape[1])
    return np.stack([np.convolve(row, np.ones(width) / width, "valid") for row in values])


def over_runs(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Mean over the rows of [runs, points], and the ends of Student's 95 % interval; None for one row."""
    mean = values.mean(axis=0)
    count = len(values)
    if count < 2:
        return mean, None, None
    half = stats.t.ppf(0.975, count - 1) * values.std(axis=0, ddof=1) / np.sqrt(count)
    return mean, mean - half, mean + half


def what_is_trained(content: dict[str, Any]) -> dict[str, Any]:
    """A config's content without what only says where it runs."""
    return {name: section for name, section in content.items() if name not in WHERE}


def what_is_shared(content: dict[str, Any]) -> dict[str, Any]:
    """A config's content without what may differ between the runs of an arm."""
    return {name: section for name, section in content.items() if name not in APART}


def grouped(runs: Sequence[TrainedRun]) -> list[Arm]:
    """The arms, in order of their first runs; each has a name that no other has."""
    by_config: dict[str, list[TrainedRun]] = {}
    for run in runs:
        by_config.setdefault(json.dumps(what_is_shared(run.config), sort_keys=True), []).append(run)
    arms = [Arm(_name(members), members) for members in by_config.values()]
    if len({arm.name for arm in arms}) == len(arms):
        return arms
    differing = differences(arms)
    return [
        Arm(f"{arm.name} {number}{_told(differing, number - 1)}", arm.runs)
        for number, arm in enumerate(arms, 1)
    ]


def differences(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """Setting -> its value in each arm, of the settings that are not the same in all."""
    settings = [arm.settings for arm in arms]
    names = dict.fromkeys(name for values in settings for name in values)
    table = {name: [shown(values.get(name, UNSET)) for values in settings] for name in names}
    return {name: row for name, row in table.items() if len(set(row)) > 1}


def flattened(content: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted name -> value."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict) and value:
            flat |= flattened(value, f"{above}{name}.")
        else:
            flat[above + name] = value
    return flat


def shown(value: object) -> str:
    """A setting's value as YAML has it, more or less."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _evaluation(path: Path) -> Evaluation | None:
    try:
        return Evaluation.load(path) if path.is_file() else None
    except ValidationError:
        return None


def _name(runs: list[TrainedRun]) -> str:
    return str(runs[0].config.get("name", runs[0].folder.path.name))


def _told(differing: dict[str, list[str]], place: int) -> str:
    """An arm's settings that differ and that all arms have, the first two."""
    told = [f"{name}={row[place]}" for name, row in differing.items() if UNSET not in row]
    return f" ({', '.join(told[:2])})" if told else ""
