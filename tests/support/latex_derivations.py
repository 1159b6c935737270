"""A problem and solutions of it in LaTeX: one way, the same in other words, and another way."""

PROBLEM = "A yard holds goats and ducks. Someone counts 37 heads and 110 legs. How many goats are there?"
ANSWER = "18"
SWAP = (
    "If all 37 animals were ducks, there would be $37 \\cdot 2 = 74$ legs. That is $110 - 74 = 36$ legs"
    " too few. Each goat adds two legs, so there are $36/2 = 18$ goats. $\\boxed{18}$"
)
SWAP_AGAIN = (
    "Imagine ducks only: 37 × 2 = 74 legs. We are short of 36 = 110 − 74 legs. Every trade brings two legs,"
    " and so 36 ÷ 2 trades are needed: \\(\\boxed{18}\\)."
)
EQUATIONS = (
    "Let $g$ goats and $d$ ducks. Then $g + d = 37$ and $4g + 2d = 110$. Halving gives $2g + d = 55$, and"
    " subtracting the first equation from it, $g = 55 - 37$. $\\boxed{18}$"
)
