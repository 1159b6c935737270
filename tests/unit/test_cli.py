"""The command `extra-rl` on an installation of the client alone."""

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from extra_rl import __version__
from scripts.check_install import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
#: Top-level packages of the client's dependencies.
DEPENDENCIES = ("grpc", "grpc_health", "google", "numpy", "numpy.libs", "typing_extensions.py")


@pytest.fixture(scope="module")
def client_alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the variables of an environment that has the client's dependencies and nothing else."""
    folder = tmp_path_factory.mktemp("site-packages")
    for place in ("purelib", "platlib"):
        installed = Path(sysconfig.get_path(place))
        for name in DEPENDENCIES:
            if (installed / name).exists() and not (folder / name).exists():
                (folder / name).symlink_to(installed / name)
    ours = [str(ROOT / name) for name in ("contract", "client", "cli", "services", "trainer", "inspector")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *ours])}


def extra_rl(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command without the packages of this interpreter's environment."""
    program = [sys.executable, "-S", "-m", "extra_cli", *arguments]
    return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("command", "extra"), COMMANDS.items())
def test_command_without_its_extra_names_it_in_one_sentence(
    client_alone: dict[str, str], command: str, extra: str
) -> None:
    done = extra_rl(client_alone, *command.split())
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"pip install 'extra-rl[{extra}]'" in done.stderr


def test_health_needs_the_client_alone(client_alone: dict[str, str]) -> None:
    done = extra_rl(client_alone, "health", "novelty", "--target", "localhost:1", "--timeout", "0.5")
    assert done.returncode == 1
    assert "no novelty service answers at localhost:1" in done.stderr


def test_bench_without_a_checkout_says_what_it_needs(client_alone: dict[str, str], tmp_path: Path) -> None:
    program = [sys.executable, "-S", "-m", "extra_cli", "bench", "novelty"]
    done = subprocess.run(
        program, env=client_alone, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "needs an editable installation of a checkout" in done.stderr


def test_help_loads_neither_grpc_nor_numpy(client_alone: dict[str, str]) -> None:
    program = "import sys; from extra_cli import _parser; _parser().format_help(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], env=client_alone, capture_output=True, text=True, check=True
    )
    assert not {"grpc", "numpy", "extra_client"} & set(done.stdout.split())


def test_version_has_one_place(client_alone: dict[str, str]) -> None:
    assert extra_rl(client_alone, "--version").stdout.strip() == __version__
    assert importlib.metadata.version("extra-rl") == __version__
    # A format of its own, which cannot read it from there.
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
