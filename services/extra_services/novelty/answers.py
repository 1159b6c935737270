"""Answers as JSON: the form in which they are stored under an idempotency key and replayed."""

import base64
import json
from dataclasses import astuple
from typing import Any

import numpy as np

from extra_rl.vocabulary import NearestKind
from extra_services.errors import InvalidInput
from extra_services.novelty.request import AnswerCount, GroupAnswer, GroupScores, Nearest, Vectors


def encode(answers: list[GroupAnswer]) -> str:
    """Encode the answers, their novelties exactly."""
    return json.dumps([_encode(answer) for answer in answers])


def decode(text: str) -> list[GroupAnswer]:
    """Decode the answers that `encode` was given."""
    return [_decode(item) for item in json.loads(text)]


def _encode(answer: GroupAnswer) -> list[Any]:
    if isinstance(answer, InvalidInput):
        return [answer.field, answer.message]
    novelty = _floats(answer.novelty)
    nearest = [None if neighbour is None else astuple(neighbour) for neighbour in answer.nearest]
    counts = [answer.memory_before, answer.memory_after]
    given = [None if count is None else astuple(count) for count in answer.answer_counts]
    more = [answer.reward_variance, answer.vendi, answer.divisor]
    raw = None if answer.raw is None else _floats(answer.raw)
    texts = [answer.suspicious, answer.new_steps, raw]
    return [novelty, *counts, nearest, given, answer.correct, *more, *(texts if any(texts) else ())]


def _decode(item: list[Any]) -> GroupAnswer:
    if len(item) == 2:
        return InvalidInput(*item)
    novelty, before, after, nearest, given, correct, variance, vendi, divisor, *texts = item
    suspicious, new_steps, raw = texts or ([], [], None)
    neighbours = [None if neighbour is None else _nearest(*neighbour) for neighbour in nearest]
    counts = [None if count is None else AnswerCount(*count) for count in given]
    return GroupScores(
        _decoded_floats(novelty),
        before,
        after,
        neighbours,
        variance,
        vendi,
        divisor,
        counts,
        correct,
        suspicious,
        new_steps,
        None if raw is None else _decoded_floats(raw),
    )


def _floats(values: Vectors) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _decoded_floats(text: str) -> Vectors:
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


def _nearest(kind: str, number: int, excerpt: str, similarity: float) -> Nearest:
    return Nearest(NearestKind(kind), number, excerpt, similarity)
