"""Runs side by side: run folders grouped into arms, as curves with intervals over seeds.

An arm is the runs whose configs are the same but for the seed, the run's name and where it took place. A
curve is averaged over a few steps, then over the arm's runs; its band is Student's 95 % interval, which a
single run does not have. Runs of one arm may be of different lengths: a curve is as long as the shortest. A
folder may belong to an unfinished run: what does not exist yet is left out.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
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
from extra_trainer.runs.schema import StepMetrics

#: Sections of a config that say where a run takes place and what is recorded of it, not what is trained.
WHERE = ("services", "ray", "recording")
#: Sections and settings that may differ between the runs of an arm.
DIFFERING = (*WHERE, "seed", "name")
#: Shown for a setting that a config does not have.
UNSET = "(not set)"
#: Steps that a point of a curve averages over.
SMOOTHED = 5
#: A number with the blank behind it, as reasons hold them.
NUMBER = re.compile(r"\d+ ?")
#: Most novel solutions that are kept with their new steps.
EXPLAINED = 12


@dataclass(frozen=True)
class TrainedRun:
    """One run, read from its folder."""

    folder: RunFolder
    config: dict[str, Any]
    metrics: list[StepMetrics]
    #: None if that evaluation has not ended, or if another release wrote it in another form.
    before: Evaluation | None
    after: Evaluation | None

    @classmethod
    def read(cls, path: Path) -> "TrainedRun":
        """Read the run in a folder.

        Raises:
            ConfigError: There is no run in `path`, or this release cannot read its records.
        """
        folder = RunFolder(path)
        if not folder.config.is_file():
            raise ConfigError(f"{path} holds no run: there is no config.yaml in it")
        before, after = (_evaluation(folder.evaluation(when)) for when in ("before", "after"))
        return cls(folder, read_yaml(folder.config), folder.read_metrics(), before, after)

    @property
    def label(self) -> str:
        """The name of its folder, and its seed."""
        return f"{self.folder.path.name} (seed {self.config.get('seed', '?')})"

    @property
    def novelties(self) -> dict[int, NDArray[np.float64]]:
        """Step -> novelties of its correct rollouts, as measured; empty without recorded rollouts."""
        return self._solutions.novelties

    @property
    def suspicious(self) -> dict[str, list[int]]:
        """Reason, without its numbers -> steps of the correct rollouts that it was given for."""
        return self._solutions.suspicious

    @property
    def explained(self) -> list["ExplainedSolution"]:
        """The most novel of the correct rollouts whose new steps are named, most novel first."""
        return self._solutions.explained

    @cached_property
    def _solutions(self) -> "_Solutions":
        """What the figures need of the correct rollouts, read in one pass."""
        found = _Solutions()
        for step, records in self.folder.read_rollouts():
            correct = [record for record in records if record.correct]
            scored = [record.novelty for record in correct if record.novelty is not None]
            found.novelties[step] = np.array(scored, dtype=np.float64)
            for record in correct:
                if record.suspicious:
                    reason = NUMBER.sub("", record.suspicious)
                    found.suspicious.setdefault(reason, []).append(step)
            found.explained += [
                ExplainedSolution(record.novelty, step, record.group, record.sample, record.new_steps)
                for record in correct
                if record.new_steps and record.novelty is not None
            ]
            found.explained.sort(key=lambda solution: -solution.novelty)
            del found.explained[EXPLAINED:]
        return found


@dataclass(frozen=True)
class ExplainedSolution:
    """A correct rollout with the steps that no remembered solution had."""

    novelty: float
    step: int
    #: Place of its group in the step, and its own in the group.
    group: int
    sample: int
    new_steps: tuple[str, ...]


@dataclass
class _Solutions:
    novelties: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    suspicious: dict[str, list[int]] = field(default_factory=dict)
    explained: list[ExplainedSolution] = field(default_factory=list)


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
        """Setting (dotted) -> value, of the settings that all its runs share."""
        return flattened(shared_settings(self.runs[0].config))

    @property
    def seeds(self) -> str:
        """Its seeds, separated by commas."""
        return ", ".join(str(run.config.get("seed", "?")) for run in self.runs)

    def steps(self) -> int:
        """Return the number of steps that all its runs have made."""
        return min(len(run.metrics) for run in self.runs)

    def values(self, metric: str) -> NDArray[np.float64]:
        """Return a metric, float64 [runs, steps], with NaN where a step does not have it."""
        rows = [[step.value(metric) for step in run.metrics[: self.steps()]] for run in self.runs]
        return np.array(rows, dtype=np.float64).reshape(len(self.runs), self.steps())

    def curve(self, metric: str) -> Curve | None:
        """Return the curve of a metric; None if there are no steps, or no step has it."""
        values = self.values(metric)
        if not values.size or np.isnan(values).all():
            return None
        smooth = smoothed(values)
        steps = np.arange(smooth.shape[1]) + (values.shape[1] - smooth.shape[1]) / 2 + 1
        return Curve(steps, *over_runs(smooth))


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average [runs, steps] over SMOOTHED steps, or over all if there are fewer."""
    width = min(SMOOTHED, values.shape[1])
    return np.stack([np.convolve(row, np.ones(width) / width, "valid") for row in values])


def over_runs(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Return the mean of [runs, points] over the runs, and the bounds of its 95 % interval.

    Returns:
        Mean, lower and upper bound, each [points]. The interval is Student's, over the runs; the bounds are
        None for a single run.
    """
    mean = values.mean(axis=0)
    count = len(values)
    if count < 2:
        return mean, None, None
    half = stats.t.ppf(0.975, count - 1) * values.std(axis=0, ddof=1) / np.sqrt(count)
    return mean, mean - half, mean + half


def what_is_trained(content: dict[str, Any]) -> dict[str, Any]:
    """Return a config's content without the sections that only say where the run takes place.

    A run that does not record its number format is of a release that trained in bfloat16.
    """
    kept = {name: section for name, section in content.items() if name not in WHERE}
    return kept | {"openrlhf": {"ds.param_dtype": "bf16", **kept.get("openrlhf", {})}}


def changed_settings(before: dict[str, Any], after: dict[str, Any], section: str = "") -> list[str]:
    """Return the dotted names of the settings in which two configs' contents differ; None is as absent."""
    names = []
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            names += changed_settings(one, other, f"{section}{name}.")
        elif one != other:
            names.append(f"{section}{name}")
    return names


def shared_settings(content: dict[str, Any]) -> dict[str, Any]:
    """Return a config's content without what may differ between the runs of an arm."""
    return {name: section for name, section in content.items() if name not in DIFFERING}


def group_into_arms(runs: Sequence[TrainedRun]) -> list[Arm]:
    """Return the arms, in order of their first runs, each with a name of its own."""
    by_config: dict[str, list[TrainedRun]] = {}
    for run in runs:
        by_config.setdefault(json.dumps(shared_settings(run.config), sort_keys=True), []).append(run)
    arms = [Arm(_name(members), members) for members in by_config.values()]
    if len({arm.name for arm in arms}) == len(arms):
        return arms
    differing = differences(arms)
    return [
        Arm(f"{arm.name} {number}{_suffix(differing, number - 1)}", arm.runs)
        for number, arm in enumerate(arms, 1)
    ]


def differences(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """Return setting -> its value in each arm, of the settings that are not the same in all."""
    settings = [arm.settings for arm in arms]
    names = dict.fromkeys(name for values in settings for name in values)
    table = {name: [setting_text(values.get(name, UNSET)) for values in settings] for name in names}
    return {name: row for name, row in table.items() if len(set(row)) > 1}


def flattened(content: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Return dotted name -> value of nested settings."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict) and value:
            flat |= flattened(value, f"{above}{name}.")
        else:
            flat[above + name] = value
    return flat


def setting_text(value: object) -> str:
    """Return a setting's value roughly as YAML writes it."""
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


def _suffix(differing: dict[str, list[str]], place: int) -> str:
    """Return the first two of an arm's differing settings that all arms have."""
    settings = [f"{name}={row[place]}" for name, row in differing.items() if UNSET not in row]
    return f" ({', '.join(settings[:2])})" if settings else ""
