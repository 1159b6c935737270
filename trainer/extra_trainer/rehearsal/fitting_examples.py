"""Batches of worked examples that start models are fitted on.

Sums: part of the batches, fewer and fewer, are *drills*: single lines of worked examples, shuffled, with the
loss on what follows the equals sign only, since the arithmetic needs by far the most examples and a whole
solution holds few results a token. The whole worked examples begin with short ones in the order written, from
which a model learns to copy the terms, before the diverse ones come. What is left to improve is then mostly
the bookkeeping: which terms have been added already, and which way of solving keeps that simple.

Chains of operators: whole worked examples, right or with decoys, in the shares that the model is to have,
and right ones with the operators' small letters.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from math import prod

import torch
from transformers import PreTrainedTokenizerFast

from extra_trainer.rehearsal import operators
from extra_trainer.rehearsal.problems import stream_problems, worked_example
from extra_trainer.rehearsal.recipes import FitSettings, OperatorsFit, SumsFit
from extra_trainer.rehearsal.tokenizer import OPERATOR_CHARACTERS, SUM_CHARACTERS, make_tokenizer

#: Label of a token that is not learned.
IGNORED = -100
_EXAMPLES_AT_ONCE = 256
_LINES_PER_DRILL = 8
_EASY_TERMS = 4


@dataclass(frozen=True)
class FittingBatch:
    """Token ids and labels, both [sequences, tokens]; a label of -100 is not learned."""

    ids: torch.Tensor
    labels: torch.Tensor


# Token ids, and whether each is learned.
_Sequence = tuple[list[int], list[bool]]


def tokenizer_of(settings: FitSettings) -> PreTrainedTokenizerFast:
    """Return the tokenizer of the problems that a recipe fits."""
    return make_tokenizer(OPERATOR_CHARACTERS if isinstance(settings, OperatorsFit) else SUM_CHARACTERS)


def fitting_batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, settings: FitSettings
) -> Iterator[FittingBatch]:
    """Yield the batches of a recipe, one for each step, without end."""
    if isinstance(settings, OperatorsFit):
        return _operator_batches(tokenizer, seed, settings)
    assert isinstance(settings, SumsFit)
    return _sum_batches(tokenizer, seed, settings)


def _operator_batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, settings: OperatorsFit
) -> Iterator[FittingBatch]:
    rng = random.Random(seed)
    probabilities = operators.success_probabilities(settings.rarest)
    symbols = settings.answer_symbols or operators.LENGTH
    stream = operators.stream_problems("fitting", seed)
    while True:
        some = islice(stream, settings.examples_per_step)
        examples = [
            operators.known_example(problem, symbols)
            if rng.random() < settings.known_share
            else (
                problem.prompt,
                operators.worked_example(
                    problem,
                    rng,
                    probabilities,
                    settings.stray_share,
                    settings.noise_share or 0.0,
                    symbols,
                ),
            )
            for problem in some
        ]
        yield _batch(_whole(examples, tokenizer))


def _sum_batches(tokenizer: PreTrainedTokenizerFast, seed: int, settings: SumsFit) -> Iterator[FittingBatch]:
    """Yield batches of drills and of whole examples, easy ones first."""
    rng = random.Random(seed)
    stream = stream_problems("fitting", seed)
    step = 0
    while True:
        progress = step / settings.steps
        easy = progress < settings.easy_share
        some = list(islice((p for p in stream if not easy or len(p.terms) <= _EASY_TERMS), _EXAMPLES_AT_ONCE))
        examples = [
            (problem.prompt, worked_example(problem, rng, in_order=easy, slips=settings.slips))
            for problem in some
        ]
        drill = rng.random() < settings.drill_share * (1 - progress)
        sequences = _drills(examples, tokenizer, rng) if drill else _whole(examples, tokenizer)
        for batch in _packed(sequences, rng, settings.tokens_per_step):
            yield batch
            step += 1


def _packed(sequences: list[_Sequence], rng: random.Random, tokens_per_step: int) -> list[FittingBatch]:
    """Make batches of at most `tokens_per_step` tokens, of similar lengths to save padding."""
    batches: list[list[_Sequence]] = [[]]
    for sequence in sorted(sequences, key=lambda sequence: len(sequence[0])):
        if batches[-1] and (len(batches[-1]) + 1) * len(sequence[0]) > tokens_per_step:
            batches.append([])
        batches[-1].append(sequence)
    rng.shuffle(batches)
    return [_batch(some) for some in batches]


def _drills(
    examples: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast, rng: random.Random
) -> list[_Sequence]:
    """Make sequences of several one-operation lines; only results and corrections of slips are learned."""
    lines = [line for _, solution in examples for line in solution.split("\n")[:-1]]
    rng.shuffle(lines)
    lines = [line for line in lines if _ends_right(line)]
    tokens = [list(ids) for ids in tokenizer([f"{line}\n" for line in lines]).input_ids]
    drills: list[_Sequence] = []
    for start in range(0, len(tokens) - _LINES_PER_DRILL + 1, _LINES_PER_DRILL):
        some = slice(start, start + _LINES_PER_DRILL)
        learned = list(chain.from_iterable(map(_learned_of, lines[some])))
        drills.append((list(chain.from_iterable(tokens[some])), learned))
    return drills


def _ends_right(line: str) -> bool:
    operation, *_, result = line.split("=")
    return sum(prod(map(int, term.split("*"))) for term in operation.split("+")) == int(result)


def _learned_of(line: str) -> list[bool]:
    """Return whether each character of a line and its newline is learned; a wrong digit is not."""
    operation, *slipped, result = line.split("=")
    wrong = [[*[True] * (len(digits) - 1), False, True] for digits in slipped]
    return [False] * (len(operation) + 1) + list(chain.from_iterable(wrong)) + [True] * (len(result) + 1)


def _whole(examples: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> list[_Sequence]:
    """Make sequences of prompt and solution; only the solution and the end of text are learned."""
    prompts = tokenizer([prompt for prompt, _ in examples]).input_ids
    solutions = tokenizer([f"{solution}{tokenizer.eos_token}" for _, solution in examples]).input_ids
    return [
        (prompt + solution, [False] * len(prompt) + [True] * len(solution))
        for prompt, solution in zip(prompts, solutions, strict=True)
    ]


def _batch(sequences: list[_Sequence]) -> FittingBatch:
    """Pad on the right, where under a causal mask no token sees the padding."""
    width = max(len(ids) for ids, _ in sequences)
    ids = torch.zeros((len(sequences), width), dtype=torch.long)
    labels = torch.full((len(sequences), width), IGNORED)
    for row, (tokens, learned) in enumerate(sequences):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, : len(tokens)] = torch.where(torch.tensor(learned), torch.tensor(tokens), IGNORED)
    return FittingBatch(ids, labels)
