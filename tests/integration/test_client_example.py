"""The example in docs/plugin-example.md runs as it stands and prints what the page says."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugin-example.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_plug_in_example_prints_what_its_page_says(tmp_path: Path) -> None:
    program = "\n".join(blocks("python"))
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (expected,) = blocks("text")
    assert ran.stdout == expected
    assert list(tmp_path.iterdir()) == []


def test_the_plug_in_is_ten_lines() -> None:
    lines = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(lines) <= 10
