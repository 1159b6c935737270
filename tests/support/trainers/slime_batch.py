"""slime's and miles' normalization of a batch with our hook in it: recorded, for neither installs on a CPU.

Both need Megatron and SGLang. Recorded from the sources of THUDM/slime at
624b824a898ab0ec1fcb4d373004c7f3852bf515 and radixark/miles at 31f1ca961a94cb860cec3b2dea34ec332bfa8f76: the
fields of `Sample` that hooks use, and that `_post_process_rewards` normalizes by group, with torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import torch

from extra_client.integrations import FINAL_ANSWER, NoveltyScoring
from extra_client.integrations.contract import RolloutGroup
from extra_client.integrations.slime import UNDECIDED, post_process
from support.trainers import modules


@dataclass
class Sample:
    """As in slime/utils/types.py."""

    group_index: int | None = None
    index: int | None = None
    rollout_id: int | None = None
    prompt: Any = ""
    tokens: list[int] = field(default_factory=list)
    multimodal_inputs: dict[str, Any] | None = None
    response: str = ""
    response_length: int = 0
    label: str | None = None
    reward: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def get_reward_value(self, args: Any) -> float:
        """Return the reward."""
        return float(self.reward[args.reward_key] if args.reward_key else self.reward)


class MilesSample(Sample):
    """miles' class has the same fields."""


class RolloutManager:
    """As in slime/ray/rollout.py, where it is an actor of Ray."""

    def __init__(self, args: Any, custom: Any) -> None:
        self.args = args
        self.custom_reward_post_process_func = custom

    def _post_process_rewards(self, samples: list[Any]) -> tuple[list[float], list[float]]:
        if self.custom_reward_post_process_func is not None:
            return self.custom_reward_post_process_func(self.args, samples)  # type: ignore[no-any-return]
        rewards = [sample.get_reward_value(self.args) for sample in samples]
        groups = torch.tensor(rewards, dtype=torch.float32).reshape(-1, self.args.n_samples_per_prompt)
        groups = groups - groups.mean(-1, keepdim=True)
        return rewards, (groups / (groups.std(-1, keepdim=True) + 1e-6)).flatten().tolist()


def _post_process_rewards(
    args: Any, samples: list[Any], custom_reward_post_process_func: Any, prompt_group_sizes: Any = None
) -> tuple[list[float], list[float]]:
    """As in miles/ray/rollout/train_data_conversion.py."""
    return RolloutManager(args, custom_reward_post_process_func)._post_process_rewards(samples)


def install() -> None:
    """Let `import slime.ray.rollout` and miles' module find what is recorded here."""
    modules("slime.ray.rollout", {"RolloutManager": RolloutManager})
    modules("miles.ray.rollout.train_data_conversion", {"_post_process_rewards": _post_process_rewards})
    Sample.__module__, MilesSample.__module__ = "slime.utils.types", "miles.utils.types"


install()


class Slime:
    """A batch as the rollout manager normalizes it."""

    cannot: ClassVar[Mapping[str, str]] = {}
    sample: ClassVar[type[Sample]] = Sample

    def step(
        self, scoring: NoveltyScoring | None, groups: Sequence[RolloutGroup], number: int
    ) -> list[list[float]]:
        """Return what becomes the advantages."""
        size = len(groups[0].texts)
        args = SimpleNamespace(n_samples_per_prompt=size, reward_key=None, normalize_advantages=False)
        samples = [
            self._made(group, row, number * 100 + place * size + row, number * 10 + place)
            for place, group in enumerate(groups)
            for row in range(size)
        ]
        custom = None if scoring is None else post_process(scoring)
        raw, rewards = self._processed(args, samples, custom)
        assert raw == [sample.reward for sample in samples]
        return [rewards[first : first + size] for first in range(0, len(rewards), size)]

    def _processed(self, args: Any, samples: list[Any], custom: Any) -> tuple[list[float], list[float]]:
        return RolloutManager(args, custom)._post_process_rewards(samples)

    def _made(self, group: RolloutGroup, row: int, index: int, group_index: int) -> Sample:
        text, right = group.texts[row], group.correct[row]
        images = None
        prompt = group.prompt
        if not isinstance(prompt, str):
            # As slime's data set splits it.
            images = {"images": [part["image"] for part in prompt[0]["content"] if part["type"] == "image"]}
            prompt = "".join(part.get("text", "<image>") for part in prompt[0]["content"])
        return self.sample(
            group_index=group_index,
            index=index,
            prompt=prompt,
            tokens=[7, 8, 9, *map(ord, text)],
            multimodal_inputs=images,
            response=text,
            response_length=len(text),
            label=group.reference,
            reward=float(right is True),
            metadata={FINAL_ANSWER: group.answers[row], UNDECIDED: right is None},
        )


class Miles(Slime):
    """The same hook in miles."""

    sample = MilesSample

    def _processed(self, args: Any, samples: list[Any], custom: Any) -> tuple[list[float], list[float]]:
        return _post_process_rewards(args, samples, custom)
