"""10,000 generated answers: no crash, no item without an end, never "correct" for different values.

Everything is generated from a fixed seed. `judged` decides the items in the killable workers of a server, so
that an item that hangs shows as a status and not as a test that never ends.
"""

import random
from collections.abc import Callable, Iterator
from fractions import Fraction

import pytest

from extra_client import VerificationClient
from extra_services.verification.symbols import word_list
from support.verification_server import patient_client

SECONDS = 60.0

#: Writings of a number x, with its value; None for those that name no number.
WRITINGS: list[tuple[str, Callable[[int], Fraction | int | None]]] = [
    ("{}", lambda x: x),
    (" {} ", lambda x: x),
    ("{}.", lambda x: x),
    ("{}.0", lambda x: x),
    ("${}$", lambda x: x),
    (r"\text{{{}}}", lambda x: x),
    (r"\mathbf{{{}}}", lambda x: x),
    (r"\textcolor{{red}}{{{}}}", lambda x: x),
    (r"x = {}", lambda x: x),
    (r"{}\text{{ cm}}", lambda x: x),
    (r"{} \text{{ apples}}", lambda x: x),
    (r"\$ {}", lambda x: x),
    (r"-(-{})", lambda x: x),
    (r"\frac{{{}}}{{1}}", lambda x: x),
    (r"\{{{}\}}", lambda x: x),
    (r"\approx {}", lambda x: x),
    ("-{}", lambda x: -x),
    (r"\text{{minus }} {}", lambda x: -x),
    (r"\text{{negative }} {}", lambda x: -x),
    (r"\frac{{{}}}{{2}}", lambda x: Fraction(x, 2)),
    (r"\text{{half of }} {}", lambda x: Fraction(x, 2)),
    (r"\text{{a third of }} {}", lambda x: Fraction(x, 3)),
    (r"\text{{twice }} {}", lambda x: 2 * x),
    (r"{} \text{{ squared}}", lambda x: x * x),
    (r"{}^2", lambda x: x * x),
    (r"{} \text{{ million}}", lambda x: x * 10**6),
    (r"{} \text{{ dozen}}", lambda x: x * 12),
    (r"{} \text{{ tenths}}", lambda x: Fraction(x, 10)),
    (r"\frac{{1}}{{{}}}", lambda x: Fraction(1, x)),
    (r"\sqrt{{{}}}", lambda x: None),
    (r"{}!", lambda x: None),
    (r"\log {}", lambda x: None),
    (r"\text{{not }} {}", lambda x: None),
    (r"\text{{at least }} {}", lambda x: None),
    (r"\text{{anything except }} {}", lambda x: None),
    (r"\text{{more than }} {}", lambda x: None),
    (r"{} \text{{ or more}}", lambda x: None),
    (r"{} \text{{ is wrong}}", lambda x: None),
    (r"x \ne {}", lambda x: None),
    (r"x > {}", lambda x: None),
    (r"\pm {}", lambda x: None),
    (r"{0}, {0}1", lambda x: None),
    (r"{}x", lambda x: None),
    (r"{}ab", lambda x: None),
    (r"x_{{{}}}", lambda x: None),
    (r"f({})", lambda x: None),
    (r"x + 1 = {}", lambda x: None),
    (r"1 = {}1", lambda x: None),
    (r"\{{1, {}1\}}", lambda x: None),
]
PROSE = [
    r"\boxed{{{}}}",
    "The answer is {}.",
    "So we get {}.",
    "#### {}",
    r"<think>\boxed{{777777}}</think> The final answer is \boxed{{{}}}.",
    "**Answer:** {}",
    r"I think \boxed{{888888}} is wrong. So \boxed{{{}}}.",
]
LETTERS = ["x", "X", "y", "r", "R", r"\alpha", r"\delta", r"\Delta", "n", "N"]
TOKENS = [
    *word_list(
        r"""
        \frac \sqrt \text \boxed \left \right \pm \cup \in \infty \mathbb{R} \le \ge \ne \approx \cdot \times
        \begin{pmatrix} \end{pmatrix} \begin{cases} \end{cases} \\ & { } ( ) [ ] \{ \} | _ ^ , ; : . =
        < > + - * / ! % 0 1 2 7 10 3.5 0.25 1,000 x y n i e k A B C π √ ½ ² ° ≤ ≠ × ÷ − ∞ ①
        和 答案 是 km h cm mod and or
        not the answer is $ $$ #### </think> <answer> </answer>
        """
    ),
    *("  ", "\n", "\x00"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VerificationClient]:
    with patient_client(tmp_path_factory.mktemp("server"), SECONDS) as client:
        yield client


def judged(client: VerificationClient, pairs: list[tuple[str, str]]) -> list[str]:
    """Return the status of each (response, answer)."""
    responses, answers = map(list, zip(*pairs, strict=True))
    verdicts = client.verify(responses, answers, timeout_seconds=SECONDS, deadline=600)
    return [str(verdict.status) for verdict in verdicts]


def test_no_writing_of_a_number_is_accepted_for_another_number(client: VerificationClient) -> None:
    chance = random.Random(0)
    pairs, values = [], []
    for _ in range(4000):
        number, (writing, value) = chance.randrange(2, 1000), chance.choice(WRITINGS)
        named = value(number)
        answer = Fraction(chance.choice([number, number, named or 5, chance.randrange(2, 1000)]))
        pairs.append((chance.choice(PROSE).format(writing.format(number)), str(answer)))
        values.append((named, answer))
    statuses = judged(client, pairs)
    wrong = [
        (pair, status)
        for pair, status, (named, answer) in zip(pairs, statuses, values, strict=True)
        if status not in ("correct", "wrong", "unparseable") or (status == "correct" and named != answer)
    ]
    assert wrong == []


def test_different_letters_and_products_of_letters_differ(client: VerificationClient) -> None:
    chance = random.Random(1)
    pairs: list[tuple[str, str]] = []
    while len(pairs) < 1000:
        mine, theirs = (sorted(chance.choices(LETTERS, k=chance.choice([1, 1, 2]))) for _ in range(2))
        if mine != theirs:
            factor = chance.choice(["", "2", "7"])
            pairs.append((rf"\boxed{{{factor}{' '.join(mine)}}}", f"{factor}{' '.join(theirs)}"))
    statuses = judged(client, pairs)
    assert [pair for pair, status in zip(pairs, statuses, strict=True) if status != "wrong"] == []


def _expression(chance: random.Random, depth: int = 2) -> str:
    """Return a random formula that is written plainly."""
    if depth == 0 or chance.random() < 0.3:
        return chance.choice(
            [str(chance.randrange(1, 50)), chance.choice(LETTERS) + " ", r"\pi ", "0.5", "i"]
        )
    left, right = _expression(chance, depth - 1), _expression(chance, depth - 1)
    return chance.choice(
        [
            rf"\frac{{{left}}}{{{right}}}",
            rf"\sqrt{{{left}}}",
            f"{left} + {right}",
            f"{left} - {right}",
            rf"{left} \cdot {right}",
            f"({left})^{{2}}",
        ]
    )


def _answer(chance: random.Random) -> str:
    one, two = _expression(chance), _expression(chance)
    kinds = [
        one,
        one,
        f"({one}, {two})",
        f"[{one}, {two}]",
        rf"\{{{one}, {two}\}}",
        f"{one}, {two}",
        f"x = {one}",
    ]
    return chance.choice(kinds)


def _rewritten(text: str) -> str:
    """Return the same answer with other commands and spaces."""
    return (
        text.replace(r"\frac", r"\dfrac").replace("(", r"\left(").replace(")", r"\right)").replace(" + ", "+")
    )


def test_equality_is_reflexive_and_symmetric(client: VerificationClient) -> None:
    chance = random.Random(2)
    answers = [_answer(chance) for _ in range(200)]
    same = [(rf"\boxed{{{_rewritten(answer)}}}", answer) for answer in answers]
    others = list(zip(answers, chance.sample(answers, len(answers)), strict=True))
    there = judged(client, same + [(rf"\boxed{{{one}}}", other) for one, other in others])
    back = judged(client, [(rf"\boxed{{{other}}}", one) for one, other in others])
    unequal = [p for p, s in zip(same, there, strict=False) if s not in ("correct", "unparseable")]
    assert unequal == []
    asymmetric = [
        (pair, one, other)
        for pair, one, other in zip(others, there[len(same) :], back, strict=True)
        if (one == "correct") != (other == "correct")
    ]
    assert asymmetric == []


def test_garbage_gets_a_status(client: VerificationClient) -> None:
    chance = random.Random(3)
    texts = ["".join(chance.choices(TOKENS, k=chance.randrange(1, 25))) for _ in range(2 * 1500)]
    pairs = [(rf"\boxed{{{text}}}", answer) for text, answer in zip(texts[::2], texts[1::2], strict=True)]
    statuses = judged(client, pairs)
    assert set(statuses) <= {"correct", "wrong", "unparseable"}, [
        pair for pair, status in zip(pairs, statuses, strict=True) if status in ("error", "timeout")
    ]
