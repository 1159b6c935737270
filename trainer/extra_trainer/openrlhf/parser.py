"""OpenRLHF's own reading of its flags, in under a second: `python -m extra_trainer.openrlhf.parser FLAGS`.

OpenRLHF defines its parser, and checks the arguments, in the `if __name__ == "__main__"` block of its
command-line module, which ends in `train(args)`. Importing that module takes many seconds, for torch,
DeepSpeed and Ray. Here only that block is run, as it is in the installed release, with a `train` that prints
the arguments as JSON. It runs in a process of its own: the parser exits on errors, and it needs an
`openrlhf.utils` without its imports.
"""

import argparse
import ast
import json
import os
import subprocess
import sys
import types
from datetime import datetime
from typing import Any

from extra_rl.config_file import ConfigError
from extra_trainer.openrlhf.replacements import check_release, main_block


def parse(flags: list[str]) -> dict[str, Any]:
    """Return OpenRLHF's arguments, nested by the dots in their names.

    Raises:
        ConfigError: If OpenRLHF refuses the flags, or another release is installed.
    """
    check_release()
    command = [sys.executable, "-m", "extra_trainer.openrlhf.parser", *flags]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or ["it ended without a message"]
        raise ConfigError(f"OpenRLHF refuses its flags: {lines[-1].removeprefix('train_ppo_ray: error: ')}")
    # The lines before are OpenRLHF's warnings.
    arguments: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return arguments


def main(flags: list[str]) -> None:
    """Print the parsed flags as one line of JSON; exit as OpenRLHF does if it refuses them."""
    source, statements = main_block()
    without_imports = types.ModuleType("openrlhf.utils")
    without_imports.__path__ = [str(source.parent.parent / "utils")]
    sys.modules["openrlhf.utils"] = without_imports
    sys.argv = ["train_ppo_ray", *flags]
    names = {"argparse": argparse, "os": os, "datetime": datetime, "train": _print}
    exec(compile(ast.Module(statements, []), str(source), "exec"), names)


def _print(arguments: Any) -> None:
    print(json.dumps(arguments, default=vars))


if __name__ == "__main__":
    main(sys.argv[1:])
