"""References: missing values, numbers as their exact text, and invalid text."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from extra_client import _verification
from extra_rl.references import InvalidReference, answer_of, is_missing, reference_texts, shown_answer
from extra_rl.v1 import verification_pb2 as pb

MISSING: list[Any] = [
    None,
    float("nan"),
    np.float64("nan"),
    Decimal("nan"),
    "None",
    "nan",
    "",
    " ",
    [],
    (),
    "[]",
]


@pytest.mark.parametrize("value", [*MISSING, r"\boxed{None}", "$nan$", np.array([])])
def test_a_missing_value_is_no_reference(value: Any) -> None:
    assert is_missing(value)
    with pytest.raises(InvalidReference, match="is missing"):
        reference_texts(value)
    with pytest.raises(InvalidReference, match=r"\[1\] "):
        reference_texts(["1", value])


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("none", ["none"]), (7, ["7"]), (2**70, [str(2**70)]), (0.1, ["0.1"]), (1e-5, ["0.00001"]),
        (Decimal("1.50"), ["1.50"]), (Fraction(1, 3), ["1/3"]), (np.int64(4), ["4"]),
        ([1, "2", 0.5], ["1", "2", "0.5"]), (np.array([1, 2]), ["1", "2"]),
        ({"assert": "x"}, ['{"assert": "x"}']),
    ],
)  # fmt: skip
def test_a_reference_becomes_exact_text(value: Any, texts: list[str]) -> None:
    assert reference_texts(value) == texts


def test_an_answer_is_one_text_or_several() -> None:
    assert [answer_of(texts) for texts in ("1", ["1"], ["1", "2"])] == ["1", "1", ("1", "2")]
    assert [shown_answer(answer) for answer in ("1", ("1", "2"))] == ["1", "1 | 2"]


def test_an_item_that_cannot_be_sent_keeps_its_place_and_names_its_index() -> None:
    responses: list[Any] = ["1", "half \ud83d", None, "1" * (2**22 + 1), "1", "1"]
    answers: list[Any] = ["1", "1", "1", "1", None, "\ud83d"]
    request: Any = _verification.verify(responses, answers, "math", None, None).request
    sides = [item.invalid.unparseable_side for item in request.items]
    assert [item.HasField("invalid") for item in request.items] == [False, True, True, True, True, True]
    assert sides == [
        0, pb.UNPARSEABLE_SIDE_RESPONSE, 0, 0, pb.UNPARSEABLE_SIDE_ANSWER, pb.UNPARSEABLE_SIDE_ANSWER,
    ]  # fmt: skip
    assert [f"[{index}]" in request.items[index].invalid.detail for index in range(1, 6)] == [True] * 5
