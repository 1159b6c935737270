"""Look up every locked release in PyPI's advisory database, with pip-audit: `make audit`.

The exit code is 1 if a release has a known vulnerability. A mirror of PyPI may have packages but no
advisories. Then the script prints NOT AUDITED and exits with 2, or with 0 if --tolerate-no-database is given
(for CI, whose network may have only such a mirror).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "requirements"
SECONDS = 600


def audit(pins: list[str]) -> list[dict[str, Any]] | None:
    """Return pip-audit's entry for each of `pins` (name==release); None if it could not look them up."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pins))
        file.flush()
        command = [
            sys.executable,
            "-m",
            "pip_audit",
            "--requirement",
            file.name,
            "--no-deps",
            "--disable-pip",
        ]
        command += ["--progress-spinner", "off", "--format", "json"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    try:
        entries: list[dict[str, Any]] = json.loads(found.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        print(found.stderr.strip().splitlines()[-1:], file=sys.stderr)
        return None
    return entries


def locked() -> dict[str, list[str]]:
    """Return name==release -> the locks that contain it."""
    pins: dict[str, list[str]] = {}
    for path in sorted(FOLDER.glob("*.lock")):
        for line in path.read_text().splitlines():
            if "==" in line and not line.startswith((" ", "#")):
                # The CPU build of a release has the same vulnerabilities.
                name, release = line.split()[0].split("==")
                pins.setdefault(f"{name.partition('[')[0]}=={release.partition('+')[0]}", []).append(
                    path.name
                )
    return pins


def main() -> None:
    """Print the vulnerable releases, and exit with the code described above."""
    parser = argparse.ArgumentParser(description="Audit the locked releases")
    parser.add_argument("--tolerate-no-database", action="store_true")
    tolerant = parser.parse_args().tolerate_no_database
    pins = locked()
    # A release with known advisories: without an answer for it, the hundreds of others need not be looked up.
    probe = audit(["requests==2.19.0"])
    if not probe or not probe[0].get("vulns"):
        print(
            f"NOT AUDITED: no advisory database can be reached from here. {len(pins)} releases are unchecked."
        )
        print("Run `make audit` on a machine that can reach PyPI itself.")
        sys.exit(0 if tolerant else 2)
    entries = audit(list(pins)) or []
    unknown = [entry["name"] for entry in entries if "skip_reason" in entry]
    bad = [entry for entry in entries if entry.get("vulns")]
    for entry in bad:
        pin = f"{entry['name']}=={entry['version']}"
        for advisory in entry["vulns"]:
            fixed = ", ".join(advisory["fix_versions"]) or "no release yet"
            print(f"{pin} ({', '.join(pins.get(pin, []))}): {advisory['id']}; fixed in {fixed}")
    print(
        f"{len(entries)} releases audited, {len(bad)} vulnerable, {len(unknown)} unknown: {' '.join(unknown)}"
    )
    sys.exit(1 if bad or len(entries) < len(pins) else 0)


if __name__ == "__main__":
    main()
