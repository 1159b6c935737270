"""Start real verification servers, each in its own process."""

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import psutil

from extra_client import VerificationClient
from extra_rl.v1 import verification_pb2 as pb
from extra_rl.v1 import verification_pb2_grpc
from support.processes import PATIENCE, SERVICES_PYTHON, wait_for

#: A comparison with this answer exceeds every time limit.
HANGING = r"\boxed{((12!)!)!}"


class VerificationServer:
    """A running server with its stub and its processes."""

    def __init__(self, process: "subprocess.Popen[bytes]", address: str) -> None:
        self.process = process
        self.address = address
        self.channel = grpc.insecure_channel(address)
        self.stub = verification_pb2_grpc.VerificationServiceStub(self.channel)

    def verify(self, *pairs: tuple[str, str], timeout_seconds: float | None = None) -> list[pb.Verdict]:
        """Return the verdicts on (response, answer) pairs, verified in one batch."""
        items = [pb.VerifyItem(response=response, answer=answer) for response, answer in pairs]
        request = pb.VerifyRequest(items=items, timeout_seconds=timeout_seconds)
        return list(self.stub.Verify(request, timeout=60).verdicts)

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes: children of the forkserver, which is a child of the server."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if child.ppid() != self.process.pid:
                    found.append(child)
        return found


@contextmanager
def verification_server(
    folder: Path, environment: dict[str, str] | None = None, **settings: object
) -> Iterator[VerificationServer]:
    """Run a server with `settings` for the duration of the context."""
    address_file = folder / "address"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    command = [SERVICES_PYTHON, "-m", "extra_cli", "serve", "verification", "--port=0", "--stop-with-stdin"]
    process = subprocess.Popen(
        [*command, f"--address-file={address_file}", "--log-level=error", *flags],
        stdin=subprocess.PIPE,
        env=os.environ | (environment or {}),
    )
    try:
        wait_until(lambda: address_file.exists() or process.poll() is not None, PATIENCE)
        server = VerificationServer(process, address_file.read_text(encoding="utf-8"))
        yield server
        server.channel.close()
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def patient_client(folder: Path, seconds: float) -> Iterator[VerificationClient]:
    """Yield a client of a server that gives each item so many seconds, enough on a busy machine."""
    with (
        verification_server(folder, timeout_seconds=seconds) as server,
        VerificationClient(server.address) as client,
    ):
        yield client


def own_verifiers(folder: Path, code: str) -> dict[str, str]:
    """Install every function of `code` as a custom verifier; return the environment for a server."""
    names = [line.split()[1].partition("(")[0] for line in code.splitlines() if line.startswith("def ")]
    package = folder / "packages"
    metadata = package / "own_verifiers-1.0.dist-info"
    metadata.mkdir(parents=True)
    (package / "own_verifiers.py").write_text(code)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own-verifiers\nVersion: 1.0\n")
    entries = "\n".join(f"{name} = own_verifiers:{name}" for name in names)
    (metadata / "entry_points.txt").write_text(f"[extra_rl.verifiers]\n{entries}\n")
    # Before the paths of the caller, which may run the tests of another checkout than the installed one.
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))}


_numbers = itertools.count()


def needs_a_worker(count: int) -> list[tuple[str, str]]:
    """Return equal pairs that only a worker can decide; no pair repeats, so the cache never answers."""
    return [(rf"\boxed{{x+{number}}}", f"{number}+x") for number in itertools.islice(_numbers, count)]


def wait_until(condition, seconds: float = 30.0) -> None:  # type: ignore[no-untyped-def]
    """Wait until `condition()` holds; fail after `seconds`."""
    wait_for(condition, f"still not so after {seconds} s", seconds)
