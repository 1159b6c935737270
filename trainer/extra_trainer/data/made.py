"""Problems that the project makes itself, under the names that `data.train` and others take for a file."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from extra_trainer.config import DataConfig, PromptConfig
from extra_trainer.data.problems import Problem, make_prompt

if TYPE_CHECKING:
    from extra_trainer.rehearsal.splits import Split

#: Problems where a config does not say how many.
DEFAULT_COUNT = 256


def is_made(source: str) -> bool:
    """Return whether the problems of this source are made, not read."""
    return source in _STREAMS


def make_problems(
    source: str, split: "Split", count: int | None, seed: int, config: PromptConfig, tokenizer: Any | None
) -> list[Problem]:
    """Return made problems; the same ones for the same arguments.

    Args:
        source: Their name, see `is_made`.
        split: The split to draw from.
        count: Number of problems; None: DEFAULT_COUNT.
        seed: Seed of the draws.
        config: Prompt template and, in a DataConfig, which problems to draw.
        tokenizer: Applies the chat template; None: the generation service applies it.
    """
    data = config if isinstance(config, DataConfig) else None
    stream = _STREAMS[source](split, seed, data)
    return [
        Problem(id, make_prompt(prompt, config, tokenizer), answer, group)
        for id, prompt, answer, group in islice(stream, count or DEFAULT_COUNT)
    ]


#: Id, prompt, answer and group.
_Made = tuple[str, str, str, str]


def _sums(split: "Split", seed: int, data: DataConfig | None) -> Iterator[_Made]:
    from extra_trainer.rehearsal.problems import stream_problems

    half, terms = (data.rehearsal_half, data.rehearsal_terms) if data else (None, None)
    for problem in stream_problems(split, seed, half=half, terms=terms):
        yield problem.id, problem.prompt, problem.answer, ""


def _operators(split: "Split", seed: int, data: DataConfig | None) -> Iterator[_Made]:
    from extra_trainer.rehearsal.operators import stream_problems

    half, lengths = (data.rehearsal_half, data.rehearsal_operators) if data else (None, None)
    for problem in stream_problems(split, seed, half=half, lengths=lengths):
        yield problem.id, problem.prompt, problem.answer, problem.group


def _guessable_operators(split: "Split", seed: int, data: DataConfig | None) -> Iterator[_Made]:
    from extra_trainer.rehearsal.recipes import GUESSABLE_SYMBOLS

    for id, prompt, answer, group in _operators(split, seed, data):
        yield id, prompt, answer[:GUESSABLE_SYMBOLS], group


_STREAMS: dict[str, Callable[["Split", int, DataConfig | None], Iterator[_Made]]] = {
    "rehearsal": _sums,
    "rehearsal-operators": _operators,
    "rehearsal-operators-guessable": _guessable_operators,
}
