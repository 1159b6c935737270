"""`extra-rl train`: one training run, or with --dry-run its plan."""

import os
import warnings
from pathlib import Path

from rich.console import Console

from extra_client import ExtraError
from extra_rl.config_file import ConfigError
from extra_trainer import config as configs
from extra_trainer.commands.check_data import check_run_data
from extra_trainer.commands.run_command import run_command


def train(
    config_path: Path, run: Path | None, resume: bool, settings: list[str], cache: Path, dry_run: bool
) -> int:
    """Train from a config file.

    Args:
        config_path: YAML file of the run.
        run: The run folder; None: runs/NAME-seedSEED.
        resume: Whether to continue the run in that folder.
        settings: NAME=VALUE pairs that replace settings of the file.
        cache: Folder of start models made by the project.
        dry_run: Whether to print the resolved plan and check the problems, instead of training.

    Returns:
        0 if the run reached its end, 1 after an error that is reported or if the plan has problems, 130 after
        Ctrl-C.
    """
    # Models come from folders; nothing should wait for a hub that cannot be reached.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # Torch's advice to those who installed pynvml, which here DeepSpeed did.
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
            to_mend = 0
            if not folder.train_data.is_file():
                to_mend = check_run_data(config, plan.tokenizer, console)
            return 1 if plan.problems or to_mend else 0
        plans.show_problems(plan, console)
        if plan.problems:
            return 1
        if plan.shared:
            shared = "; ".join(plan.shared)
            console.print(f"Shared with other runs: {shared}", markup=False, highlight=False, soft_wrap=True)
        Launcher(config, folder, console, cache).train(resume=resume)
        return 0

    reported = (ConfigError, ExtraError, TrainingFailed)
    stopped = "Stopped; all that was started has ended. The same command with --resume goes on."
    return run_command(work, console, reported, stopped)


def _setting(text: str) -> tuple[str, object]:
    import yaml

    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set takes NAME=VALUE, not {text!r}")
    return name, yaml.safe_load(value)
