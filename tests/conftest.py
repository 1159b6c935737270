"""Fixtures that many tests share: a small model, and folders of golden cases and public data."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# No deadline: a busy machine is not a failure. The examples are the same in every run.
hypothesis.settings.register_profile("here", deadline=None, derandomize=True)
hypothesis.settings.load_profile("here")

# As in extra_cli, before torch is imported: idle OpenMP threads must not take cores from the servers.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Servers of many tests run at the same time; a test of metrics sets its own port.
for _service in ("GENERATION", "NOVELTY", "VERIFICATION"):
    os.environ.setdefault(f"EXTRA_RL_{_service}_METRICS_PORT", "off")

DATA = Path(__file__).resolve().parent / "data"


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Return the folder with golden cases of the reference implementation."""
    return Path(os.environ.get("EXTRA_RL_GOLDEN", DATA / "golden"))


@pytest.fixture(scope="session")
def public_data() -> Callable[[str], Path]:
    """Return a function from a data set's name to its file; the test is skipped if there is none."""
    folder = Path(os.environ.get("EXTRA_RL_DATA", DATA / "public"))

    def file(name: str) -> Path:
        path = folder / f"{name}.jsonl"
        if not path.is_file():
            pytest.skip(
                "set EXTRA_RL_DATA to a folder with the data that tests/data/public/README.md leaves out"
            )
        return path

    return file


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print, for each thing that skipped tests lack, one line with the number of those tests."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")] += 1
    if reasons:
        terminalreporter.section("skipped tests, and what they need")
    for reason, count in sorted(reasons.items()):
        terminalreporter.line(f"{count:4} {'test' if count == 1 else 'tests'}: {reason}")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a rehearsal model that has learnt almost nothing, but is sometimes right by chance."""
    # Imported here, because the tests of the generation service also run without the trainer installed.
    from extra_trainer.rehearsal.recipes import SumsFit
    from extra_trainer.rehearsal.start_model import start_model

    settings = SumsFit(hidden_size=32, layers=1, head_size=16, steps=30, tokens_per_step=512, warmup_steps=3)
    return start_model(tmp_path_factory.mktemp("cache"), seed=0, settings=settings)
