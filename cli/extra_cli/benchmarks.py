"""`extra-rl bench`: run a benchmark of the source checkout from which this command was installed."""

import runpy
import sys
from importlib.util import find_spec
from pkgutil import iter_modules


def run(name: str, arguments: list[str]) -> None:
    """Run the module benchmarks.NAME as a program.

    Args:
        name: Name of the module, such as "novelty".
        arguments: What follows the name on the command line.

    Raises:
        SystemExit: There is no checkout here, or no such benchmark; the message says which there are.
    """
    package = find_spec("benchmarks")
    if package is None or package.submodule_search_locations is None:
        sys.exit("no benchmarks here: `extra-rl bench` needs an editable installation of a checkout")
    names = sorted(module.name for module in iter_modules(package.submodule_search_locations))
    name = name.replace("-", "_")
    if name not in names:
        sys.exit(f"unknown benchmark {name!r}; there are: {', '.join(names)}")
    sys.argv = [f"extra-rl bench {name}", *arguments]
    try:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        sys.exit(f"cannot import {error.name!r}: benchmarks need the environment of `make test`")
