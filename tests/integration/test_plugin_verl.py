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

import numpy as np
import pytest

from extra_client import NamespaceClient, UnavailableError
from extra_client.integrations import prompt_id
from extra_inspector.imports.run import ImportedRun, Services
from support.derivations import ANSWER, CHAT, SOLUTIONS, SWAP, assert_scored_with_the_problem
from support.faulty_services import free_port
from support.novelty_server import Server
from support.outcome_model import OutcomeModel
from support.pages import blocks
from support.processes import SERVICES_PYTHON
from support.recorded_logs import LOGS, dump_generations
from support.verification_server import own_verifiers, verification_server

if find_spec("verl") is None:
    pytest.skip(
        "verl is not installed: `make test-plugins` installs it and runs these", allow_module_level=True
    )

import torch
import verl
from hydra import compose, initialize_config_dir
from tensordict import TensorDict
from transformers import AutoTokenizer
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

from support.generation_models import make_model

PROMPT = [{"role": "user", "content": "2 + 2 = "}]
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


class Run:
    """verl's configuration as its command line makes it, two of its reward workers, its advantages."""

    def __init__(self, file: Path, model: Path, *overrides: str) -> None:
        with initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
            self.config = compose(
                "ppo_trainer",
                [
                    f"actor_rollout_ref.model.path={model}",
                    "actor_rollout_ref.rollout.n=4",
                    f"reward.custom_reward_function.path={file}",
                    "reward.reward_manager.source=importlib",
                    "reward.reward_manager.name=NoveltyRewardManager",
                    f"reward.reward_manager.module.path={file}",
                    "algorithm.adv_estimator=extra_grpo",
                    *overrides,
                ],
            )
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.workers = [RewardLoopWorker(self.config) for _ in range(2)]

    async def reward(
        self, texts: list[str], uid: str, split: str | None = "train", answer: Any = "4", prompt: Any = PROMPT
    ) -> list[Any]:
        """Reward a group as verl does: each rollout goes to any worker."""
        calls = [
            self.workers[place % 2].compute_score(self._data(text, uid, place, split, answer, prompt))
            for place, text in enumerate(texts)
        ]
        return await asyncio.gather(*calls, return_exceptions=True)

    def _data(self, text: str, uid: str, place: int, split: str | None, answer: Any, raw: Any) -> DataProto:
        """As AgentLoopWorker._compute_score makes it."""
        prompt = torch.tensor(self.tokenizer("2 + 2 = ")["input_ids"])
        response = torch.tensor(self.tokenizer(text)["input_ids"])
        tensors = {"prompts": prompt[None], "responses": response[None]}
        tensors["attention_mask"] = torch.ones(1, len(prompt) + len(response), dtype=torch.int64)
        columns = {
            "raw_prompt": raw,
            "data_source": "sums",
            "reward_model": {"ground_truth": answer},
            "extra_info": {"split": split, "index": 17},
            "uid": uid,
            "session_id": place,
        }
        extra = {name: np.array([value]) for name, value in columns.items()}
        extra["tool_extra_fields"] = np.array([{}], dtype=object)
        return DataProto(batch=TensorDict(tensors, batch_size=1), non_tensor_batch=extra)

    def advantages(self, rewards: list[float], estimator: str) -> torch.Tensor:
        """By the code that verl's trainer v1 calls, and by its older one: [4], the same."""
        found = []
        for compute, more in (
            (compute_advantage, {}),
            (compute_advantage_for_multi_trajectories, {"batch_keys": [f"u_{i}_0" for i in range(4)]}),
        ):
            scores = torch.zeros(4, 3)
            scores[:, 2] = torch.tensor(rewards)
            batch = TensorDict(
                {"token_level_rewards": scores, "response_mask": torch.ones(4, 3)}, batch_size=4
            )
            data = DataProto(batch=batch, non_tensor_batch={"uid": np.array(["u"] * 4, dtype=object)})
            data = compute(data, adv_estimator=estimator, num_repeat=4, config=self.config.algorithm, **more)
            found.append(data.batch["advantages"])
        assert torch.equal(*found)
        return found[0][:, 0]


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


def test_outcome_novelty_is_added_to_the_wrong_rollouts_of_all_wrong_groups(
    server: str, tmp_path: Path, model: Path
) -> None:
    path = file(tmp_path, server, "outcome", alpha=0.5, beta=0.3)
    run = Run(path, model, "reward.custom_reward_function.name=answered")
    groups = [
        ["so 5", "thus 5", "it is 6", "no idea"],
        ["so 5", "it is 7", "well hm", "or 6"],
        # With a correct one: nothing is added, and nothing is counted.
        ["so 4", "so 7", "so 7", "so 7"],
        ["a 5", "a 7", "a 7", "a 6"],
    ]

    async def steps() -> list[list[Any]]:
        return [await run.reward(texts, f"group-{number}") for number, texts in enumerate(groups)]

    expected = OutcomeModel(beta=0.3)
    for texts, results in zip(groups, asyncio.get_event_loop().run_until_complete(steps()), strict=True):
        assert not any(isinstance(result, BaseException) for result in results), results
        words = [text.split()[-1] for text in texts]
        correct = [None if word == "hm" else word == "4" for word in words]
        bonus = expected.bonus("p", correct, [None if word == "idea" else word for word in words])
        plain = run.advantages([float(right is True) for right in correct], "grpo")
        ours = run.advantages([result["reward_score"] for result in results], "extra_grpo")
        assert (ours - plain).tolist() == pytest.approx(bonus, abs=1e-6)
        logged = [0.3 * result["reward_extra_info"]["outcome_novelty"] for result in results]
        assert logged == pytest.approx(bonus, abs=1e-6)
    with NamespaceClient(server, "outcome") as client:
        (prompt,) = client.list_prompts()
    # The first correct rollout of the prompt is remembered as a solution, beside the wrong answers.
    assert (prompt.solutions, prompt.answers) == (1, len(expected.counts["p"])) == (1, 3)


def test_derivations_are_scored_with_the_prompt_and_the_ground_truth(
    server: str, tmp_path: Path, model: Path
) -> None:
    run = Run(file(tmp_path, server, "derivation", alpha=0.5, metric="derivation"), model)

    async def steps() -> list[list[Any]]:
        return [
            await run.reward(texts, f"group-{number}", answer=ANSWER, prompt=CHAT)
            for number, texts in enumerate([[SWAP] * 4, SOLUTIONS])
        ]

    first, second = (
        [result["reward_extra_info"]["novelty"] for result in results]
        for results in asyncio.get_event_loop().run_until_complete(steps())
    )
    assert first == [0] * 4
    assert_scored_with_the_problem(second)


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


def test_with_weights_of_0_rewards_and_advantages_are_bit_identical_and_nothing_is_called(
    tmp_path: Path, model: Path
) -> None:
    server = f"localhost:{free_port()}"
    silent = Run(file(tmp_path, server, "silent", alpha=0.0, beta=0.0), model)
    plain = Run(
        file(tmp_path, server, "plain"),
        model,
        "reward.reward_manager.source=register",
        "reward.reward_manager.name=naive",
        "algorithm.adv_estimator=grpo",
    )

    async def rewards(run: Run) -> list[float]:
        return [result["reward_score"] for result in await run.reward(ANSWERS, "group")]

    loop = asyncio.get_event_loop()
    theirs, ours = (loop.run_until_complete(rewards(run)) for run in (plain, silent))
    assert theirs == ours
    # The estimator is that of the file made last: once more, for this run.
    silent = Run(file(tmp_path, server, "silent", alpha=0.0, beta=0.0), model)
    for values in (ours, [2.0, -1.0, 0.5, 0.0]):
        expected = plain.advantages(values, "grpo").numpy().tobytes()
        assert silent.advantages(values, "extra_grpo").numpy().tobytes() == expected


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
        [sys.executable, str(Path(__file__).resolve().parents[2] / "examples" / "verl" / "run.py")],
        env={**os.environ, "EXTRA_RL_SERVICES_PYTHON": SERVICES_PYTHON},
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
    read = []
    for source in (tmp_path / "logs", LOGS / "verl"):
        run = ImportedRun(source, "verl", tmp_path / "cache", Services())
        assert run.update()
        read.append(dict(run.folder.read_rollouts()))
    # What the installed release writes is what was recorded for the tests of the importer.
    assert read[0] == read[1]
