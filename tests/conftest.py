"""Fixtures that many tests share: a small model, and folders of golden cases and public data."""

import os
from pathlib import Path

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

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set {variable} to run this test")
    return folder


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Return the folder with golden cases of the reference implementation."""
    return _folder("EXTRA_RL_GOLDEN", SHARED / "golden")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the folder with public benchmark problems and graded responses."""
    return _folder("EXTRA_RL_DATA", SHARED / "data")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a rehearsal model that has learnt almost nothing, but is sometimes right by chance."""
    # Imported here, because the tests of the generation service also run without the trainer installed.
    from extra_trainer.rehearsal.recipes import SumsFit
    from extra_trainer.rehearsal.start_model import start_model

    settings = SumsFit(hidden_size=32, layers=1, head_size=16, steps=30, tokens_per_step=512, warmup_steps=3)
    return start_model(tmp_path_factory.mktemp("cache"), seed=0, settings=settings)
