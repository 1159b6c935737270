"""What `extra-rl train`, `experiment` and `report` do: arguments in, exit code out."""

import os
import sys
import warnings
from pathlib import Path

from rich.console import Console

from extra_client import ExtraError
from extra_rl.config_file import ConfigError
from extra_trainer import config as configs
from extra_trainer.commands.exit_codes import exit_code


def train(
    config_path: Path, run: Path | None, resume: bool, settings: list[str], cache: Path, dry_run: bool
) -> int:
    """Trains; 0 if it went to the end, 1 on an error that is told, 130 after Ctrl-C.

    With `dry_run` the resolved plan is printed instead; 1 if it has problems. Without, they stop the run too.
    """
    # Models come from folders; nothing should wait for a hub that cannot be reached.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # Torch's own advice to those who installed pynvml, which here DeepSpeed did.
    warnings.filterwarnings("ignore", "The pynvml package is deprecated", FutureWarning)
    from extra_trainer.launch import plan as plans
    from extra_trainer.launch.launcher import Launcher, TrainingFailed
    from extra_trainer.runs.folder import RunFolder

    console = Console()

    def work() -> int:
        config = configs.load(config_path, dict(_setting(text) for text in settings))
        os.environ.update(config.services.credentials.environment())
        folder = RunFolder(run or Path("runs") / f"{config.name}-seed{config.seed}")
        plan = plans.make(config, folder)
        if dry_run:
            plans.show(plan, console)
            return 1 if plan.problems else 0
        plans.show_problems(plan, console)
        if plan.problems:
            return 1
        Launcher(config, folder, console, cache).train(resume=resume)
        return 0

    told = (ConfigError, ExtraError, TrainingFailed)
    stopped = "Stopped; all that was started has ended. The same command with --resume goes on."
    return exit_code(work, console, told, stopped)


def experiment(
    path: Path,
    output: Path,
    runs: Path,
    seeds: int | None,
    arms: list[str],
    minutes: float | None,
    cache: Path,
) -> int:
    """Trains what is missing of an experiment and writes its evidence; exit codes as `train`."""
    from extra_trainer.experiments.experiment import Experiment, ExperimentFailed

    console = Console()

    def work() -> int:
        Experiment(path, output, runs, cache, console).train(seeds, arms, minutes)
        return 0

    told = (ConfigError, ExperimentFailed)
    return exit_code(work, console, told, "Stopped. The same command goes on with the run that was stopped.")


def report(runs: list[Path], output: Path | None) -> int:
    """Writes the report of one run again, or of several side by side, and prints the page's path."""
    from extra_trainer.reports import report as reports

    try:
        print(reports.write_all(runs, output))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _setting(text: str) -> tuple[str, object]:
    import yaml

    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set takes NAME=VALUE, not {text!r}")
    return name, yaml.safe_load(value)
