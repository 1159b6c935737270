"""A problem and solutions of it, in the letters of the tiny models, for tests of the metric derivation."""

from collections.abc import Sequence

PROBLEM = "a yard holds goats and ducks. someone counts 37 heads and 110 legs. how many goats are there. "
ANSWER = "18"
CHAT = [
    {"role": "system", "content": "think of 5 and 6."},
    {"role": "user", "content": "a riddle with 7 please."},
    {"role": "assistant", "content": "which one."},
    {"role": "user", "content": [{"type": "text", "text": PROBLEM}]},
]
SWAP = (
    "if all 37 animals were ducks, there would be 37 * 2 = 74 legs. that is 110 - 74 = 36 legs"
    " too few. each goat adds two legs, so there are 36/2 = 18 goats. the answer is 18"
)
#: SWAP in other words.
SWAP_AGAIN = (
    "imagine ducks only: 37 * 2 = 74 legs. we are short of 36 = 110 - 74 legs. every trade brings two"
    " legs, and so 36 / 2 trades are needed, which is 18"
)
#: Another way.
EQUATIONS = (
    "let g goats and d ducks. then g + d = 37 and 4g + 2d = 110. halving gives 2g + d = 55, and"
    " subtracting the first equation from it, g = 55 - 37. so it is 18"
)
#: All its numbers are those of the problem and of the answer.
STEPLESS = "we know 37 heads, 110 legs and the 18 that follows from them, as is well known. it is 18"
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
