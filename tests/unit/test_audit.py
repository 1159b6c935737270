"""`make audit` never passes without having looked. A module that knows some advisories plays pip-audit.

Real advisories need a database on the network, which a mirror of PyPI has not.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "audit.py"
#: Answers as pip-audit does; KNOWN names the releases with an advisory. NONE: no database answers.
PIP_AUDIT = """
import json, os, sys
from pathlib import Path

pins = Path(sys.argv[sys.argv.index("--requirement") + 1]).read_text().split()
known = os.environ["KNOWN"].split()
if known == ["NONE"]:
    sys.exit("no database")
entries = []
for pin in pins:
    name, version = pin.split("==")
    found = [{"id": "X-1", "fix_versions": ["9"]}] if name in known else []
    entries.append({"name": name, "version": version, "vulns": found})
print(json.dumps({"dependencies": entries[: int(os.environ.get("MOST", len(entries)))]}))
"""


def _audit(folder: Path, known: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "pip_audit.py").write_text(PIP_AUDIT)
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        env={**os.environ, "PYTHONPATH": str(folder), "KNOWN": known, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("known", ["NONE", "nothing-of-these"])
def test_without_a_database_it_says_that_nothing_was_audited(tmp_path: Path, known: str) -> None:
    done = _audit(tmp_path, known)
    assert done.returncode == 2
    assert "NOT AUDITED: no advisory database can be reached from here" in done.stdout
    tolerated = _audit(tmp_path, known, "--tolerate-no-database")
    assert (tolerated.returncode, tolerated.stdout) == (0, done.stdout)


def test_a_vulnerable_release_is_named_with_its_locks_and_the_release_that_mends_it(tmp_path: Path) -> None:
    done = _audit(tmp_path, "requests grpcio")
    assert done.returncode == 1
    assert re.search(r"^grpcio==\S+ \(.*client\.lock.*\): X-1; fixed in 9$", done.stdout, re.MULTILINE)


def test_releases_that_were_not_looked_up_fail_it(tmp_path: Path) -> None:
    assert _audit(tmp_path, "requests", MOST="1").returncode == 1
