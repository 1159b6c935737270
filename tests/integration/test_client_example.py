"""The example in docs/plugin-example.md runs as it stands and prints what the page says."""

import subprocess
import sys
from pathlib import Path

from support.pages import blocks

PAGE = "docs/plugin-example.md"


def test_the_plug_in_example_prints_what_its_page_says(tmp_path: Path) -> None:
    program = "\n".join(blocks(PAGE, "python"))
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (expected,) = blocks(PAGE, "text")
    assert ran.stdout == expected
    assert list(tmp_path.iterdir()) == []


def test_the_plug_in_is_ten_lines() -> None:
    lines = [line for line in blocks(PAGE, "python")[0].splitlines() if line.strip()]
    assert len(lines) <= 10
