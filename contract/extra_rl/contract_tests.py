"""What the pytest plug-ins with contract tests share: an option that names an object, and tests of their own.

pytest loads these plug-ins in every environment that has the package, so this imports nothing else.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest


def named_object(option: str, form: str, name: str) -> tuple[Any, bool]:
    """Return what MODULE:NAME names, and whether the name has a colon.

    Args:
        option: The option that has this value, for errors.
        form: The form that it takes, for errors.
        name: The value.

    Raises:
        pytest.UsageError: There is none.
    """
    module, colon, path = name.partition(":")
    # As with `python -m pytest`, modules in the working directory are found.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise pytest.UsageError(f"{option} takes {form}; {name!r}: {error}") from error
    return found, bool(colon)


def collect(config: pytest.Config, tests: Path) -> None:
    """Collect a file of contract tests: beside the paths that are given, or alone."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    config.args = [*config.args, str(tests)] if named else [str(tests)]
