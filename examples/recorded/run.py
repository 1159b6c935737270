"""Run the launch files of this folder in recorded trainers, on given responses, without a GPU.

    make example-slime example-miles example-prime-rl example-nemo-rl

These trainers cannot be installed on a machine without a GPU. So what they call our files with, and what they
do with the answer, is written anew from their sources, in tests/support/trainers, which names the commits;
prime-rl's episodes and traces are those of the real package `verifiers`. The launch files themselves are
those of a training run: docs/plugins has the command lines.
"""

import argparse
import asyncio
import os
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from example_servers import served

from extra_client import VerificationClient
from extra_client.integrations.contract import RolloutGroup

HERE = Path(__file__).resolve().parent
PROMPT, ANSWER = "12+3=?\n", "15"
#: Eight known solutions; then a round with one new solution and a wrong one; then all wrong, one way new.
ROUNDS = [
    ["12+3=15\n", "3+12=15\n"] * 4,
    ["12+3=15\n"] * 6 + ["2+3=5\n10+5=15\n", "12+3=14\n"],
    ["12+3=14\n"] * 7 + ["12+3=16\n"],
]
#: What a trainer has made of a round: the advantages of its rollouts.
Advantages = list[float]


def verified(texts: list[str]) -> RolloutGroup:
    """Return a round as its environment's verification leaves it."""
    with VerificationClient(os.environ["VERIFICATION"]) as client:
        verdicts = client.verify(texts, [ANSWER] * len(texts))
    answers = [verdict.final_answer for verdict in verdicts]
    return RolloutGroup(texts, [verdict.correct for verdict in verdicts], answers, PROMPT, ANSWER)


def slime(package: str) -> list[Advantages]:
    """Rewards by --custom-rm-path, then --custom-reward-post-process-path in the trainer's normalization."""
    from support.trainers import slime_batch

    hooks = runpy.run_path(str(HERE / "extra_slime.py"))
    made = {"slime": slime_batch.Slime, "miles": slime_batch.Miles}[package]
    args = SimpleNamespace(n_samples_per_prompt=8, reward_key=None, normalize_advantages=False)

    async def rewarded(samples: list[Any]) -> list[float]:
        found: list[float] = await hooks["reward"](args, samples)
        return found

    rounds = []
    with asyncio.Runner() as runner:
        for number, texts in enumerate(ROUNDS):
            samples = [
                made.sample(
                    index=8 * number + place, group_index=number, prompt=PROMPT, response=text, label=ANSWER
                )
                for place, text in enumerate(texts)
            ]
            for sample, reward in zip(samples, runner.run(rewarded(samples)), strict=True):
                sample.reward = reward
            rounds.append(made()._processed(args, samples, hooks["rewards"])[1])
    return rounds


def prime_rl() -> list[Advantages]:
    """Real episodes of `verifiers`, scored by what extra_orchestrator.py has registered."""
    from support.trainers import prime_rl_group

    prime_rl_group.install()
    registered = runpy.run_path(str(HERE / "extra_orchestrator.py"))["algo"].ALGORITHM_CLASSES["grpo"]
    algorithm = registered(SimpleNamespace(length_penalty=None), None)
    rounds = []
    for number, texts in enumerate(ROUNDS):
        group = verified(texts)
        episodes = [prime_rl_group.episode(group, place, number) for place in range(len(texts))]
        asyncio.run(algorithm.score_group(episodes))
        rounds.append([episode.traces[0].nodes[-1].advantages[0] for episode in episodes])
    return rounds


def nemo_rl() -> list[Advantages]:
    """The estimator that NeMo-RL finds in its module after run_extra_grpo.py."""
    import torch

    from support.trainers import nemo_rl_batch

    nemo_rl_batch.install()
    kind = runpy.run_path(str(HERE / "run_extra_grpo.py"))["grpo"].GRPOAdvantageEstimator
    estimator = kind(SimpleNamespace(normalize_rewards=True), SimpleNamespace())
    rounds = []
    for texts in ROUNDS:
        group = verified(texts)
        rows = range(len(texts))
        advantages = estimator.compute_advantage(
            prompt_ids=torch.ones(len(texts), 3, dtype=torch.int64),
            rewards=torch.tensor([float(right is True) for right in group.correct]),
            mask=torch.ones(len(texts), 4),
            repeated_batch={
                "message_log": [nemo_rl_batch.log(group, row) for row in rows],
                "length": torch.full((len(texts),), len(PROMPT)),
                "extra_env_info": [{"ground_truth": ANSWER} for _ in rows],
            },
            logprobs_policy=None,
            logprobs_reference=None,
        )
        rounds.append(advantages[:, 0].tolist())
    return rounds


TRAINERS: dict[str, Callable[[], list[Advantages]]] = {
    "slime": lambda: slime("slime"),
    "miles": lambda: slime("miles"),
    "prime-rl": prime_rl,
    "nemo-rl": nemo_rl,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A launch file in its recorded trainer.")
    parser.add_argument("trainer", choices=TRAINERS)
    wanted = parser.parse_args().trainer
    with served():
        for row in TRAINERS[wanted]():
            print(wanted, "advantages", [round(value, 4) for value in row])
