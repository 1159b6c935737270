"""The log of a run of all fault tests, for docs/faults.md: `python -m support.fault_log JUNIT.xml`.

`make faults` leaves pytest's JUnit file and calls this. It prints the log; with `--write` it also puts it
into the page. Of each file it has the tests, how many passed, which failed, why others were skipped, and the
seconds; before that when the run began and on which commit, how long it took, and how busy the machine was.
"""

import argparse
import os
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

from support.fault_table import PAGE

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- log: made by tests/support/fault_log.py -->", "<!-- end of the log -->"


@dataclass
class FileLog:
    """What became of the tests of one file."""

    tests: int = 0
    passed: int = 0
    seconds: float = 0.0
    failed: list[str] = field(default_factory=list)
    #: Reason -> tests skipped for it.
    skipped: Counter[str] = field(default_factory=Counter)

    def add(self, case: ElementTree.Element) -> None:
        """Add one `testcase` of the JUnit file."""
        self.tests += 1
        self.seconds += float(case.get("time", "0"))
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            self.failed.append(case.get("name", ""))
        elif skipped is not None:
            self.skipped[skipped.get("message", "").removeprefix("Skipped: ")] += 1
        else:
            self.passed += 1


def as_markdown(junit: Path, commit: str, load: str) -> str:
    """Return the log of the run that left `junit`, on that commit and at that load of the machine."""
    (suite,) = ElementTree.parse(junit).getroot().iter("testsuite")
    files: dict[str, FileLog] = {}
    for case in suite.iter("testcase"):
        files.setdefault(_file(case), FileLog()).add(case)
    began = datetime.fromisoformat(suite.get("timestamp", ""))
    passed, tests = (sum(getattr(each, name) for each in files.values()) for name in ("passed", "tests"))
    lines = [
        f"Begun {began:%Y-%m-%d %H:%M} on commit {commit}: {passed} of {tests} tests passed in"
        f" {float(suite.get('time', '0')) / 60:.0f} minutes on {os.cpu_count()} cores; load {load}.",
        "",
        "| file | tests | passed | failed or skipped | seconds |",
        "|---|---:|---:|---|---:|",
    ]
    for name, log in sorted(files.items()):
        rest = [f"failed: {each}" for each in log.failed]
        rest += [f"{count} skipped: {reason}" for reason, count in log.skipped.items()]
        lines.append(f"| `{name}` | {log.tests} | {log.passed} | {'; '.join(rest)} | {log.seconds:.0f} |")
    return "\n".join(lines)


def _file(case: ElementTree.Element) -> str:
    """Return the file of a test, without `tests/`; a test that was skipped as a module has only a name."""
    name = case.get("classname") or case.get("name") or ""
    return "/".join(name.split(".")[1:]) + ".py"


def main() -> None:
    """Print the log, or write it into the page."""
    parser = argparse.ArgumentParser(prog="fault_log", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("junit", type=Path, help="what pytest's --junitxml left")
    parser.add_argument("--write", action="store_true", help="put the log into docs/faults.md")
    options = parser.parse_args()
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    load = f"{os.getloadavg()[2]:.0f} in its last quarter of an hour"
    log = as_markdown(options.junit, done.stdout.strip(), load)
    print(log)
    if options.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{log}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
