"""The programs in docs/getting-started.md run as they stand and print what the page says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "getting-started.md"
#: Each program with what it prints, by the first word of its heading.
PROGRAMS = {
    heading: (program, printed)
    for heading, program, printed in re.findall(
        r"^## (\w+)[^\n]*\n(?:(?!^## ).)*?```python\n(.*?)```\n+```text\n(.*?)```",
        PAGE.read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
}


def test_every_service_has_a_program() -> None:
    assert list(PROGRAMS) == ["Verification", "Novelty", "Prefixes", "Generation"]


@pytest.mark.parametrize("service", PROGRAMS)
def test_the_program_prints_what_the_page_says(service: str) -> None:
    program, printed = PROGRAMS[service]
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == printed
