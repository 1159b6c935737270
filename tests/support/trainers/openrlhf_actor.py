"""OpenRLHF's own executors and rollout code, with an engine that returns given tokens."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from transformers import AutoTokenizer

from extra_client.integrations import NoveltyScoring
from extra_client.integrations.contract import RolloutGroup
from extra_client.integrations.openrlhf import agent_executor, reward_function
from extra_trainer.openrlhf import replacements
from support.generation_models import make_model


class Engine:
    """Answers the i-th call with the i-th text; with entropies 0.5 if it was asked for them."""

    def __init__(self, tokenizer: Any, texts: list[str]) -> None:
        self.tokenizer, self.texts = tokenizer, iter(texts)
        self.llm = SimpleNamespace(collective_rpc=self._called)
        self.sent: list[Any] = []

    async def _called(self, function: Any) -> None:
        self.sent.append(function)

    async def generate(self, tokens: list[int], parameters: Any, multi_modal_data: Any = None) -> Any:
        text = next(self.texts)
        ids = self.tokenizer(text)["input_ids"] + [self.tokenizer.eos_token_id]
        steps = None
        if parameters.logprobs is not None:
            rank = int(np.array([0.5, 0.5], "<f4").view("<i8")[0])
            steps = [{token: SimpleNamespace(logprob=-1.0, rank=rank)} for token in ids]
        output = SimpleNamespace(token_ids=ids, text=text, finish_reason="stop", logprobs=steps)
        return SimpleNamespace(outputs=[output])


def parameters() -> Any:
    return SimpleNamespace(temperature=1.0, max_tokens=16, logprobs=None)


async def rollouts(
    executor: Any,
    tokenizer: Any,
    texts: list[str],
    count: int | None = None,
    prompt: str = "2 + 2 = ",
    label: str = "4",
    images: list[Any] | None = None,
) -> list[Any]:
    """One prompt's responses, by the method of OpenRLHF's rollout actor."""
    from openrlhf.trainer.ray.vllm_engine import RolloutRayActor

    actor = SimpleNamespace(executor=executor, generate=Engine(tokenizer, texts).generate)
    actor.llm = SimpleNamespace(collective_rpc=Engine(tokenizer, [])._called)
    actor_class = RolloutRayActor.__ray_metadata__.modified_class
    outputs: list[Any] = await actor_class.generate_responses(
        actor, prompt, label, parameters(), 64, tokenizer, num_samples=count or len(texts), images=images
    )
    return outputs


class AgentHook:
    """The agent hook; its rewards, which the estimator dr_grpo only shifts."""

    cannot: ClassVar[Mapping[str, str]] = {
        "resume": "OpenRLHF gives an executor no number of a step or group: groups have random names",
    }

    @cached_property
    def _tokenizer(self) -> Any:
        replacements.install()
        with tempfile.TemporaryDirectory() as folder:
            return AutoTokenizer.from_pretrained(make_model(Path(folder)))

    def step(
        self, scoring: NoveltyScoring | None, groups: Sequence[RolloutGroup], number: int
    ) -> list[list[float]]:
        """Return rewards."""
        right, answers = verdicts(groups)
        if scoring is None:
            return [[float(right(text, "") is True) for text in group.texts] for group in groups]
        executor = agent_executor(right, scoring, answers=answers, estimator="dr_grpo", undecided_reward=0.0)

        async def sampled() -> list[list[Any]]:
            tokenizer = self._tokenizer
            calls: list[Awaitable[list[Any]]] = [
                rollouts(made, tokenizer, list(group.texts), label=group.reference, **asked(group.prompt))
                for group in groups
            ]
            return list(await asyncio.gather(*calls))

        made = executor()
        return [[output["reward"] for output in outputs] for outputs in asyncio.run(sampled())]


class RewardFile:
    """The reward file: its rewards."""

    cannot: ClassVar[Mapping[str, str]] = {
        **AgentHook.cannot,
        "images": "a reward function gets no images",
        "beta": "a reward function does not know the group of a sample",
        "twice": "a reward function does not know the group of a sample",
    }

    def step(
        self, scoring: NoveltyScoring | None, groups: Sequence[RolloutGroup], number: int
    ) -> list[list[float]]:
        """Return rewards."""
        right, _ = verdicts(groups)
        if scoring is None:
            return [[float(right(text, "") is True) for text in group.texts] for group in groups]
        size = len(groups[0].texts)
        reward = reward_function(right, scoring, group_size=size, undecided_reward=0.0)
        rows = [(group, text) for group in groups for text in group.texts]
        with ThreadPoolExecutor(len(rows)) as threads:
            calls = [
                threads.submit(reward, [group.prompt + text], [group.prompt], [group.reference])
                for group, text in rows
            ]
            rewards = [call.result()["rewards"] for call in calls]
        return [rewards[first : first + size] for first in range(0, len(rewards), size)]


def asked(prompt: Any) -> dict[str, Any]:
    """Return a prompt as OpenRLHF has it: a text, and images beside it."""
    if isinstance(prompt, str):
        return {"prompt": prompt}
    parts = prompt[0]["content"]
    text = "".join(part.get("text", "") for part in parts)
    return {"prompt": text, "images": [part["image"] for part in parts if part["type"] == "image"]}


def verdicts(
    groups: Sequence[RolloutGroup],
) -> tuple[Callable[[str, str], bool | None], Callable[[str], str | None]]:
    """Return functions that give a response its verdict and its final answer."""
    correct = {text: each for group in groups for text, each in zip(group.texts, group.correct, strict=True)}
    answer = {text: each for group in groups for text, each in zip(group.texts, group.answers, strict=True)}
    return lambda response, _label: correct[response], answer.__getitem__
