"""`extra-rl check-data`: every fault of a file of problems is found, counted and named by its line."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from extra_client import VerificationClient, embedded
from extra_trainer.config import PromptConfig
from extra_trainer.data.checking import DataReport, check_data
from extra_trainer.data.files import RowFault

PROMPTS = PromptConfig()
GOOD = [{"problem": f"{n}+1=?", "answer": str(n + 1)} for n in range(20)]


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with embedded.start("verification", workers=1, slow_workers=1, code_execution="sandbox") as service:
        yield service.target


@pytest.fixture(scope="module")
def verification(target: str) -> Iterator[VerificationClient]:
    with VerificationClient(target) as client:
        yield client


def _file(folder: Path, rows: list[Any]) -> str:
    path = folder / "p.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def _found(report: DataReport) -> dict[RowFault, tuple[int, list[str]]]:
    """Return fault -> rows, and lines of the examples."""
    return {
        fault: (finding.rows, [place.rpartition(", ")[2] for place, _ in finding.examples])
        for fault, finding in report.findings.items()
    }


def test_a_file_without_faults_has_none(tmp_path: Path, verification: VerificationClient) -> None:
    report = check_data(_file(tmp_path, GOOD), PROMPTS, verification=verification)
    assert (report.rows, report.prompts, report.findings, report.to_mend) == (20, 20, {}, 0)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("{broken", RowFault.ROW),
        ([1], RowFault.ROW),
        ({"problem": "x"}, RowFault.ROW),
        ({"problem": " \n", "answer": "1"}, RowFault.PROMPT),
        ({"problem": None, "answer": "1"}, RowFault.PROMPT),
        ({"problem": "half \ud83d", "answer": "1"}, RowFault.TEXT),
        ({"problem": "x", "answer": "\udc00"}, RowFault.TEXT),
        *(
            ({"problem": "x", "answer": missing}, RowFault.MISSING)
            for missing in (None, float("nan"), "None", "nan", "", " ", [], r"\boxed{None}", ["1", None])
        ),
        ({"problem": "x", "answer": True}, RowFault.REFERENCE),
        ({"problem": "x", "answer": [["1"]]}, RowFault.REFERENCE),
        *(
            ({"problem": "x", "answer": unreadable}, RowFault.UNREADABLE)
            for unreadable in (r"\frac{1", "(1,2", "???", ["1", "x^2 ="])
        ),
    ],
)
def test_each_fault_is_named_by_its_line(
    row: Any, fault: RowFault, tmp_path: Path, verification: VerificationClient
) -> None:
    report = check_data(_file(tmp_path, [GOOD[0], "", row, GOOD[1]]), PROMPTS, verification=verification)
    assert _found(report) == {fault: (1, ["line 3"])}
    assert (report.rows, report.to_mend) == (3, 1)


def test_repeated_prompts_are_counted_and_other_notations_are_no_conflict(
    tmp_path: Path, verification: VerificationClient
) -> None:
    rows = [*GOOD[:3] * 100, {"problem": "0+1=?", "answer": "1.0"}, {"problem": "1+1=?", "answer": 3}]
    rows += [{"problem": "half?", "answer": answer} for answer in ("0.5", r"\frac{1}{2}", ["0.5", "1/2"])]
    report = check_data(_file(tmp_path, rows), PROMPTS, verification=verification)
    assert (report.rows, report.prompts) == (305, 4)
    assert _found(report) == {
        RowFault.REPEATED: (301, ["line 1", "line 2", "line 3", "line 303"]),
        RowFault.CONFLICT: (104, ["line 2", "line 303"]),
    }
    assert report.findings[RowFault.CONFLICT].examples[0][1] == "'2' here, '3' (line 302)"
    assert report.to_mend == 104


def test_without_a_service_answers_are_compared_as_written(tmp_path: Path) -> None:
    rows = [{"problem": "half?", "answer": answer} for answer in ("0.5", "1/2")]
    report = check_data(_file(tmp_path, rows), PROMPTS)
    assert _found(report)[RowFault.CONFLICT] == (2, ["line 1"])
    assert any("no verification service" in skipped for skipped in report.skipped)


def test_prompts_longer_than_the_window_are_found(tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = [*GOOD, {"problem": "1+" * 40 + "1=?", "answer": "41"}]
    report = check_data(_file(tmp_path, rows), PROMPTS, tokenizer=tokenizer, window=30)
    assert _found(report) == {RowFault.LONG: (1, ["line 21"])}


def test_the_tests_of_programs_are_read(tmp_path: Path, verification: VerificationClient) -> None:
    answers = [
        {"tests": [{"stdin": "1", "stdout": "2"}]},
        {"assert": "assert f(1) == 2"},
        {"assert": "f(1)"},
        {"tests": [{"in": "1"}]},
        "42",
    ]
    rows = [{"problem": str(number), "answer": answer} for number, answer in enumerate(answers)]
    code = PromptConfig.model_validate({"verification_method": "code"})
    report = check_data(_file(tmp_path, rows), code, verification=verification)
    assert _found(report) == {RowFault.UNREADABLE: (3, ["line 3", "line 4", "line 5"])}


def test_the_command_prints_a_table_or_json_and_its_exit_code_says_whether_to_mend(
    tmp_path: Path, target: str
) -> None:
    def run(rows: list[Any], *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "extra_cli", "check-data", _file(tmp_path, rows)]
        return subprocess.run(
            [*command, "--verification", target, *options], capture_output=True, text=True, check=False
        )

    whole = run(GOOD)
    assert (whole.returncode, "20 rows, 20 distinct prompts, no faults" in whole.stdout) == (0, True), whole
    bad = [*GOOD, {"problem": "x", "answer": None}, *GOOD]
    table = run(bad)
    assert table.returncode == 1
    assert "missing answer" in table.stdout
    assert "line 21: 'answer' is missing: None" in table.stdout
    report = json.loads(run(bad, "--json").stdout)
    assert {name: found["rows"] for name, found in report["findings"].items()} == {
        "missing": 1,
        "repeated": 20,
    }
    assert (report["rows"], report["prompts"], report["to_mend"]) == (41, 20, 1)
