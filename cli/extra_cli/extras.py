"""The extra that a command needs, checked before the command starts.

Commands import the code they need late. On an installation without the extra that import fails somewhere
below; the user should read which extra to install, not a traceback.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec


@contextmanager
def needs(extras: str, *modules: str) -> Iterator[None]:
    """Turn a missing third-party module into one sentence that names the extra.

    Args:
        extras: Extras of this project that the command needs, such as "eval,generation".
        *modules: Top-level modules of theirs that the command imports only after it has started.

    Raises:
        SystemExit: One of `modules`, or a module that the body imports, is not installed.
    """
    missing = next((module for module in modules if find_spec(module) is None), None)
    if missing is None:
        try:
            yield
            return
        except ModuleNotFoundError as error:
            missing = error.name
    sys.exit(f"cannot import {missing!r}: pip install 'extra-rl[{extras}]'")
