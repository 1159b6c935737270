"""Run extra_verl.py in verl's own reward worker and advantage code, on given responses, without a GPU.

    make example-verl

The overrides below are those of a training run: docs/plugins/verl.md has the command line.
"""

import asyncio
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
import verl
from example_servers import served
from hydra import compose, initialize_config_dir
from tensordict import TensorDict
from transformers import AutoTokenizer
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.trainer.ppo.ray_trainer import compute_advantage

FILE = Path(__file__).parent / "extra_verl.py"
#: Any tokenizer will do; this one needs no model hub.
TOKENIZER = Path(__file__).parents[2] / "trainer/start-models/start-model-f4f3074ac22e69de"
#: Eight known solutions; then a round with one new solution and a wrong one; then all wrong, one way new.
ROUNDS = [
    ["12+3=15\n", "3+12=15\n"] * 4,
    ["12+3=15\n"] * 6 + ["2+3=5\n10+5=15\n", "12+3=14\n"],
    ["12+3=14\n"] * 7 + ["12+3=16\n"],
]


def row(tokenizer, text: str, uid: str, place: int) -> DataProto:  # type: ignore[no-untyped-def]
    """Return a rollout as verl's agent loop sends it to a reward worker."""
    prompt, response = (torch.tensor(tokenizer(each)["input_ids"]) for each in ("12+3=?\n", text))
    tensors = {"prompts": prompt[None], "responses": response[None]}
    tensors["attention_mask"] = torch.ones(1, len(prompt) + len(response), dtype=torch.int64)
    columns = {
        "raw_prompt": [{"role": "user", "content": "12+3=?"}],
        "data_source": "sums",
        "reward_model": {"ground_truth": "15"},
        "extra_info": {"split": "train"},
        "uid": uid,
        "session_id": place,
    }
    extra = {name: np.array([value]) for name, value in columns.items()}
    extra["tool_extra_fields"] = np.array([{}], dtype=object)
    return DataProto(batch=TensorDict(tensors, batch_size=1), non_tensor_batch=extra)


async def main(folder: Path) -> None:
    """Print the advantages of three rounds of eight rollouts of one prompt."""
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    tokenizer.save_pretrained(folder)
    with initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
        overrides = [
            f"actor_rollout_ref.model.path={folder}",
            "actor_rollout_ref.rollout.n=8",
            f"reward.custom_reward_function.path={FILE}",
            "reward.reward_manager.source=importlib",
            "reward.reward_manager.name=NoveltyRewardManager",
            f"reward.reward_manager.module.path={FILE}",
            "algorithm.adv_estimator=extra_grpo",
        ]
        config = compose("ppo_trainer", overrides)
    worker = RewardLoopWorker(config)
    for number, texts in enumerate(ROUNDS):
        uid = f"group-{os.getpid()}-{number}"
        rows = [row(tokenizer, text, uid, place) for place, text in enumerate(texts)]
        results = await asyncio.gather(*(worker.compute_score(each) for each in rows))
        rewards = torch.tensor([[result["reward_score"]] for result in results])
        batch = TensorDict({"token_level_rewards": rewards, "response_mask": torch.ones(8, 1)}, batch_size=8)
        data = DataProto(batch=batch, non_tensor_batch={"uid": np.array([uid] * 8, dtype=object)})
        data = compute_advantage(data, adv_estimator="extra_grpo", num_repeat=8, config=config.algorithm)
        print("advantages", [round(value, 4) for value in data.batch["advantages"][:, 0].tolist()])


if __name__ == "__main__":
    with served(), tempfile.TemporaryDirectory() as name:
        asyncio.run(main(Path(name)))
