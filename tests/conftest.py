"""What many tests use: a small model, and folders of golden cases and public data."""

import os
from pathlib import Path

import hypothesis
import pytest

# No timed asserts: a busy machine is no failure. The examples are the same in every run.
hypothesis.settings.register_profile("here", deadline=None, derandomize=True)
hypothesis.settings.load_profile("here")

# As extra_cli does for the command: tests run beside servers, on few cores. Before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Servers of many tests run side by side; a test of metrics asks for a port of its own.
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
    """Golden cases of the reference implementation."""
    return _folder("EXTRA_RL_GOLDEN", SHARED / "golden")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Public benchmark problems and graded responses."""
    return _folder("EXTRA_RL_DATA", SHARED / "data")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rehearsal model that has hardly learnt anything, but is now and then right by chance."""
    # Late: tests of the generation service alone run where the trainer is not installed.
    from extra_trainer.rehearsal.recipes import FitSettings
    from extra_trainer.rehearsal.start_model import start_model

    settings = FitSettings(
        hidden_size=32, layers=1, head_size=16, steps=30, tokens_per_step=512, warmup_steps=3
    )
    return start_model(tmp_path_factory.mktemp("cache"), seed=0, settings=settings)
