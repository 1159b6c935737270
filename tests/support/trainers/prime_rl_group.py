"""prime-rl's GRPO over episodes of the real package `verifiers`, with our subclass.

prime-rl itself does not install here: it needs Python 3.12, and packages that are not on PyPI. Recorded from
the sources of PrimeIntellect-ai/prime-rl at 559b44772e471d1538537b8805cc77f3824a5e64: that `score_group`
gives the sampled tokens of each trace its reward minus the group's mean (src/prime_rl/orchestrator/algo).
"""

import asyncio
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import verifiers.v1 as vf

from extra_client.integrations import FINAL_ANSWER, NoveltyScoring
from extra_client.integrations.contract import RolloutGroup
from extra_client.integrations.prime_rl import novelty_algorithm
from support.trainers import modules


class GRPOAlgorithm:
    """As in prime_rl.orchestrator.algo."""

    def __init__(self, config: Any, policy_pool: Any) -> None:
        self.policy_pool = policy_pool

    async def score_group(self, episodes: list[Any]) -> None:
        """Assign advantages."""
        traces = [trace for episode in episodes for trace in episode.traces if trace.ok]
        mean = sum(trace.reward for trace in traces) / len(traces)
        for trace in traces:
            for node in trace.nodes:
                if any(node.mask):
                    node.advantages = [trace.reward - mean] * sum(node.mask)


def install() -> None:
    """Let `import prime_rl.orchestrator.algo` and the command's module find what is recorded here."""
    algo = {"GRPOAlgorithm": GRPOAlgorithm, "ALGORITHM_CLASSES": {"grpo": GRPOAlgorithm}}
    modules("prime_rl.orchestrator.algo", algo)
    modules("prime_rl.entrypoints.orchestrator", {"main": lambda: None})


class Problem(vf.TaskData):  # type: ignore[misc]
    """A row of a task set."""

    answer: str


class PrimeRL:
    """Groups as prime-rl's orchestrator finishes them."""

    cannot: ClassVar[Mapping[str, str]] = {}
    #: The real class, where prime-rl is installed.
    base: ClassVar[Any] = GRPOAlgorithm

    def step(
        self, scoring: NoveltyScoring | None, groups: Sequence[RolloutGroup], number: int
    ) -> list[list[float]]:
        """Return the advantage of each trace's first sampled token."""
        kind = self.base if scoring is None else novelty_algorithm(self.base, scoring, correct_by="correct")
        algorithm = kind(SimpleNamespace(length_penalty=None), None)
        found = []
        for group in groups:
            episodes = [episode(group, row, number) for row in range(len(group.texts))]
            asyncio.run(algorithm.score_group(episodes))
            found.append([each.traces[0].nodes[-1].advantages[0] for each in episodes])
        return found


def episode(group: RolloutGroup, row: int, number: int) -> Any:
    """Return an episode with one trace of two messages."""
    text, right = group.texts[row], group.correct[row]
    task = vf.TraceTask(type="Task", data=Problem(prompt=asked(group.prompt), answer=group.reference))
    tokens = list(map(ord, text)) or [0]
    nodes = [
        vf.MessageNode(message=vf.UserMessage(content="as asked"), token_ids=[1, 2], mask=[False, False]),
        vf.MessageNode(
            message=vf.AssistantMessage(content=text),
            parent=0,
            sampled=True,
            token_ids=[3, *tokens],
            mask=[False, *[True] * len(tokens)],
            logprobs=[-0.5] * len(tokens),
        ),
    ]
    trace = vf.Trace(
        task=task,
        agent=vf.AgentInfo(config=vf.AgentConfig()),
        nodes=nodes,
        rewards={"correct": None if right is None else vf.Reward(score=float(right))},
        info={FINAL_ANSWER: group.answers[row]},
        ok=True,
    )
    run = vf.TrainRunInfo(id="run", work=vf.TrainWorkInfo(step=number))
    return vf.Episode(task=task, traces=[trace], run=run)


def asked(prompt: Any) -> Any:
    """Return a prompt as verifiers has it: an image as a data URL."""
    if isinstance(prompt, str):
        return prompt
    parts: list[Any] = []
    for part in prompt[0]["content"]:
        if part["type"] == "text":
            parts.append(vf.TextContentPart(text=part["text"]))
        else:
            url = f"data:image/x;base64,{part['image'].tobytes().hex()}"
            parts.append(vf.ImageUrlContentPart(image_url=vf.ImageUrlSource(url=url)))
    return [vf.UserMessage(content=parts)]
