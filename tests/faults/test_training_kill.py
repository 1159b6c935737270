"""kill -9 of each process of a run: the run stops, reports why, leaves no process, and resumes unchanged.

trainer/README.md has a table of the cases.
"""

from pathlib import Path

import psutil
import pytest

from support.processes import no_process_survives, wait_for
from support.training_runs import metrics_of, output_of, start, tiny_config, without_durations

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2000)]

#: Victim -> a word of its command line.
VICTIMS = {
    "driver": "extra_trainer.openrlhf.driver",
    "trainer actor": "ray::ExTraTrainer",
    "policy worker": "ray::PolicyModelActor",
    "reference worker": "ray::ReferenceModelActor",
    "raylet": "raylet/raylet",
    "generation service": "serve generation",
    "novelty service": "serve novelty",
    "verification service": "serve verification",
}


@pytest.fixture(scope="module")
def config(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_config(tmp_path_factory.mktemp("run"), tiny_model)


@pytest.fixture(scope="module")
def uninterrupted(config: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    run = tmp_path_factory.mktemp("whole") / "run"
    with no_process_survives() as mark:
        process = start(mark, config, run)
        assert "pass@1" in output_of(process)
    return metrics_of(run)


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_run_survives_the_death_of_any_of_its_processes(
    victim: str, config: Path, uninterrupted: list[dict[str, float]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with no_process_survives() as mark:
        process = start(mark, config, run)
        wait_for(lambda: len(metrics_of(run)) >= 3 or process.poll() is not None, "three steps never came")
        _find(process.pid, VICTIMS[victim]).kill()
        output = output_of(process)
    print(output)
    assert process.returncode == 1, output
    assert "--resume goes on from step" in " ".join(output.split())
    with no_process_survives() as mark:
        resumed = start(mark, config, run, "--resume")
        output = output_of(resumed)
    assert resumed.returncode == 0, output
    for expected, found in zip(uninterrupted, metrics_of(run), strict=True):
        assert without_durations(found) == pytest.approx(without_durations(expected), rel=1e-4, abs=1e-6)


def _find(launcher: int, word: str) -> psutil.Process:
    for process in psutil.Process(launcher).children(recursive=True):
        if word in " ".join(process.cmdline()):
            return process
    raise AssertionError(f"no process of the run has {word!r} in its command line")
