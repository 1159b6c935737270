"""The fast path: the answers that it proves, and those that it leaves to the workers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extra_rl.vocabulary import UnparseableSide, VerdictStatus
from extra_services.verification import quick
from extra_services.verification.extraction import boxes, final_answer
from extra_services.verification.verdict import VerificationItem


def _decide(response: str, answer: str) -> VerdictStatus | None:
    verdict = quick.decide(quick.question(VerificationItem(response, answer)))
    return verdict.status if verdict else None


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{26}", "26"),
        (r"first \boxed{3}, then \boxed{26}.", "26"),
        (r"\boxed{\boxed{26}}", "26"),
        (r"\boxed{x = \boxed{26}}", "x=26"),
        (r"\boxed{\dfrac{1}{2}}", "1/2"),
        (r"\boxed{\frac12}", "0.5"),
        (r"\boxed{-\frac{3}{6}}", "-1/2"),
        (r"\boxed{2 \cdot 13}", "26"),
        (r"\boxed{10\%}", "0.1"),
        (r"\boxed{3,1,2}", "1,2,3"),
        (r"\boxed{1,234}", "1234"),
        (r"\boxed{26.00}", "26"),
        ("work\n#### 26", "26"),
        ("work\nA: 26", "26"),
        ("The final answer is $26$.", "26"),
        ("**Answer:** 26", "26"),
        ("答案是：26。", "26"),
        (r"\boxed{２６}", "26"),
        (r"\boxed{\text{no solution}}", "no solution"),
        (r"\boxed{26}", "Steps.\n#### 26"),
        (r"\boxed{\left( 3, \frac{\pi}{2} \right)}", r"(3,\frac{\pi}{2})"),
    ],
)
def test_equal_answers_are_proved_correct(response: str, answer: str) -> None:
    assert _decide(response, answer) is VerdictStatus.CORRECT


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{27}", "26"),
        (r"\boxed{-26}", "26"),
        (r"\boxed{\frac{1}{3}}", "0.33"),
        ("A: 26", "18"),
        (r"\boxed{1,234}", "1235"),
        (r"\boxed{2\sqrt{3}+x}", r"2\sqrt{3}-x"),
        (r"\boxed{(3,5]}", "(3,4]"),
        (r"\boxed{1,2,4}", "1,2,3"),
        (r"\boxed{26} and then \boxed{27}", "26"),
    ],
)
def test_different_plain_numbers_are_proved_wrong(response: str, answer: str) -> None:
    assert _decide(response, answer) is VerdictStatus.WRONG


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{0.333333}", "1/3"),
        (r"\boxed{x+1}", "1+x"),
        (r"\boxed{1/2x}", "x/2"),
        (r"\boxed{f(x)}", "x"),
        (r"\boxed{5 m}", "500 cm"),
        (r"\boxed{1/0}", "26"),
    ],
)
def test_what_it_cannot_prove_is_left_undecided(response: str, answer: str) -> None:
    assert _decide(response, answer) is None


@pytest.mark.parametrize("response", ["", "I do not know", r"\boxed{}", r"cut off in the box: \boxed{26"])
def test_no_final_answer_is_unparseable_and_not_wrong(response: str) -> None:
    verdict = quick.decide(quick.question(VerificationItem(response, "26")))
    assert verdict is not None
    assert (verdict.status, verdict.side) == (VerdictStatus.UNPARSEABLE, UnparseableSide.RESPONSE)


@given(st.integers(), st.integers())
def test_integers_are_equal_exactly_if_they_are(left: int, right: int) -> None:
    expected = VerdictStatus.CORRECT if left == right else VerdictStatus.WRONG
    assert _decide(rf"\boxed{{{left}}}", str(right)) is expected


@given(st.fractions(), st.integers(min_value=1, max_value=50))
def test_a_fraction_equals_itself_expanded(value, factor: int) -> None:  # type: ignore[no-untyped-def]
    expanded = rf"\frac{{{value.numerator * factor}}}{{{value.denominator * factor}}}"
    assert _decide(rf"\boxed{{{expanded}}}", str(value)) is VerdictStatus.CORRECT


@given(st.text(alphabet="{}\\boxed 1", max_size=60))
def test_boxes_are_balanced_and_occur_in_the_text(text: str) -> None:
    for content in boxes(text):
        assert content in text
    final_answer(text)
