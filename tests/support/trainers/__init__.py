"""Trainers with their plug-ins, for the contract tests: each does a step with given rollouts.

Where a trainer cannot be installed on a CPU, its part is recorded here: classes and functions of the same
names and fields, written anew, with the commit at which the interface was read.
"""

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any


def modules(name: str, contents: Mapping[str, Any]) -> None:
    """Let a module and the packages that hold it be imported, with what is recorded of it."""
    parents = name.split(".")
    for depth in range(1, len(parents) + 1):
        part = ".".join(parents[:depth])
        module = sys.modules.setdefault(part, ModuleType(part))
        if depth > 1:
            setattr(sys.modules[part.rpartition(".")[0]], parents[depth - 1], module)
    vars(sys.modules[name]).update(contents)
