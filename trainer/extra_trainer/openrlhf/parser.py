"""OpenRLHF's own reading of its flags, in under a second: `python -m extra_trainer.openrlhf.parser FLAGS`.

OpenRLHF defines its parser, and checks what it parsed, in the `if __name__ == "__main__"` block of its
command-line module, which ends in `train(args)`; importing that module takes torch, DeepSpeed and Ray, many
seconds. Here that block alone is run, as it stands in the installed release, with a `train` that prints the
arguments as JSON. In a process of its own: the parser exits on errors and needs a bare `openrlhf.utils`.
"""

import argparse
import ast
import importlib.util
import json
import os
import subprocess
import sys
import types
from datetime import datetime
from pathlib import Path
from typing import Any

from extra_rl.config_file import ConfigError

MODULE = "openrlhf.cli.train_ppo_ray"


def parse(flags: list[str]) -> dict[str, Any]:
    """OpenRLHF's arguments, nested by the dots in their names; ConfigError says what it refuses, and why."""
    command = [sys.executable, "-m", "extra_trainer.openrlhf.parser", *flags]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or ["it ended without a message"]
        raise ConfigError(lines[-1].removeprefix("train_ppo_ray: error: "))
    # What comes before are OpenRLHF's warnings.
    arguments: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return arguments


def main(flags: list[str]) -> None:
    """Prints the parsed flags as one line of JSON; exits as OpenRLHF would if it refuses them."""
    spec = importlib.util.find_spec(MODULE)
    if spec is None or spec.origin is None:
        sys.exit("openrlhf is not installed: pip install 'extra-rl[trainer]'")
    source = Path(spec.origin)
    bare = types.ModuleType("openrlhf.utils")
    bare.__path__ = [str(source.parent.parent / "utils")]
    sys.modules["openrlhf.utils"] = bare
    sys.argv = ["train_ppo_ray", *flags]
    names = {"argparse": argparse, "os": os, "datetime": datetime, "train": _print}
    exec(compile(ast.Module(_main_block(source), []), str(source), "exec"), names)


def _main_block(source: Path) -> list[ast.stmt]:
    for statement in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.If) and "__main__" in ast.unparse(statement.test):
            return statement.body
    sys.exit(f"{source} has no main block: another release of openrlhf than the one this project pins?")


def _print(arguments: Any) -> None:
    print(json.dumps(arguments, default=vars))


if __name__ == "__main__":
    main(sys.argv[1:])
