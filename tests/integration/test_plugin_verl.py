"""The verl plug-in in verl's own configuration, reward workers and advantage code, with a real service.

verl requires other releases than the trainer: `make test-plugins` makes an environment and runs these tests.
"""

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from extra_client import NamespaceClient, UnavailableError
from extra_client.integrations import prompt_id
from support.novelty_server import Server
from support.pages import blocks
from support.processes import SERVICES_PYTHON, python_path
from support.recorded_logs import assert_as_recorded, dump_generations
from support.verification_server import own_verifiers, verification_server

if find_spec("verl") is None:
    pytest.skip(
        "verl is not installed: `make test-plugins` installs it and runs these", allow_module_level=True
    )

import torch

from support.generation_models import make_model
from support.trainers.verl_workers import PROMPT, Run

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ANSWERS = ["so 4", "thus 4", "it is 4", "no idea"]
FILE = """
from extra_client import NamespaceSettings, VerifyOptions
from extra_client.integrations import NoveltyScoring
from extra_client.integrations.verl import reward_manager, verification_score

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return float(solution_str.endswith(ground_truth))

def answered(data_source, solution_str, ground_truth, extra_info=None):
    answer = solution_str.split()[-1]
    correct = solution_str.endswith(ground_truth)
    pred = None if answer == "idea" else answer
    return {{"score": float(correct), "undecided": answer == "hm", "pred": pred}}

verified = verification_score("{verification}")
graded = verification_score("{verification}", method="custom", options=VerifyOptions(verifier="graded"))
options = {{"metric": "embedding"}} | {options}
novelty = NoveltyScoring(
    target="{target}", namespace="{namespace}", settings=NamespaceSettings(min_history=1), **options
)
NoveltyRewardManager = reward_manager(novelty)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("novelty")
    with Server(folder):
        yield f"unix:{folder / 'socket'}"


def file(
    folder: Path, target: str, namespace: str, verification: str = "localhost:1", **options: Any
) -> Path:
    path = folder / f"{namespace}.py"
    values = {"target": target, "namespace": namespace, "verification": verification, "options": options}
    path.write_text(FILE.format(**values))
    return path


def test_a_group_over_two_reward_workers_gets_the_bonus_after_normalization(
    server: str, tmp_path: Path, model: Path
) -> None:
    run = Run(file(tmp_path, server, "after", alpha=0.5), model)

    async def steps() -> list[list[Any]]:
        return [await run.reward(ANSWERS, "group-1"), await run.reward(["but 4", *ANSWERS[1:]], "group-2")]

    first, second = asyncio.get_event_loop().run_until_complete(steps())
    assert [result["reward_score"] for result in first] == [1.0, 1.0, 1.0, 0.0]
    news = [result["reward_extra_info"]["novelty"] for result in second]
    assert news[0] > 0
    # A text embedded in another batch may differ in the last bit.
    assert news[1:] == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    plain = run.advantages([1.0, 1.0, 1.0, 0.0], "grpo")
    ours = run.advantages([result["reward_score"] for result in second], "extra_grpo")
    assert torch.allclose(ours - plain, 0.5 * torch.tensor(news), atol=1e-6)
    with NamespaceClient(server, "after") as client:
        (prompt,) = client.list_prompts()
    assert (prompt.prompt_id, prompt.solutions_added) == (prompt_id(PROMPT), 6)


def test_beta_that_could_not_be_kept_apart_is_refused(server: str, tmp_path: Path, model: Path) -> None:
    path = file(tmp_path, server, "apart", alpha=0.0, beta=0.3)
    with pytest.raises(ValueError, match=r"beta needs algorithm\.adv_estimator=extra_grpo"):
        Run(path, model, "algorithm.adv_estimator=grpo")
    unanswered = asyncio.get_event_loop().run_until_complete(Run(path, model).reward(ANSWERS, "group"))
    assert all("must return 'pred'" in str(result) for result in unanswered)
    path.write_text(path.read_text().replace('"score": float(correct)', '"score": 2 * correct - 1'))
    run = Run(path, model, "reward.custom_reward_function.name=answered")
    results = asyncio.get_event_loop().run_until_complete(run.reward(ANSWERS, "group"))
    assert ["a reward of 0 for a wrong rollout" in str(result) for result in results] == [False] * 3 + [True]


def test_before_normalization_the_bonus_is_part_of_the_reward_and_evaluation_is_left_alone(
    server: str, tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(file(tmp_path, server, "before", alpha=0.5), model, "algorithm.adv_estimator=grpo")

    async def steps() -> list[list[Any]]:
        evaluated = await run.reward(ANSWERS[:1], "group-0", split="test")
        first = await run.reward(ANSWERS, "group-1")
        # Parquet gives None to the rows without a split.
        return [evaluated, first, await run.reward(["but 4"] * 4, "group-2", split=None)]

    with caplog.at_level(logging.WARNING, "extra_client"):
        evaluated, _, second = asyncio.get_event_loop().run_until_complete(steps())
    (told,) = (record.message for record in caplog.records)
    assert "'test' are evaluation: no novelty bonus" in told
    assert evaluated[0]["reward_extra_info"]["novelty_missing"] == 0.0
    for result in second:
        novelty = result["reward_extra_info"]["novelty"]
        assert result["reward_score"] == 1 + 0.5 * novelty
    with NamespaceClient(server, "before") as client:
        (prompt,) = client.list_prompts()
    assert prompt.solutions_added == 3 + 4


def test_rewards_that_hide_the_bonus_are_refused(server: str, tmp_path: Path, model: Path) -> None:
    path = file(tmp_path, server, "hidden")
    path.write_text(path.read_text().replace("return float(", "return 2 * float("))
    run = Run(path, model)
    results = asyncio.get_event_loop().run_until_complete(run.reward(ANSWERS, "group"))
    assert ["needs a reward of 1" in str(result) for result in results] == [True, True, True, False]
    run.config.algorithm.use_kl_in_reward = True
    with pytest.raises(ValueError, match="use_kl_in_reward=False"):
        run.advantages([1.0] * 4, "extra_grpo")


def test_the_verification_service_is_a_custom_reward_function(
    server: str, tmp_path: Path, model: Path
) -> None:
    with verification_server(tmp_path) as verification:
        path = file(tmp_path, server, "verified", verification.address)
        texts = ["the answer is 4", "the answer is 5", "the answer is 2+2", "no idea"]
        run = Run(path, model, "reward.custom_reward_function.name=verified")
        results = asyncio.get_event_loop().run_until_complete(run.reward(texts, "group"))
        missing = asyncio.get_event_loop().run_until_complete(run.reward(texts[:1], "none", answer="None"))
    assert [result["reward_score"] for result in results] == [1.0, 0.0, 1.0, 0.0]
    assert {result["reward_extra_info"]["undecided"] for result in results} == {0.0}
    answers = [result["reward_extra_info"]["pred"] for result in results]
    assert (answers[0], answers[1], answers[3]) == ("4", "5", "")
    assert "the answer of sums[17]" in str(missing[0])
    assert "[0]" not in str(missing[0])


GRADED = """
def graded(response, answer):
    return {"score": float(answer in response), "length": len(response)}
"""


def test_a_custom_verifier_is_named_and_its_score_and_components_are_logged(
    server: str, tmp_path: Path, model: Path
) -> None:
    with verification_server(tmp_path, own_verifiers(tmp_path, GRADED), workers=1) as verification:
        path = file(tmp_path, server, "graded", verification.address, alpha=0.0, beta=0.3)
        run = Run(path, model, "reward.custom_reward_function.name=graded")
        results = asyncio.get_event_loop().run_until_complete(run.reward(ANSWERS, "group"))
    logged = [result["reward_extra_info"] for result in results]
    assert [info["verified/score"] for info in logged] == [1.0, 1.0, 1.0, 0.0]
    assert [info["verified/length"] for info in logged] == [len(text) for text in ANSWERS]
    assert [result["reward_score"] for result in results] == [1.0, 1.0, 1.0, 0.0]


def test_a_run_whose_server_is_killed_fails_the_step_or_goes_on_as_it_was_told(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = f"unix:{tmp_path / 'socket'}"
    runs = [
        Run(file(tmp_path, target, told, metric="ngram_count", on_failure=told), model)
        for told in ("fail", "continue")
    ]

    async def steps(server: Server) -> list[list[Any]]:
        for run in runs:
            await run.reward(ANSWERS, "group-1")
        server.stop(signal.SIGKILL)
        return await asyncio.gather(*(run.reward(ANSWERS, "group-2") for run in runs))

    with caplog.at_level(logging.WARNING, "extra_client"), Server(tmp_path, "--embedder=none") as server:
        failed, went_on = asyncio.get_event_loop().run_until_complete(steps(server))
    with pytest.raises(UnavailableError, match="4 of 4 rollouts have no novelty"):
        runs[0].advantages([result["reward_score"] for result in failed], "extra_grpo")
    assert [result["reward_score"] for result in went_on] == [1.0, 1.0, 1.0, 0.0]
    assert {result["reward_extra_info"]["novelty_missing"] for result in went_on} == {1.0}
    # Once for each of the two reward workers.
    assert [record.message.split(" until")[0] for record in caplog.records] == [
        "training goes on without the novelty bonus"
    ] * 2


def test_the_program_of_the_page_rewards_and_remembers_a_group(
    server: str, tmp_path: Path, model: Path
) -> None:
    path = tmp_path / "extra_verl.py"
    with verification_server(tmp_path, workers=1) as verification:
        addresses = {"localhost:50052": server, "localhost:50053": verification.address}
        (program,) = blocks("docs/plugins/verl.md", "python", addresses)
        # The answers here have no derivation.
        path.write_text(program.replace("alpha=0.1", 'alpha=0.1, metric="embedding"'))
        run = Run(path, model)
        results = asyncio.get_event_loop().run_until_complete(run.reward(ANSWERS, "group-1"))
    assert [result["reward_score"] for result in results] == [1.0, 1.0, 1.0, 0.0]
    with NamespaceClient(server, "my-run") as client:
        (prompt,) = client.list_prompts()
    assert prompt.solutions_added == 3


def test_the_example_pays_for_a_new_solution_and_for_a_new_wrong_answer() -> None:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / "verl" / "run.py")],
        env={
            **os.environ,
            "EXTRA_RL_SERVICES_PYTHON": SERVICES_PYTHON,
            "PYTHONPATH": python_path(EXAMPLES),
        },
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-5000:]
    known, new, wrong = (
        [float(value) for value in line.split(", ")]
        for line in re.findall(r"advantages \[(.*)\]", ran.stdout)
    )
    assert known == [0.0] * 8
    assert new[6] > max(new[:6]) > 0 > new[7]
    assert [advantage > 0 for advantage in wrong] == [False] * 7 + [True]


def test_the_inspector_opens_the_rollout_dumps(tmp_path: Path) -> None:
    dump_generations(tmp_path / "logs")
    assert_as_recorded("verl", tmp_path / "logs", tmp_path / "cache")
