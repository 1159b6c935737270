"""No regular expression of the verifier backtracks on long texts of one repeated piece."""

import subprocess
import sys

#: Processor seconds for all texts, which need a tenth of it. An expression that backtracks needs hours.
SECONDS = 120


def test_long_repetitive_texts_are_read_in_linear_time() -> None:
    command = [sys.executable, "-m", "support.backtracking_texts", str(SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert lines[-1:] == ["all read"], f"stopped at {lines[-1:]}: {done.stderr[-500:]}"
