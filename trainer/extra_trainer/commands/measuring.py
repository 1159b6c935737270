"""What the commands that measure a model have in common: `extra-rl eval` and `extra-rl rescue`."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError
from rich.console import Console

from extra_client import ExtraError
from extra_rl.config_file import ConfigError, explain
from extra_trainer.commands.exit_codes import exit_code
from extra_trainer.config import Section
from extra_trainer.rollouts.collector import RolloutError

#: Columns where there is no terminal: room for the whole table.
WIDTH = 110

Settings = TypeVar("Settings", bound=Section)


def run(measure: Callable[[Console], None], when_stopped: str) -> int:
    """Measures; 0 if all was done, 1 on an error that is told, 130 after Ctrl-C or SIGTERM."""
    # Data sets and models come from folders; nothing should wait for a hub that cannot be reached.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH

    def work() -> int:
        measure(console)
        return 0

    told = (ConfigError, ExtraError, RolloutError)
    return exit_code(work, console, told, f"{when_stopped} The same command goes on.")


def validated(model: type[Settings], values: dict[str, Any]) -> Settings:
    """A section of these values; ConfigError says what is wrong."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, model)) from error
