"""Services as child processes of the caller: they serve, end with the caller, and report their failures.

The tests embed the verification service, because it starts fastest. The tested code is the same for all.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from extra_client import UnavailableError, VerificationClient, aio, embedded

#: Seconds within which a process that should end, ends.
PATIENCE = 60


def gone(pid: int) -> bool:
    """Return whether the process ends; it may be the child of another process."""
    try:
        psutil.Process(pid).wait(PATIENCE)
    except psutil.NoSuchProcess:
        return True
    return not psutil.pid_exists(pid)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.EmbeddedService]:
    log = tmp_path_factory.mktemp("logs") / "verification.log"
    with embedded.start("verification", log_file=log, workers=1, log_level="debug") as service:
        yield service


def test_an_embedded_service_serves_and_logs_where_told(service: embedded.EmbeddedService) -> None:
    with VerificationClient(service.target) as client:
        client.wait_for_ready()
        assert [verdict.correct for verdict in client.verify([r"\boxed{4}", r"\boxed{5}"], ["4", "4"])] == [
            True,
            False,
        ]
    assert '"event": "serving"' in service.log_file.read_text()


def test_settings_may_make_it_listen_on_a_port() -> None:
    with embedded.start("verification", port=0, workers=1) as service:
        assert service.target.startswith("127.0.0.1:")
        process, folder = service.process, service.log_file.parent
    assert process.returncode == 0
    assert not folder.exists()


def test_a_service_that_cannot_start_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("an older run\n")
    with pytest.raises(UnavailableError, match=r"did not start: exit code 2(.|\n)*nonsense") as caught:
        embedded.start("verification", log_file=log, nonsense=True)
    assert "an older run" not in caught.value.message


def test_a_service_that_starts_too_slowly_is_stopped() -> None:
    before = set(psutil.Process().children())
    with pytest.raises(UnavailableError, match="did not serve within 0 s"):
        embedded.start("verification", start_timeout=0)
    assert set(psutil.Process().children()) == before


def test_a_dead_embedded_service_is_told_with_its_exit_code_and_log() -> None:
    with embedded.start("verification", workers=1) as service, VerificationClient(service.target) as client:
        service.process.kill()
        service.process.wait()
        with pytest.raises(UnavailableError, match=r"has ended: exit code -9(.|\n)*serving"):
            client.verify(["1"], ["1"])


def test_clients_of_one_process_share_the_embedded_service_and_the_last_one_stops_it() -> None:
    first = VerificationClient("embedded")
    second = VerificationClient("embedded")
    assert first.target == second.target
    service = embedded.find(first.target)
    assert service is not None
    first.close()
    assert second.verify([r"\boxed{4}"], ["4"])[0].correct
    second.close()
    assert service.process.returncode == 0


async def test_an_asyncio_client_starts_it_without_holding_up_the_event_loop() -> None:
    client = aio.VerificationClient("embedded")
    verdicts = asyncio.create_task(client.verify([r"\boxed{4}"], ["4"]))
    turns = 0
    while not verdicts.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 1000
    assert (await verdicts)[0].correct
    await client.close()


PARENT = """
import os, sys, time
from extra_client import embedded
service = embedded.start("verification", workers=1)
if sys.argv[1] == "fork" and os.fork() == 0:
    time.sleep(600)
print(service.process.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("way", ["kill", "fork", "exit"])
def test_an_embedded_service_dies_with_its_parent(way: str, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, way],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    workers = [worker.pid for worker in psutil.Process(child).children(recursive=True)]
    if way == "exit":
        parent.stdin.close()
    else:
        parent.kill()
    parent.wait(PATIENCE)
    assert gone(child)
    assert all(gone(worker) for worker in workers)
    if way == "fork":
        os.killpg(parent.pid, signal.SIGKILL)


def test_ctrl_c_at_the_parents_terminal_does_not_reach_the_service_first(
    service: embedded.EmbeddedService,
) -> None:
    assert os.getsid(service.process.pid) != os.getsid(0)
