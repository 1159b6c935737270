"""`extra-rl inspect` in its own process, on a free port."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from extra_inspector.index import Index
from extra_trainer.runs.folder import RunFolder
from support.processes import wait_for

#: A small run recorded by the trainer (its README says how).
DEMO = Path(__file__).parents[1] / "data" / "demo_run"


@contextlib.contextmanager
def inspecting(run: Path, cache: Path, *flags: str) -> Iterator[str]:
    """Yield the page's address; the steps of `run` are indexed by then, if it is a run folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "extra_cli",
        "inspect",
        str(run),
        "--port",
        str(port),
        "--cache",
        str(cache),
    ]
    process = subprocess.Popen(
        [*command, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: process.poll() is not None or _listens(port), "the inspector did not start")
        if (run / "config.yaml").is_file() and process.poll() is None:
            index = Index.of(RunFolder(run), cache)
            steps = len(list(index.folder.step_files("rollouts")))
            wait_for(lambda: index.counts()["steps"] == steps, "the run was not indexed")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors, errors


def _listens(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0
