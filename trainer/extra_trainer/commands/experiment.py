"""`extra-rl experiment`: the arms and seeds of an experiment, and its evidence."""

from pathlib import Path

from rich.console import Console

from extra_rl.config_file import ConfigError
from extra_trainer.commands.run_command import run_command


def experiment(
    path: Path,
    output: Path,
    runs: Path,
    seeds: int | None,
    arms: list[str],
    minutes: float | None,
    cache: Path,
) -> int:
    """Train the runs of an experiment that are missing, and write its evidence.

    Args:
        path: YAML file of the experiment.
        output: Folder of results, tables and page.
        runs: Folder of the run folders.
        seeds: Runs of each arm; None: as the file says.
        arms: Names of the arms to train; empty: all.
        minutes: Start no run after this time; None: no limit.
        cache: Folder of start models made by the project.

    Returns:
        0 if all was done, 1 after an error that is reported, 130 after Ctrl-C.
    """
    from extra_trainer.experiments.experiment import Experiment, ExperimentFailed

    console = Console()

    def work() -> int:
        Experiment(path, output, runs, cache, console).train(seeds, arms, minutes)
        return 0

    stopped = "Stopped. The same command goes on with the run that was stopped."
    return run_command(work, console, (ConfigError, ExperimentFailed), stopped)
