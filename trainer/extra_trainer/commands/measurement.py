"""Common parts of the commands that measure a model: `extra-rl eval` and `extra-rl rescue`."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError
from rich.console import Console

from extra_client import ExtraError
from extra_rl.config_file import ConfigError, explain
from extra_trainer.commands.run_command import run_command
from extra_trainer.config import Section
from extra_trainer.rollouts.collector import RolloutError

#: Columns where there is no terminal: room for the whole table.
WIDTH = 110

Settings = TypeVar("Settings", bound=Section)


def run_measurement(measure: Callable[[Console], None], stopped_message: str) -> int:
    """Run `measure` and return the exit code.

    Returns:
        0 if all was measured, 1 after an error that is reported, 130 after Ctrl-C or SIGTERM.
    """
    # Data sets and models come from folders; nothing should wait for a hub that cannot be reached.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH

    def work() -> int:
        measure(console)
        return 0

    reported = (ConfigError, ExtraError, RolloutError)
    return run_command(work, console, reported, f"{stopped_message} The same command goes on.")


def validated(model: type[Settings], values: dict[str, Any]) -> Settings:
    """Return a section with these values.

    Raises:
        ConfigError: If a value is wrong; the message names it.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, model)) from error
