"""`extra-rl bench`: runs a benchmark of the source checkout this command was installed from."""

import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def run(name: str, arguments: list[str]) -> None:
    """Runs benchmarks/NAME.py as a program; exits with a message if there is no such file."""
    # inspect_.py is `inspect`: a module of that name would hide Python's own from the other benchmarks.
    files = {path.stem.rstrip("_"): path for path in FOLDER.glob("*.py")}
    names = sorted(files)
    if not names:
        sys.exit(f"no benchmarks in {FOLDER}: `extra-rl bench` needs an editable installation of a checkout")
    if name not in names:
        sys.exit(f"unknown benchmark {name!r}; there are: {', '.join(names)}")
    sys.argv = [f"extra-rl bench {name}", *arguments]
    # The benchmarks import one another's helpers as scripts do.
    sys.path.insert(0, str(FOLDER))
    runpy.run_path(str(files[name]), run_name="__main__")
