"""`pytest --verifier module:function`: a good verifier passes, each kind of bad one fails where it is bad."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

#: Other plug-ins of this environment take seconds to load.
ENVIRONMENT = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
GOOD = """
    import re
    def verify(response, answer):
        boxes = re.findall(r"boxed[{]([^{}]*)[}]", response)
        right = bool(boxes) and boxes[-1] == answer
        return {"score": right, "length": len(response)}
"""


def _run(folder: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "mine.py").write_text(textwrap.dedent(source))
    command = [sys.executable, "-m", "pytest", "-p", "extra_services.verification.pytest_plugin"]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", "-q", "--verifier=mine:verify", *options],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_good_verifier_passes_and_only_the_contract_tests_run(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("def test_other():\n    assert False\n")
    done = _run(tmp_path, GOOD)
    assert done.returncode == 0, done.stdout
    assert "test_mine" not in done.stdout
    assert " passed" in done.stdout
    # With paths, both run.
    both = _run(tmp_path, GOOD, "test_mine.py")
    assert both.returncode == 1
    assert "1 failed" in both.stdout
    assert "test_other" in both.stdout


@pytest.mark.parametrize(
    ("body", "test", "reason"),
    [
        ("return 'yes'", "test_it_returns_a_score", "returned 'yes' as the score, not a number"),
        ("return 1.5", "test_it_returns_a_score", "not True, False or a score in [0, 1]"),
        ("return float('nan')", "test_it_returns_a_score", "not a finite number"),
        ("return {'length': 1}", "test_it_returns_a_score", "components without 'score'"),
        ("return True", "test_nothing_is_not_correct", "is correct for the reference answer 42"),
        ("return response.index('4') >= 0", "test_any_response_gets_a_result_in_time", "raised ValueError"),
        ("raise SystemExit", "test_it_returns_a_score", "it ended its process"),
        ("return random.random()", "test_the_same_pair_gets_the_same_result", "the score changed"),
        ("os.chdir('/'); return 0", "test_it_leaves_its_process_as_it_was", "changed the working directory"),
        (
            "threading.Thread(target=time.sleep, args=(9,), daemon=True).start(); return 0",
            "test_it_leaves_its_process_as_it_was",
            "changed running threads",
        ),
    ],
)
def test_a_bad_verifier_fails_with_the_reason(body: str, test: str, reason: str, tmp_path: Path) -> None:
    source = f"import os, random, threading, time\ndef verify(response, answer):\n    {body}\n"
    done = _run(tmp_path, source, "-k", test)
    assert done.returncode == 1, done.stdout
    assert reason in done.stdout


def test_a_verifier_that_hangs_fails_in_time(tmp_path: Path) -> None:
    source = r"""
        import re
        def verify(response, answer):
            return bool(re.match(r"(a|aa)+$", response))
    """
    done = _run(tmp_path, source, "--verifier-seconds=0.5", "-k", "letters")
    assert done.returncode == 1, done.stdout
    assert "not finished after 0.5 s: the server would kill its worker" in done.stdout


def test_the_author_s_cases_are_tests(tmp_path: Path) -> None:
    rows = [
        {"response": r"\boxed{7}", "answer": "7", "score": True},
        {"response": r"\boxed{8}", "answer": "7", "score": 1},
    ]
    cases = tmp_path / "cases.jsonl"
    cases.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = _run(tmp_path, GOOD, f"--verifier-cases={cases}", "-k", "case")
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "score 0.0, not 1.0" in done.stdout
    cases.write_text("{}\n")
    broken = _run(tmp_path, GOOD, f"--verifier-cases={cases}")
    assert "line 1: no case with response, answer and score" in broken.stdout + broken.stderr


@pytest.mark.parametrize("name", ["mine", "mine:nothing", "nowhere:verify"])
def test_a_name_of_nothing_is_refused_by_name(name: str, tmp_path: Path) -> None:
    done = _run(tmp_path, GOOD, f"--verifier={name}")
    assert done.returncode != 0
    assert "--verifier takes MODULE:FUNCTION" in done.stdout + done.stderr


def test_without_the_option_nothing_changes(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("def test_other():\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-p", "extra_services.verification.pytest_plugin", "-q"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout
