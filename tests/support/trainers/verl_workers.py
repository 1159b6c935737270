"""verl's configuration as its command line makes it, two of its reward workers, its advantages."""

import asyncio
import copy
import json
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import numpy as np
import torch
import verl
from hydra import compose, initialize_config_dir
from tensordict import TensorDict
from transformers import AutoTokenizer
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

from extra_client.integrations import NoveltyScoring
from extra_client.integrations.contract import RolloutGroup
from extra_client.integrations.verl import ESTIMATOR
from support.generation_models import make_model

PROMPT = [{"role": "user", "content": "2 + 2 = "}]
#: What a user writes, with verdicts that are given.
FILE = """
import json
import pickle
from pathlib import Path

from extra_client.integrations.verl import reward_manager

folder = Path(__file__).parent
verdicts = json.loads((folder / "verdicts.json").read_text())

def given(data_source, solution_str, ground_truth, extra_info=None):
    correct, answer = verdicts[solution_str]
    return {"score": float(correct is True), "undecided": correct is None, "pred": answer}

scoring = pickle.loads((folder / "scoring.pickle").read_bytes())
if scoring is not None:
    NoveltyRewardManager = reward_manager(scoring)
"""


@cache
def composed(model: str, *overrides: str) -> Any:
    """Return verl's configuration as its command line makes it."""
    with initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
        return compose(
            "ppo_trainer",
            [
                f"actor_rollout_ref.model.path={model}",
                "actor_rollout_ref.rollout.n=4",
                "reward.reward_manager.source=importlib",
                "reward.reward_manager.name=NoveltyRewardManager",
                "algorithm.adv_estimator=extra_grpo",
                *overrides,
            ],
        )


class Run:
    """verl's configuration as its command line makes it, two of its reward workers, its advantages."""

    def __init__(self, file: Path, model: Path, *overrides: str) -> None:
        self.config = copy.deepcopy(composed(str(model), *overrides))
        self.config.reward.custom_reward_function.path = str(file)
        self.config.reward.reward_manager.module.path = str(file)
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


class AfterNormalization:
    """The reward manager and the estimator that it registers; a group is spread over two reward workers."""

    cannot: ClassVar[Mapping[str, str]] = {
        "resume": "verl gives each group a random name, and a reward manager no step",
    }

    @cached_property
    def _model(self) -> Path:
        self._folder = tempfile.TemporaryDirectory()
        return make_model(Path(self._folder.name))

    def step(
        self, scoring: NoveltyScoring | None, groups: Sequence[RolloutGroup], number: int
    ) -> list[list[float]]:
        """Return advantages."""
        with tempfile.TemporaryDirectory() as folder:
            run = self._run(Path(folder), scoring, groups)

            async def rewarded() -> list[list[Any]]:
                calls = [
                    run.reward(
                        list(group.texts), uuid4().hex, answer=group.reference, prompt=chat(group.prompt)
                    )
                    for group in groups
                ]
                return list(await asyncio.gather(*calls))

            found = asyncio.get_event_loop().run_until_complete(rewarded())
        for result in (each for results in found for each in results):
            if isinstance(result, BaseException):
                raise result
        estimator = "grpo" if scoring is None else ESTIMATOR
        rewards = [[result["reward_score"] for result in results] for results in found]
        return [run.advantages(each, estimator).tolist() for each in rewards]

    def _run(self, folder: Path, scoring: NoveltyScoring | None, groups: Sequence[RolloutGroup]) -> Run:
        verdicts = {
            text: verdict
            for group in groups
            for text, *verdict in zip(group.texts, group.correct, group.answers, strict=True)
        }
        (folder / "verdicts.json").write_text(json.dumps(verdicts))
        (folder / "scoring.pickle").write_bytes(pickle.dumps(scoring))
        (folder / "file.py").write_text(FILE)
        naive = ["reward.reward_manager.source=register", "reward.reward_manager.name=naive"]
        plain = [*naive, "algorithm.adv_estimator=grpo"] if scoring is None else []
        return Run(folder / "file.py", self._model, "reward.custom_reward_function.name=given", *plain)


def chat(prompt: Any) -> Any:
    """Return a prompt as verl has it."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
