"""A completion that cannot be compared costs its own bonus, never the step: TRL's reward and the helper."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from extra_client import MemoryPolicy, Metric, NamespaceClient, NamespaceSettings, NoveltyClient, embedded
from extra_client.integrations import NoveltyScoring, novelty_bonus
from extra_client.integrations.trl import completion_text, novelty_reward

PROBLEM = "There are goats and ducks, 37 heads and 110 legs. How many goats?"
SWAP = "If all 37 were ducks, $37 \\cdot 2 = 74$ legs; $110 - 74 = 36$ and $36/2 = 18$. $\\boxed{18}$"
EQUATIONS = "From $g + d = 37$ and $4g + 2d = 110$ we get $2g + d = 55$, so $g = 55 - 37$. $\\boxed{18}$"
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
COMPLETIONS: list[Any] = [
    "",
    SWAP,
    [{"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": None}],
    [{"role": "assistant", "content": [{"type": "text", "text": None}, {"type": "image"}]}],
    EQUATIONS,
    "ដំណោះស្រាយ",
]


@pytest.fixture(scope="module")
def novelty() -> Iterator[str]:
    with embedded.start("novelty", threads=1) as service:
        yield service.target


@pytest.mark.parametrize("on_failure", ["fail", "continue"])
@pytest.mark.parametrize("metric", [Metric.EMBEDDING, Metric.DERIVATION])
@pytest.mark.parametrize("policy", MemoryPolicy)
def test_a_bad_completion_gets_no_bonus_and_the_others_get_theirs(
    novelty: str, metric: Metric, policy: MemoryPolicy, on_failure: str
) -> None:
    name = f"trl-{metric}-{policy}-{on_failure}"
    settings = NamespaceSettings(min_history=0, memory_policy=policy)
    scoring = NoveltyScoring(
        target=novelty, namespace=name, metric=metric, settings=settings, alpha=1.0, on_failure=on_failure
    )
    logged: dict[str, float] = {}
    reward = novelty_reward(scoring, correct=lambda **_: [1.0] * len(COMPLETIONS))
    bonus = asyncio.run(reward([PROBLEM] * len(COMPLETIONS), COMPLETIONS, log_metric=logged.__setitem__))
    assert [each is not None and each > 0 for each in bonus] == [False, True, False, False, True, False]
    assert None not in bonus
    assert logged["novelty/missing"] == 0
    assert NamespaceClient(novelty, name).describe().solutions == 2


def test_the_helper_for_other_trainers_goes_on_too(novelty: str) -> None:
    texts = [completion_text(each) for each in COMPLETIONS]
    with NoveltyClient(novelty, "helper", NamespaceSettings(min_history=0)) as client:
        bonus = novelty_bonus(
            ["q"] * len(texts), texts, [True] * len(texts), client=client, metric="embedding"
        )
    assert (bonus > 0).tolist() == [False, True, False, False, True, False]
