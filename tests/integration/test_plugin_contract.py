"""The contract of plug-ins, passed by each of ours; `pytest --integration` runs the same on another one.

And the programs of the pages of those plug-ins whose trainers do not install here.
"""

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from extra_client import FailedPreconditionError, NamespaceClient
from extra_client.integrations.contract import *  # noqa: F403
from extra_client.integrations.contract import ANSWER, PROBLEM, SWAP, RolloutGroup
from extra_client.integrations.pytest_plugin import load
from support.novelty_server import Server
from support.pages import blocks
from support.verification_server import verification_server

#: The integrations, and the package that each needs.
INTEGRATIONS = {
    "support.trainers.plain_function:PlainFunction": "numpy",
    "support.trainers.trl_trainer:AfterNormalization": "trl",
    "support.trainers.trl_trainer:BeforeNormalization": "trl",
    "support.trainers.trl_trainer:AsynchronousTrainer": "trl",
    "support.trainers.openrlhf_actor:AgentHook": "openrlhf",
    "support.trainers.openrlhf_actor:RewardFile": "openrlhf",
    "support.trainers.verl_workers:AfterNormalization": "verl",
    "support.trainers.prime_rl_group:PrimeRL": "verifiers",
    "support.trainers.slime_batch:Slime": "torch",
    "support.trainers.slime_batch:Miles": "torch",
    "support.trainers.nemo_rl_batch:NemoRL": "torch",
}


@pytest.fixture(scope="module", params=INTEGRATIONS, ids=lambda name: name.removeprefix("support.trainers."))
def integration_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    package = INTEGRATIONS[name]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: `make test-plugins` installs it and runs these")
    return name


@pytest.fixture(scope="module")
def integration(integration_name: str) -> Any:
    return load(integration_name)


@pytest.fixture(scope="session")
def novelty_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("novelty")
    with Server(folder):
        yield f"unix:{folder / 'socket'}"


@pytest.fixture(scope="module")
def addresses(novelty_target: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What stands for the addresses in the pages."""
    with verification_server(tmp_path_factory.mktemp("verification"), workers=1) as server:
        yield {"localhost:50052": novelty_target, "localhost:50053": server.address}


def stored(target: str, namespace: str) -> list[int]:
    with NamespaceClient(target, namespace) as client:
        return sorted(prompt.solutions_added for prompt in client.list_prompts())


def test_slimes_page_rewards_samples_and_adds_the_bonus(addresses: dict[str, str]) -> None:
    from support.trainers.slime_batch import RolloutManager, Sample

    names: dict[str, Any] = {}
    (program,) = blocks("docs/plugins/slime.md", "python", addresses | {"my-run": "slime"})
    exec(program, names)
    texts = [rf"{SWAP} \boxed{{18}}", r"\boxed{3}", r"\boxed{3}", r"\boxed{2}"]
    labels = [ANSWER, ANSWER, ANSWER, "nan"]
    samples = [
        Sample(prompt=PROBLEM, response=text, response_length=1, tokens=[1, 2], label=label)
        for text, label in zip(texts, labels, strict=True)
    ]
    args = SimpleNamespace(n_samples_per_prompt=4, reward_key=None, normalize_advantages=False)

    async def rewarded() -> list[float]:
        first = await names["reward"](args, samples[0])
        return [first, *await names["reward"](args, samples[1:])]

    rewards = asyncio.run(rewarded())
    assert rewards == [1.0, 0.0, 0.0, 0.0]
    assert [sample.metadata["final_answer"] for sample in samples[:3]] == ["18", "3", "3"]
    assert [sample.metadata["undecided"] for sample in samples] == [False, False, False, True]
    for sample, reward in zip(samples, rewards, strict=True):
        sample.reward = reward
    plain = RolloutManager(args, None)._post_process_rewards(samples)
    # Nothing is known of the prompt yet, and a group with a correct rollout has no outcome novelty.
    assert RolloutManager(args, names["rewards"])._post_process_rewards(samples) == plain
    assert stored(addresses["localhost:50052"], "slime") == [1]
    # The samples of one execution are one rollout.
    for sample in samples:
        sample.rollout_id, sample.reward, sample.index = 0, 1.0, 9
    RolloutManager(args, names["rewards"])._post_process_rewards(samples)
    assert stored(addresses["localhost:50052"], "slime") == [2]
    args.normalize_advantages = True
    with pytest.raises(ValueError, match="remove --normalize-advantages"):
        names["rewards"](args, samples)


def test_nemo_rls_page_puts_its_estimator_in_the_place_of_the_other(addresses: dict[str, str]) -> None:
    from support.trainers import nemo_rl_batch

    nemo_rl_batch.install()
    names: dict[str, Any] = {}
    program, _ = blocks("docs/plugins/nemo-rl.md", "python", addresses | {"my-run": "nemo"})
    exec(program, names)
    estimator = names["grpo"].GRPOAdvantageEstimator
    assert issubclass(estimator, nemo_rl_batch.GRPOAdvantageEstimator)
    made = estimator(SimpleNamespace(normalize_rewards=True), None)
    ones = torch.ones(2, 2)
    with pytest.raises(FailedPreconditionError, match="gives its estimator no messages here"):
        made.compute_advantage(prompt_ids=ones, rewards=ones[0], mask=ones)


@pytest.mark.skipif(find_spec("verifiers") is None, reason="verifiers is not installed: `make test-plugins`")
def test_prime_rls_page_registers_an_algorithm_and_verifies_a_reply(addresses: dict[str, str]) -> None:
    from support.trainers import prime_rl_group

    prime_rl_group.install()
    launch, environment = blocks("docs/plugins/prime-rl.md", "python", addresses | {"my-run": "prime"})
    names: dict[str, Any] = {}
    exec(launch, names)
    assert issubclass(names["algo"].ALGORITHM_CLASSES["grpo"], prime_rl_group.GRPOAlgorithm)
    exec(environment, names)

    async def verified(*pairs: tuple[str, str]) -> list[Any]:
        found = []
        for text, answer in pairs:
            group = RolloutGroup([text], [None], [None], reference=answer)
            trace = prime_rl_group.episode(group, 0, 0).traces[0]
            task = SimpleNamespace(data=trace.task.data)
            calls = [names["Problem"].correct(task, trace)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            found.append((*results, trace.info["final_answer"]))
        return found

    right, wrong, undecided = asyncio.run(verified((r"\boxed{2}", "2"), (r"\boxed{3}", "2"), ("2", "nan")))
    assert (right, wrong) == ((1.0, "2"), (0.0, "3"))
    assert isinstance(undecided[0], FailedPreconditionError)


FAULTY = """
    from support.trainers.plain_function import PlainFunction

    class Generous(PlainFunction):
        # A bonus for every rollout, whatever the weights are.
        def step(self, scoring, groups, number):
            found = super().step(scoring, groups, number)
            return found if scoring is None else [[value + 0.1 for value in row] for row in found]
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("support.trainers.plain_function:PlainFunction", "2 passed"),
        ("mine:Generous", "2 failed"),
        ("mine:nothing", "--integration takes MODULE:NAME"),
    ],
)
def test_the_option_runs_the_contract_on_an_integration_by_name(
    name: str, told: str, novelty_target: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(textwrap.dedent(FAULTY))
    plugin = ["-p", "extra_client.integrations.pytest_plugin", "-p", "no:cacheprovider"]
    options = [f"--integration={name}", f"--integration-novelty={novelty_target}", "-k", "weights or alpha"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugin, *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert told in ran.stdout + ran.stderr, ran.stdout
