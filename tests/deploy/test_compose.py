"""compose.yaml in containers: podman runs the suite, a policy is trained, killed services come back.

Grafana is left out, because Debian has no package of it and no image registry can be assumed. Redis and
Prometheus are Debian's (images.py). `make test-containers` runs these tests; `make test-containers-all` also
runs the trainer in its own image.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from images import ROOT, environment
from safetensors.torch import load_file

from extra_client import GenerationClient, NoveltyClient, VerificationClient
from extra_trainer.rehearsal.problems import problems
from support.processes import PATIENCE, wait_for

CLIENTS: dict[str, Callable[[str], Any]] = {
    "generation": GenerationClient,
    "novelty": lambda target: NoveltyClient(target, "containers"),
    "verification": VerificationClient,
}
SERVICES = tuple(CLIENTS)
PROJECT = "extra-rl-test"

pytestmark = [
    pytest.mark.skipif(not shutil.which("podman-compose"), reason="run by `make test-containers`"),
    pytest.mark.timeout(600),
]


@dataclass(frozen=True)
class Suite:
    """The containers, and where they are reached."""

    environment: dict[str, str]
    ports: dict[str, int]
    model: Path

    def compose(self, *arguments: str) -> str:
        """podman-compose on compose.yaml."""
        file = str(ROOT / "deploy" / "compose.yaml")
        return self.run(
            "podman-compose", "--project-name", PROJECT, "--in-pod", "false", "--file", file, *arguments
        )

    def run(self, *command: str, check: bool = True) -> str:
        """Standard output of a command that ends by itself."""
        result = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=400, cwd=ROOT
        )
        assert not check or result.returncode == 0, (
            f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
        )
        return result.stdout

    def inside(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in a service's container."""
        words = ["podman", "exec", f"{PROJECT}_{service}_1", *command]
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60)

    def pid(self, service: str) -> int:
        """Process on this machine that is the container's first; 0 while it does not run."""
        return int(self.run("podman", "inspect", "--format", "{{.State.Pid}}", f"{PROJECT}_{service}_1"))

    def healthy(self, service: str) -> bool:
        """Return the output of the health check in compose.yaml."""
        name = f"{PROJECT}_{service}_1"
        words = ["podman", "healthcheck", "run", name]
        return subprocess.run(words, env=self.environment, capture_output=True, timeout=60).returncode == 0

    def ready(self, service: str) -> None:
        """Returns once the service serves; asked from here, since a check in its container takes its CPU."""
        with CLIENTS[service](self.target(service)) as client:
            client.wait_for_ready(PATIENCE)

    def target(self, service: str) -> str:
        """Return its address on this machine."""
        return f"127.0.0.1:{self.ports[service]}"


@pytest.fixture(scope="module")
def suite(tiny_model: Path) -> Iterator[Suite]:
    """All but Grafana, up and ready; gone afterwards, volumes included."""
    ports = {name: _free_port() for name in (*SERVICES, "prometheus")}
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        model = models / "policy"
        shutil.copytree(tiny_model, model)
        # The servers are another user.
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        variables = {f"EXTRA_RL_{name.upper()}_PORT": str(port) for name, port in ports.items()}
        variables |= {
            "EXTRA_RL_MODELS": folder,
            "EXTRA_RL_REDIS_IMAGE": "localhost/extra-rl/test-redis",
            "EXTRA_RL_PROMETHEUS_IMAGE": "localhost/extra-rl/test-prometheus",
            "EXTRA_RL_THREADS": "1",
        }
        suite = Suite({**environment(), **variables}, ports, model)
        suite.compose("down", "--volumes")
        try:
            suite.compose("up", "--detach", "--no-build", *SERVICES, "redis", "prometheus")
            for service in SERVICES:
                suite.ready(service)
            yield suite
        finally:
            for service in SERVICES:
                print(suite.run("podman", "logs", "--tail", "5", f"{PROJECT}_{service}_1", check=False))
            suite.compose("--profile", "rehearsal", "down", "--volumes")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_the_health_checks_find_every_container_healthy(suite: Suite) -> None:
    for service in (*SERVICES, "redis"):
        assert suite.healthy(service), service


def test_containers_are_confined_and_hold_no_compiler(suite: Suite) -> None:
    for service in SERVICES:
        assert suite.inside(service, "id", "--user").stdout.strip() == "10001"
        assert "Read-only file system" in suite.inside(service, "touch", "/opt/extra-rl/x").stderr
        assert suite.inside(service, "touch", "/tmp/x").returncode == 0
        status = suite.inside(service, "grep", "-E", "^(CapEff|NoNewPrivs)", "/proc/1/status").stdout.split()
        assert status == ["CapEff:", "0000000000000000", "NoNewPrivs:", "1"]
        # Nor an installer, nor what it left behind.
        for word in ("gcc", "cc", "g++", "uv", "make"):
            assert suite.inside(service, "sh", "-c", f"command -v {word}").returncode, (service, word)
        assert suite.inside(service, "ls", "/cache", "/tools", "/root/.cache").returncode


def test_a_training_step_goes_through_the_suite(suite: Suite) -> None:
    """GRPO with the novelty bonus on a few prompts, by hand: the trainer itself is in the test below."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(suite.model)
    asked = problems("train", 4, seed=0)
    # The tiny model solves nothing: what it ends on now and then counts.
    answers = ["1", "2", "3", "4"]
    with (
        GenerationClient(suite.target("generation")) as generation,
        VerificationClient(suite.target("verification")) as verification,
        NoveltyClient(suite.target("novelty"), "containers") as novelty,
    ):
        before = generation.get_info().policy_version
        groups = generation.generate([problem.prompt for problem in asked], n=4, max_tokens=16, seed=0)
        responses = [rollout.text for group in groups for rollout in group]
        verdicts = verification.verify(responses, [answer for answer in answers for _ in range(4)])
        rewards = np.array([verdict.correct for verdict in verdicts], dtype=float).reshape(4, 4)
        # A memory of one solution already counts, and is remembered in Redis.
        novelty.score("known", texts=responses[:4], correct=[True] * 4)
        bonus = [
            novelty.score(problem.id, texts=[r.text for r in group], correct=reward > 0)
            for problem, group, reward in zip(asked, groups, rewards, strict=True)
        ]
        model = AutoModelForCausalLM.from_pretrained(suite.model, dtype=torch.float32)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        loss = torch.zeros(())
        for problem, group, reward, extra in zip(asked, groups, rewards, bonus, strict=True):
            prompt = tokenizer(problem.prompt)["input_ids"]
            advantages = (reward - reward.mean()) / (reward.std(ddof=1) + 1e-6) + 0.1 * np.asarray(extra)
            for rollout, advantage in zip(group, advantages, strict=True):
                ids = torch.tensor([[*prompt, *rollout.token_ids.tolist()]])
                logprobs = model(ids).logits[0, :-1].log_softmax(-1)
                chosen = logprobs[len(prompt) - 1 :].gather(1, ids[0, len(prompt) :, None])
                # The trainer in this process computes what the container sampled with.
                assert np.abs(chosen[:, 0].detach().numpy() - rollout.logprobs).max() < 1e-3
                # Entropy gives every step a gradient, whatever the rewards.
                loss = loss - float(advantage) * chosen.mean() + 0.01 * chosen.exp().mean()
        loss.backward()
        optimizer.step()
        names = load_file(suite.model / "model.safetensors")
        weights = {name: tensor for name, tensor in model.state_dict().items() if name in names}
        update = generation.stream_weights(weights, before + 1)
        assert update.policy_version == before + 1
        assert update.probe_max_difference < 1e-3
        again = generation.generate([asked[0].prompt], n=1, max_tokens=4, seed=0)
        assert again[0][0].policy_version == before + 1


@pytest.mark.parametrize("service", ["verification", "novelty", "redis"])
def test_a_container_that_is_killed_comes_back(suite: Suite, service: str) -> None:
    with NoveltyClient(suite.target("novelty"), "containers") as novelty:
        novelty.score("kept", texts=["one way"] * 8, correct=[True] * 8)
        before = suite.pid(service)
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: suite.pid(service) not in (0, before), f"{service} was not started again")
        suite.ready(service if service in SERVICES else "novelty")
        # What was acknowledged is still known: the same again is nothing new.
        again = novelty.score("kept", texts=["one way"] * 8, correct=[True] * 8)
    assert np.abs(again).max() < 1e-5


def test_prometheus_scrapes_every_service(suite: Suite) -> None:
    def up() -> set[str]:
        query = f"http://127.0.0.1:{suite.ports['prometheus']}/api/v1/query?query=up"
        with urllib.request.urlopen(query, timeout=10) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return {series["metric"]["job"] for series in result if series["value"][1] == "1"}

    wait_for(lambda: up() == set(SERVICES), "Prometheus does not see all services")


@pytest.mark.slow
def test_the_rehearsal_trains_against_the_suite(suite: Suite) -> None:
    # Its size is of no matter here: two steps of four prompts.
    small = {
        "data.train_problems": 8,
        "rollout.prompts_per_step": 4,
        "rollout.response_max_tokens": 24,
        "optimization.epochs": 1,
        "optimization.minibatch_prompts": 4,
        "optimization.micro_batch_samples": 8,
        "evaluation.problems": 2,
        "checkpoint.every_steps": 1,
    }
    arguments = " ".join(f"--set {name}={value}" for name, value in small.items())
    trained = Suite({**suite.environment, "ARGS": arguments}, suite.ports, suite.model)
    trained.compose("--profile", "rehearsal", "up", "--detach", "--no-build", "trainer")
    name = f"{PROJECT}_trainer_1"

    def ended() -> bool:
        return trained.run("podman", "inspect", "--format", "{{.State.Status}}", name).strip() == "exited"

    wait_for(ended, "the trainer did not end")
    log = trained.run("podman", "logs", name, check=False)
    code = trained.run("podman", "inspect", "--format", "{{.State.ExitCode}}", name).strip()
    assert code == "0", log[-5000:]
    assert "report.html" in log.replace("\n", ""), log[-3000:]
    with GenerationClient(suite.target("generation")) as generation:
        assert generation.get_info().policy_version >= 2
