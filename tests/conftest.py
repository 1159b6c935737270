"""Folders of golden cases and public data, which the project does not need in order to run."""

import os
from pathlib import Path

import pytest

# As extra_cli does for the command: tests run beside servers, on few cores. Before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
