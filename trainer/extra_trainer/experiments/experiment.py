"""An experiment: several arms, each a training run per seed, through the real trainer and services.

All arms are run for one seed before the next seed, so that unfinished results compare all arms too. A run
that was interrupted resumes from its checkpoint. A run that already has a result, made with the same
settings, is skipped, so the same command adds to a table that was begun elsewhere. After each run the
summary, the curves and the page are written again (`evidence`).
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator
from rich.console import Console
from rich.table import Table

from extra_rl.config_file import ConfigError, explain, read_yaml
from extra_trainer import config as configs
from extra_trainer.config import Section
from extra_trainer.experiments import evidence
from extra_trainer.experiments.evidence import Result
from extra_trainer.openrlhf.number_format import recorded
from extra_trainer.reports.arms import what_is_trained
from extra_trainer.runs.folder import RunFolder, write_whole

#: Rows of the table, its head included, up to which arms are columns in the terminal: more do not fit.
_ARMS_AS_COLUMNS = 4


class ExperimentConfig(Section):
    """The YAML file of an experiment."""

    base: str = Field(description="Config of a training run, relative to this file; all arms share it.")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Settings of all arms that differ from the base's, by dotted path."
    )
    arms: dict[str, dict[str, Any]] = Field(
        min_length=1, description="Name of an arm -> settings it changes, by dotted path."
    )
    seeds: int = Field(8, gt=0, description="Runs of each arm, with seeds first_seed, first_seed + 1, ...")
    first_seed: int = Field(0, ge=0)
    baselines: tuple[str, ...] = Field(("grpo",), description="Arms the others are compared with.")

    @model_validator(mode="after")
    def _baselines_are_arms(self) -> "ExperimentConfig":
        for name in self.baselines:
            if name not in self.arms:
                raise ValueError(f"baselines: there is no arm {name!r}; there are {', '.join(self.arms)}")
        return self


@dataclass(frozen=True)
class PlannedRun:
    """One run of an experiment."""

    arm: str
    seed: int
    config: configs.Config

    def what_is_trained(self) -> dict[str, Any]:
        """Return its config without the sections that only say where it runs."""
        return what_is_trained(recorded(self.config))

    def made(self, result: Result) -> bool:
        """Return whether a result was made with this config.

        Settings that the release which made it did not have count as their defaults.
        """
        return what_is_trained(_with_defaults(result.config)) == self.what_is_trained()


class Experiment:
    """Trains the runs that have no result and writes the evidence of those that have one."""

    def __init__(self, path: Path, output: Path, runs: Path, cache: Path, console: Console) -> None:
        """Read the experiment.

        Args:
            path: Its YAML file.
            output: Folder for the evidence.
            runs: Folder for the run folders.
            cache: Folder for start models that the project makes.
            console: Gets progress and tables.

        Raises:
            ConfigError: The file cannot be read, or a setting or arm in it is unknown or bad.
        """
        self._config = load(path)
        self._base = path.parent / self._config.base
        self._command = f"extra-rl experiment {path} --cache {cache} --output {output}"
        self._output, self._runs, self._cache, self._console = output, runs, cache, console

    def train(self, seeds: int | None, arms: list[str], minutes: float | None) -> None:
        """Train the runs that have no result.

        Args:
            seeds: Number of seeds; None: as in the file.
            arms: Arms to train; empty: all.
            minutes: No run is begun after so many minutes; None: no limit.

        Raises:
            ConfigError: An arm is unknown, or a result was made with other settings.
            ExperimentFailed: A run failed.
        """
        started = time.monotonic()
        missing = [run for run in self.planned(seeds, arms) if not self._has_result(run)]
        self._console.print(f"{len(missing)} runs to train; results in {self._output}")
        self.show()
        for number, run in enumerate(missing, start=1):
            minutes_gone = (time.monotonic() - started) / 60
            if minutes is not None and minutes_gone > minutes:
                self._console.print(
                    f"{minutes:g} minutes are over: {len(missing) - number + 1} runs are left"
                )
                return
            self._console.rule(f"{run.arm}, seed {run.seed} ({number} of {len(missing)})")
            self._train(run)
            self.show()

    def planned(self, seeds: int | None = None, arms: list[str] | None = None) -> Iterator[PlannedRun]:
        """Yield all runs, seed by seed.

        Args:
            seeds: Number of seeds; None: as in the file.
            arms: Their arms; None or empty: all.

        Raises:
            ConfigError: An arm is unknown.
        """
        chosen = arms or list(self._config.arms)
        for arm in chosen:
            if arm not in self._config.arms:
                raise ConfigError(f"there is no arm {arm!r}; there are {', '.join(self._config.arms)}")
        first = self._config.first_seed
        for seed in range(first, first + (seeds or self._config.seeds)):
            for arm in chosen:
                own = {**self._config.settings, **self._config.arms[arm]}
                settings = {"seed": seed, "name": arm, **own}
                yield PlannedRun(arm, seed, configs.load(self._base, settings))

    def show(self) -> None:
        """Write the evidence and print its table."""
        if not evidence.read(self._results):
            self._console.print(f"no results in {self._results} yet")
            return
        summary = evidence.write(self._results, self._output, self._config.baselines, self._command)
        rows = evidence.table(summary, self._config.baselines)
        if len(rows) <= _ARMS_AS_COLUMNS:
            rows = [list(column) for column in zip(*rows, strict=True)]
        head, *body = rows
        start = ", ".join(f"{name} {100 * value:.1f}" for name, value in evidence.start(summary).items())
        table = Table(
            title="pass@k in percent; differences in points, paired by seed",
            caption=f"Before training: {start}. Page with curves: {self._output / 'report.html'}",
            title_justify="left",
            caption_justify="left",
        )
        for place, column in enumerate(head):
            table.add_column(column, justify="right" if place else "left")
        for row in body:
            table.add_row(*row)
        self._console.print(table)

    @property
    def _before(self) -> Path:
        """The last run's evaluation samples of the start model, reused by the next run."""
        return self._runs / "evaluation-before.jsonl"

    @property
    def _results(self) -> Path:
        return self._output / "runs"

    def _has_result(self, run: PlannedRun) -> bool:
        path = evidence.result_path(self._results, run.arm, run.seed)
        if not path.is_file():
            return False
        if not run.made(Result.model_validate_json(path.read_bytes())):
            raise ConfigError(
                f"{path} was made with other settings: choose another --output, or delete the results that"
                " should not be compared"
            )
        return True

    def _train(self, run: PlannedRun) -> None:
        folder = RunFolder(self._runs / run.arm / f"seed-{run.seed}")
        if not folder.evaluation("after").is_file():
            self._start(run, folder)
        evidence.result_of(folder, run.arm, run.seed, run.what_is_trained()).save(self._results)

    def _start(self, run: PlannedRun, folder: RunFolder) -> None:
        """Train in a process of its own: OpenRLHF and Ray can be started only once in a process."""
        folder.path.mkdir(parents=True, exist_ok=True)
        before = folder.evaluation("before").with_suffix(".jsonl")
        if self._before.is_file() and not before.exists():
            # Mostly the start model is the same; a journal of another request is started again.
            shutil.copyfile(self._before, before)
        config = folder.path.with_suffix(".yaml")
        config.write_text(yaml.safe_dump(run.config.model_dump(mode="json"), sort_keys=False))
        command = [sys.executable, "-m", "extra_cli", "train", str(config), "--run", str(folder.path)]
        command += ["--cache", str(self._cache)] + (["--resume"] if folder.config.is_file() else [])
        code = subprocess.run(command, env=os.environ, check=False).returncode
        if code == 130:
            raise KeyboardInterrupt
        if code:
            raise ExperimentFailed(
                f"{run.arm}, seed {run.seed}: `{' '.join(command)}` ended with code {code}"
            )
        # Another command that adds other arms to the same table may read this.
        write_whole(self._before, before.read_text(encoding="utf-8"))


def _with_defaults(content: dict[str, Any]) -> dict[str, Any]:
    # Releases without the choice measured novelty so.
    novelty = {"metric": "embedding", "window": "reference", **content.get("novelty", {})}
    content = {**content, "novelty": novelty}
    try:
        return configs.Config.model_validate(content).model_dump(mode="json")
    except ValidationError:
        return content


class ExperimentFailed(Exception):
    """A run failed; the message gives its command and exit code."""


def load(path: Path) -> ExperimentConfig:
    """Read the YAML file of an experiment.

    Raises:
        ConfigError: Names every unknown or bad setting.
    """
    try:
        return ExperimentConfig.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError(f"{path}:\n{explain(error, ExperimentConfig)}") from error
