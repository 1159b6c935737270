"""Environments in which services and clients failed once: proxies, long paths, no home, used ports."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from extra_trainer import config as configs
from extra_trainer.launch import launcher, plan
from extra_trainer.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]

#: Starts a verification service and lets one of its workers decide.
VERIFY = """
import json, sys
from extra_client import VerificationClient, embedded
with embedded.start("verification", workers=1, start_timeout=60, **json.loads(sys.argv[1])) as service:
    with VerificationClient(service.target) as client:
        assert client.verify([r"\\boxed{x+1}"], ["1+x"])[0].correct
    print(service.target)
"""


def run(
    program: list[str], environment: dict[str, str], without: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name not in without}
    return subprocess.run(
        program, env=variables | environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_loopback_is_not_reached_through_a_proxy() -> None:
    nowhere = "http://127.0.0.1:9"
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), nowhere)
    done = run([sys.executable, "-c", VERIFY, '{"port": 0}'], proxies, ("no_proxy", "no_grpc_proxy"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("127.0.0.1:")


def test_a_temporary_folder_longer_than_a_socket_path(tmp_path: Path) -> None:
    folder = tmp_path / ("ä" * 60)
    folder.mkdir()
    done = run([sys.executable, "-c", VERIFY, "{}"], {"TMPDIR": str(folder)})
    assert done.returncode == 0, done.stderr


def test_a_missing_home_and_a_user_without_an_entry() -> None:
    as_nobody = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
    try:
        subprocess.run([*as_nobody, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("user namespaces are not allowed here")
    program = "import getpass; from extra_services.runtime import environment; environment.prepare()\n"
    program += "assert getpass.getuser() == 'uid-12345'\n" + VERIFY
    names = ("USER", "LOGNAME", "LNAME", "USERNAME")
    done = run([*as_nobody, sys.executable, "-c", program, "{}"], {"HOME": "/nonexistent/home"}, names)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "advice"),
    [
        (["--metrics-port=off", "--port={port}"], "Set port to another port, or 0"),
        (["--metrics-port={port}", "--port=0"], "set metrics_port to another port, 0 (a free one), or off"),
    ],
)
def test_a_port_in_use_names_the_setting_to_change(flags: list[str], advice: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = [flag.format(port=port) for flag in flags]
        done = run([sys.executable, "-m", "extra_cli", "serve", "verification", "--workers=1", *given], {})
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert f"127.0.0.1:{port}" in last
    assert advice in last


def test_a_cluster_of_another_job_does_not_capture_a_local_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    content = yaml.safe_load((ROOT / "trainer/configs/rehearsal.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    made = plan.make(configs.load(tmp_path / "config.yaml", {}), RunFolder(tmp_path / "run"))
    assert "Ray, started on this machine" in {process.where for process in made.processes}
    assert any("RAY_ADDRESS=10.0.0.1:6379 is ignored" in warning for warning in made.warnings)

    started: list[dict[str, str]] = []
    monkeypatch.setattr(launcher.subprocess, "Popen", lambda *_, env, **__: started.append(env))
    with pytest.raises(AttributeError), launcher._driver(tmp_path / "run.json", tmp_path / "log"):
        pass  # There is no process to end.
    assert "RAY_ADDRESS" not in started[0]
