"""A problem and solutions of it, in the letters of the tiny models, for tests of the metric derivation."""

from collections.abc import Sequence

from extra_client.integrations.contract import (
    ANSWER as ANSWER,
)
from extra_client.integrations.contract import (
    EQUATIONS,
    PROBLEM,
    STEPLESS,
    SWAP_AGAIN,
)
from extra_client.integrations.contract import (
    SWAP as SWAP,
)

CHAT = [
    {"role": "system", "content": "think of 5 and 6."},
    {"role": "user", "content": "a riddle with 7 please."},
    {"role": "assistant", "content": "which one."},
    {"role": "user", "content": [{"type": "text", "text": PROBLEM}]},
]
#: A group to score when SWAP is known; the last one is wrong.
SOLUTIONS = [SWAP_AGAIN, EQUATIONS, STEPLESS, "no idea"]


def assert_scored_with_the_problem(novelty: Sequence[float | None]) -> None:
    """Assert that SOLUTIONS got novelties that need their way and the numbers of problem and answer."""
    repeated, other, stepless, wrong = novelty
    assert repeated is not None
    assert other is not None
    assert other > 0.3
    assert repeated < other / 3
    assert stepless == wrong == 0
