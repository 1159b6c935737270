"""Hostile and honest programs on a real server with a sandbox, and systems that have no sandbox."""

import os
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from extra_rl.v1 import verification_pb2 as pb
from support.honest_programs import HONEST
from support.hostile_programs import PREFIX, Attack, Scene, attacks
from support.processes import PATIENCE, SERVICES_PYTHON
from support.verification_server import VerificationServer, needs_a_worker, verification_server, wait_until

#: Seconds of a hostile program, and of an honest one on a busy machine.
HOSTILE_SECONDS, HONEST_SECONDS = 6.0, 60.0
_EXAMPLE = Scene("", "", "", "", 0, "", "", ())
#: Runs a command on a kernel that refuses unshare, as container runtimes do by default.
_WITHOUT_NAMESPACES = """
import ctypes, os, platform, struct, sys
unshare = {"x86_64": 272, "aarch64": 97}[platform.machine()]
lines = [(0x20, 0, 0, 0), (0x15, 0, 1, unshare), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in lines))
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, struct.pack("@HP", len(lines), ctypes.addressof(code)), 0, 0) == 0
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
_SQUARE = pb.VerifyItem(
    response="```python\nprint(int(input()) ** 2)\n```",
    answer='{"tests": [{"stdin": "7", "stdout": "49"}]}',
    method=pb.METHOD_CODE,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VerificationServer]:
    folder = tmp_path_factory.mktemp("server")
    with verification_server(
        folder,
        {"SECRET": _SECRET},
        workers=2,
        slow_workers=8,  # hanging programs wait side by side
        timeout_seconds=HONEST_SECONDS,
        code_execution="sandbox",
    ) as running:
        yield running


_SECRET = PREFIX + uuid.uuid4().hex
_MARKER = "escape-" + uuid.uuid4().hex


class Aftermath:
    """The verdicts on all attacks, and how often somebody called at the listeners."""

    def __init__(self, verdicts: dict[str, pb.Verdict], calls: int, outside: Path) -> None:
        self.verdicts = verdicts
        self.calls = calls
        self.outside = outside


@pytest.fixture(scope="module")
def aftermath(server: VerificationServer, tmp_path_factory: pytest.TempPathFactory) -> Aftermath:
    """Run all attacks at once."""
    folder = tmp_path_factory.mktemp("host")
    outside = folder / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    (folder / "secret").write_text(_SECRET)
    calls = 0

    def answer(listener: socket.socket) -> None:
        nonlocal calls
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            calls += 1
            connection.sendall(_SECRET.encode())
            connection.close()

    addresses = ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, str(outside / "s")))
    listeners = []
    for family, address in (*addresses, (socket.AF_UNIX, f"\0{_MARKER}")):
        listener = socket.socket(family)
        listener.bind(address)
        listener.listen()
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        listeners.append(listener)
    try:
        scene = Scene(
            secret=_SECRET,
            secret_file=str(folder / "secret"),
            outside=str(outside),
            marker=_MARKER,
            port=listeners[0].getsockname()[1],
            unix_socket=str(outside / "s"),
            abstract_socket=_MARKER,
            processes=(server.process.pid, *(worker.pid for worker in server.workers())),
        )
        hostile = attacks(scene)
        verdicts = _judged(server, hostile)
    finally:
        for listener in listeners:
            listener.close()
    (outside / "s").unlink()
    return Aftermath(verdicts, calls, outside)


def _judged(server: VerificationServer, hostile: dict[str, Attack]) -> dict[str, pb.Verdict]:
    items = [
        pb.VerifyItem(response=attack.response, answer=attack.answer, method=pb.METHOD_CODE)
        for attack in hostile.values()
    ]
    request = pb.VerifyRequest(items=items, timeout_seconds=HOSTILE_SECONDS)
    return dict(zip(hostile, server.stub.Verify(request, timeout=280).verdicts, strict=True))


@pytest.mark.parametrize("name", attacks(_EXAMPLE))
def test_a_hostile_program_is_not_judged_correct(name: str, aftermath: Aftermath) -> None:
    verdict = aftermath.verdicts[name]
    if attacks(_EXAMPLE)[name].bad_tests:
        assert (verdict.status, verdict.unparseable_side) == (
            pb.VERDICT_STATUS_UNPARSEABLE,
            pb.UNPARSEABLE_SIDE_ANSWER,
        ), verdict
    else:
        assert verdict.status in (pb.VERDICT_STATUS_WRONG, pb.VERDICT_STATUS_TIMEOUT), verdict
        # On a busy machine the worker may be stopped before the sandbox ends the program.
        assert verdict.rule in ("code", "time_limit"), verdict
        assert verdict.score < 1


def test_hostile_programs_leave_nothing_and_the_server_serves(
    aftermath: Aftermath, server: VerificationServer
) -> None:
    assert server.process.poll() is None
    assert aftermath.calls == 0, "a program reached the network"
    assert list(aftermath.outside.iterdir()) == []
    for folder in ("/", "/tmp", "/var/tmp", "/dev/shm", "/dev", "/usr/lib", os.path.dirname(os.__file__)):
        left = [name for name in os.listdir(folder) if _MARKER in name or name.startswith("extra-rl-code-")]
        assert left == [], folder
    wait_until(lambda: _sandboxed() == [])
    for worker in server.workers():
        assert worker.is_running()
    pairs = needs_a_worker(6)
    assert {verdict.status for verdict in server.verify(*pairs)} == {pb.VERDICT_STATUS_CORRECT}


def _sandboxed() -> list[psutil.Process]:
    """Return the processes that run a program, wherever they belong."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = process.info["cmdline"] or ()
        if list(command[1:2]) == ["-s"] and command[-1:] == ["main.py"]:
            found.append(process)
    return found


@pytest.fixture(scope="module")
def honest_verdicts(server: VerificationServer) -> dict[str, pb.Verdict]:
    items = [
        pb.VerifyItem(response=each.response, answer=each.answer, method=pb.METHOD_CODE)
        for each in HONEST.values()
    ]
    return dict(
        zip(HONEST, server.stub.Verify(pb.VerifyRequest(items=items), timeout=280).verdicts, strict=True)
    )


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_gets_its_score(name: str, honest_verdicts: dict[str, pb.Verdict]) -> None:
    verdict, score = honest_verdicts[name], HONEST[name].score
    status = pb.VERDICT_STATUS_CORRECT if score == 1 else pb.VERDICT_STATUS_WRONG
    assert (verdict.status, verdict.score) == (status, score), verdict
    assert sum(verdict.components.values()) == score * len(verdict.components)
    assert sorted(verdict.components) == sorted(f"test_{index}" for index in range(len(verdict.components)))


def test_a_server_without_a_sandbox_does_not_start(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*_command(tmp_path, "sandbox")], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ended.returncode == 1
    assert "code_execution: the sandbox could not be started" in ended.stderr
    assert "this system does not allow namespaces" in ended.stderr
    assert "--code-execution=unsandboxed" in ended.stderr
    assert not (tmp_path / "address").exists()


def test_only_the_explicit_setting_starts_it(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(_command(tmp_path, "unsandboxed"), stdin=subprocess.PIPE, stderr=log)
    try:
        wait_until((tmp_path / "address").exists, PATIENCE)
        running = VerificationServer(process, (tmp_path / "address").read_text(encoding="utf-8"))
        (verdict,) = running.stub.Verify(pb.VerifyRequest(items=[_SQUARE]), timeout=PATIENCE).verdicts
        assert verdict.status == pb.VERDICT_STATUS_CORRECT, verdict
        running.channel.close()
    finally:
        process.terminate()
        process.wait(timeout=30)
    assert "run WITHOUT a sandbox" in (tmp_path / "log").read_text()


def _command(folder: Path, code_execution: str) -> list[str]:
    serve = ["-m", "extra_cli", "serve", "verification", "--port=0", "--workers=1", "--slow-workers=0"]
    settings = [
        f"--address-file={folder / 'address'}",
        f"--code-execution={code_execution}",
        "--timeout-seconds=60",
    ]
    return [SERVICES_PYTHON, "-c", _WITHOUT_NAMESPACES, *serve, "--metrics-port=off", *settings]


def test_by_default_no_code_is_executed(tmp_path: Path) -> None:
    with verification_server(tmp_path, workers=1, slow_workers=0) as server:
        with pytest.raises(grpc.RpcError, match="this server executes no code") as refused:
            server.stub.Verify(pb.VerifyRequest(items=[_SQUARE]), timeout=PATIENCE)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert not server.stub.GetInfo(pb.VerificationServiceGetInfoRequest()).code_execution
