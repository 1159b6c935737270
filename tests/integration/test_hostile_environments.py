"""Environments in which services and clients failed once: proxies, long paths, no home, used ports."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from extra_trainer import config as configs
from extra_trainer.launch import launcher, plan
from extra_trainer.runs.folder import RunFolder
from support.generation_models import make_model

ROOT = Path(__file__).resolve().parents[2]

#: Starts a service with settings, and calls it so that it does real work.
USE = """
import json, sys
from extra_client import GenerationClient, NoveltyClient, VerificationClient, embedded
name, settings = sys.argv[1], json.loads(sys.argv[2])
with embedded.start(name, start_timeout=90, **settings) as service:
    if name == "verification":
        with VerificationClient(service.target) as client:
            assert client.verify([r"\\boxed{x+1}"], ["1+x"])[0].correct
    elif name == "novelty":
        with NoveltyClient(service.target, "run") as client:
            assert client.embed(["1+1=2"], return_vectors=True).vectors.shape == (1, 384)
    else:
        with GenerationClient(service.target) as client:
            assert len(client.generate(["1+2="], n=2, max_tokens=4)[0]) == 2
    print(service.target)
"""
SERVICES = ("verification", "novelty", "generation")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return the settings with which each service starts."""
    model = make_model(tmp_path_factory.mktemp("model"))
    return {"verification": {"workers": 1}, "novelty": {}, "generation": {"model": str(model), "threads": 1}}


def run(
    program: list[str], environment: dict[str, str], without: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name not in without}
    return subprocess.run(
        program, env=variables | environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("service", SERVICES)
def test_loopback_is_not_reached_through_a_proxy(service: str, settings: dict[str, dict[str, Any]]) -> None:
    nowhere = "http://127.0.0.1:9"
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), nowhere)
    given = json.dumps(settings[service] | {"port": 0})
    done = run([sys.executable, "-c", USE, service, given], proxies, ("no_proxy", "no_grpc_proxy"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("127.0.0.1:")


@pytest.mark.parametrize("service", SERVICES)
def test_a_temporary_folder_longer_than_a_socket_path(
    service: str, settings: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / ("ä" * 60)
    folder.mkdir()
    given = json.dumps(settings[service])
    done = run([sys.executable, "-c", USE, service, given], {"TMPDIR": str(folder)})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_a_missing_home_and_a_user_without_an_entry(
    service: str, settings: dict[str, dict[str, Any]]
) -> None:
    as_nobody = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
    try:
        subprocess.run([*as_nobody, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("user namespaces are not allowed here")
    program = "import getpass; from extra_services.runtime import environment; environment.prepare()\n"
    program += "assert getpass.getuser() == 'uid-12345'\n" + USE
    names = ("USER", "LOGNAME", "LNAME", "USERNAME")
    command = [*as_nobody, sys.executable, "-c", program, service, json.dumps(settings[service])]
    done = run(command, {"HOME": "/nonexistent/home"}, names)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    ("flags", "advice"),
    [
        (["--metrics-port=off", "--port={port}"], "Set port to another port, or 0"),
        (["--metrics-port={port}", "--port=0"], "set metrics_port to another port, 0 (a free one), or off"),
    ],
)
def test_a_port_in_use_names_the_setting_to_change(
    service: str, flags: list[str], advice: str, settings: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    own = dict(settings[service])
    if service == "novelty":
        own |= {"data_folder": tmp_path, "embedder": "none"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = [f"--{name.replace('_', '-')}={value}" for name, value in own.items()]
        given += [flag.format(port=port) for flag in flags]
        done = run([sys.executable, "-m", "extra_cli", "serve", service, *given], {})
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
    monkeypatch.setattr(subprocess, "Popen", lambda *_, env, **__: started.append(env))
    with pytest.raises(AttributeError), launcher._driver(tmp_path / "run.json", tmp_path / "log"):
        pass  # There is no process to end.
    assert "RAY_ADDRESS" not in started[0]
