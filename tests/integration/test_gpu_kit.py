"""`make gpu` on a CPU: the same parts in the smallest sizes, and what becomes of a part that fails."""

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu

#: Parts that take seconds; the others run with `extra-rl bench gpu --device cpu --small`.
QUICK = ["entropies", "delivery", "rate_transformers"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_kit_runs_on_a_cpu_and_leaves_out_what_is_not_installed(tmp_path: Path) -> None:
    output, nowhere = tmp_path / "report.md", str(tmp_path / "no-python")
    arguments = ["--device", "cpu", "--small", "--output", str(output), "--vllm-python", nowhere]
    gpu.main([*arguments, "--only", "vllm_v2", *QUICK])
    report = output.read_text()
    titles = {part.name: part.title for part in gpu.parts(True, "cpu", tmp_path)}
    for name in QUICK:
        assert f"| {titles[name]} | **ok** |" in report, report
    assert f"| {titles['vllm_v2']} | **left out** |" in report
    assert "no-python is missing" in report
    assert "3 passed" in report
    for figure in ("`tiny_folder`", "`tiny_stream`", "`transformers_with_entropy`"):
        assert figure in report


def test_a_part_that_fails_is_in_the_report_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = gpu.Part("first", "A failing part", ("-c", "raise RuntimeError('no such kernel')"))
    passing = gpu.Part("second", "A benchmark", ("-c", _PRINTS, "bench"))
    monkeypatch.setattr(gpu, "parts", lambda *_: [failing, passing])
    output = tmp_path / "report.md"
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--device", "cpu", "--output", str(output)])
    assert ended.value.code == 1
    report = output.read_text()
    assert "| A failing part | **failed** |" in report
    assert "RuntimeError: no such kernel" in report
    assert "| A benchmark | **ok** |" in report
    assert "| `faster` | 2.5 |" in report
    assert "second: ok" in capsys.readouterr().out


_PRINTS = """
print("{a line of a log}")
print('{"ratios": {"faster": 2.5}, "figures": {}}')
"""


def test_a_part_that_does_not_end_has_failed(tmp_path: Path) -> None:
    endless = gpu.Part("endless", "An endless part", ("-c", "import time; time.sleep(3600)"))
    outcome = gpu.run(endless, sys.executable, "cpu", longest=0.5)
    assert (outcome.status, outcome.found[0]) == ("failed", "not finished after 0 seconds")


def test_without_a_gpu_the_kit_says_what_runs_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--device cpu runs the same parts"):
        gpu.main(["--output", str(tmp_path / "report.md")])


def test_every_part_names_files_that_exist(tmp_path: Path) -> None:
    for small in (True, False):
        for part in gpu.parts(small, "cuda", tmp_path):
            named = [word for word in part.command if word.startswith(("tests/", "trainer/"))]
            assert all((gpu.ROOT / word).exists() for word in named), part.name
            if "bench" in part.command:
                assert (gpu.ROOT / f"benchmarks/{part.command[part.command.index('bench') + 1]}.py").exists()
