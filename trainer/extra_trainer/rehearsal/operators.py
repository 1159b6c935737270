"""Problems whose right way is a minority mode of the start model: chains of string operators.

A problem is a chain of one or two operators, named by capital letters, and a string of five symbols out of
eight ("QK:badce"). The solution applies the operators from left to right and writes one line for each; the
last line is the box with the answer. The answer is one of 8^5 strings, so a guess does not hit it.

The problems are built so that two diseases of GRPO exist. The start model is fitted on worked examples that
apply an operator correctly with a fixed probability, from 1 for the first four operators down to far below
0.01. Otherwise they apply another operator: mostly one and the same, the *decoy*, and sometimes any other. It
is also fitted on examples that name the operators by small letters ("qk:badce") and are always right; such
problems occur nowhere else. So the model can apply every operator, but under the name that counts it is
mostly wrong in one way, and holds the right way as a rare mode, as language models do on problems that they
could solve and mostly fail. Groups of rarely correct operators are all wrong and give no gradient; groups of
mostly correct ones collapse onto what is known.

Two variants ask where the gain of outcome novelty stops: answers that can be guessed (the box holds the first
symbol only), and wrong answers that do not repeat (random symbols in place of another operator's result).
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from extra_trainer.rehearsal.splits import Half, Split, half_of_key, id_of_key, split_of_key

Symbols = tuple[int, ...]

ALPHABET = "abcdefgh"
LENGTH = 5
#: Operators in a chain, drawn with equal weights.
_CHAIN_LENGTHS: Mapping[Split, tuple[int, ...]] = MappingProxyType(
    # One more for fitting, so that a chain of two is not the longest that the model has seen.
    {"fitting": (1, 2, 3), "train": (1, 2), "evaluation": (1, 2)}
)
_SIZE = len(ALPHABET)


def _running_maximum(symbols: Symbols) -> Symbols:
    return tuple(max(symbols[: place + 1]) for place in range(len(symbols)))


#: By name; symbols are the numbers 0 to 7.
OPERATORS: Mapping[str, Callable[[Symbols], Symbols]] = MappingProxyType(
    {
        "K": lambda s: s[::-1],
        "L": lambda s: s[1:] + s[:1],
        "M": lambda s: tuple((x + 1) % _SIZE for x in s),
        "N": lambda s: tuple(sorted(s)),
        "O": lambda s: (s[-1], *s[1:-1], s[0]),
        "P": lambda s: s[2:] + s[:2],
        "Q": lambda s: tuple(_SIZE - 1 - x for x in s),
        "R": lambda s: tuple(sorted(s, reverse=True)),
        "S": lambda s: (s[1], s[0], s[3], s[2], s[4]),
        "T": lambda s: tuple((x + 3) % _SIZE for x in s),
        "U": _running_maximum,
        "V": lambda s: s[-1:] + s[:-1],
        "W": lambda s: tuple(x * 3 % _SIZE for x in s),
        "X": lambda s: (s[0], s[2], s[4], s[1], s[3]),
        "Y": lambda s: (s[1], s[3], s[0], s[2], s[4]),
        "Z": lambda s: s[:2] + s[2:][::-1],
    }
)
#: Operators by difficulty, the easiest first; drawn once, so that no kind of operator is always easy.
BY_DIFFICULTY = "OVUXWNQKLZYPMSTR"
#: Operator -> the operator that is applied in its place in wrong worked examples.
DECOYS: Mapping[str, str] = MappingProxyType(dict(zip(OPERATORS, "TUNOLQKSXPZYRVMW", strict=True)))
#: The easiest operators, which every worked example applies correctly.
_ALWAYS_RIGHT = 4
#: Probability of applying the next operator correctly.
_MOST_OFTEN = 0.7


@dataclass(frozen=True)
class OperatorProblem:
    """`prompt` ends where the first line of the solution begins."""

    id: str
    prompt: str
    answer: str
    #: The chain of operators, in the order in which they are applied.
    operators: str
    symbols: Symbols

    @property
    def group(self) -> str:
        """The operator of a chain of one; the length of a longer chain."""
        return self.operators if len(self.operators) == 1 else f"chains of {len(self.operators)}"


def success_probabilities(rarest: float) -> dict[str, float]:
    """Return the probability with which a worked example applies each operator correctly.

    1 for the four easiest operators, then evenly spaced on a logarithmic scale from 0.7 to `rarest`.
    """
    steps = len(BY_DIFFICULTY) - _ALWAYS_RIGHT - 1
    factor = (rarest / _MOST_OFTEN) ** (1 / steps)
    return {
        operator: 1.0 if rank < _ALWAYS_RIGHT else _MOST_OFTEN * factor ** (rank - _ALWAYS_RIGHT)
        for rank, operator in enumerate(BY_DIFFICULTY)
    }


def written(symbols: Symbols) -> str:
    """Return symbols as letters."""
    return "".join(ALPHABET[symbol] for symbol in symbols)


def stream_problems(
    split: Split, seed: int, *, half: Half | None = None, lengths: tuple[int, ...] | None = None
) -> Iterator[OperatorProblem]:
    """Yield different problems without end; the same ones for the same seed.

    Args:
        split: The split to draw from.
        seed: Seed of the draws.
        half: The half of the split to draw from; None: both.
        lengths: Numbers of operators, drawn with equal weights; None: the split's own.
    """
    rng = random.Random(f"operators/{split}/{seed}")
    seen: set[str] = set()
    while True:
        operators = "".join(rng.choices(BY_DIFFICULTY, k=rng.choice(lengths or _CHAIN_LENGTHS[split])))
        symbols = tuple(rng.randrange(_SIZE) for _ in range(LENGTH))
        key = f"{operators}:{written(symbols)}"
        if key not in seen and split_of_key(key) == split and half in (None, half_of_key(key)):
            seen.add(key)
            yield _problem(operators, symbols, key)


def worked_example(
    problem: OperatorProblem,
    rng: random.Random,
    probabilities: Mapping[str, float],
    stray_share: float = 0.0,
    noise_share: float = 0.0,
    answer_symbols: int = LENGTH,
) -> str:
    """Return a solution in which each operator is applied correctly, or else another one in its place.

    Args:
        problem: The problem.
        rng: Decides which operators are applied correctly.
        probabilities: Operator -> probability of that.
        stray_share: Share of the others that are not the decoy, but drawn evenly from all the rest.
        noise_share: Share of the wrong results that are no operator's, but random symbols.
        answer_symbols: Symbols of the last result that the box holds.
    """
    lines = []
    symbols = problem.symbols
    for operator in problem.operators:
        if rng.random() < probabilities[operator]:
            symbols = OPERATORS[operator](symbols)
        # No draw without noise: older recipes keep their examples.
        elif noise_share and rng.random() < noise_share:
            symbols = tuple(rng.randrange(_SIZE) for _ in symbols)
        else:
            symbols = OPERATORS[_wrong_operator(operator, rng, stray_share)](symbols)
        lines.append(written(symbols))
    return "\n".join([*lines[:-1], f"\\boxed{{{lines[-1][:answer_symbols]}}}"])


def _wrong_operator(operator: str, rng: random.Random, stray_share: float) -> str:
    if rng.random() >= stray_share:
        return DECOYS[operator]
    return rng.choice([name for name in OPERATORS if name not in (operator, DECOYS[operator])])


def known_example(problem: OperatorProblem, answer_symbols: int = LENGTH) -> tuple[str, str]:
    """Return prompt and right solution of a problem that names its operators by small letters."""
    always_right = dict.fromkeys(OPERATORS, 1.0)
    prompt = problem.prompt.replace(problem.operators, problem.operators.lower(), 1)
    return prompt, worked_example(problem, random.Random(0), always_right, answer_symbols=answer_symbols)


def _problem(operators: str, symbols: Symbols, key: str) -> OperatorProblem:
    result = symbols
    for operator in operators:
        result = OPERATORS[operator](result)
    return OperatorProblem(id_of_key("operators", key), f"{key}\n", written(result), operators, symbols)
