r"""Known errors of math-verify 0.9.0, by issue number: our verdicts must be right.

Each row has a response's final answer, the reference answer, and the right verdict. If math-verify's own
example compares two formulas, the second one is the prediction.
"""

import re
from pathlib import Path

import math_verify
import pytest

from extra_rl.vocabulary import UnparseableSide, VerdictStatus
from extra_services.verification.judge import judge
from extra_services.verification.verdict import ComparisonOptions, VerificationItem

C, W = VerdictStatus.CORRECT, VerdictStatus.WRONG


def _verdict(response: str, answer: str, options: ComparisonOptions | None = None) -> VerdictStatus:
    return judge(VerificationItem(response, answer, options=options or ComparisonOptions())).status


@pytest.mark.parametrize(
    ("prediction", "answer", "status"),
    [
        (r"\frac{1}{2006!}", r"\frac{1}{2004!}", W),
        (r"\frac{1}{2004!}", r"\frac{1}{2004!}", C),
        (r"\frac{2005 \cdot 2006}{2006!}", r"\frac{1}{2004!}", C),
        (r"\frac{1}{2^{98}}", r"\frac{1}{2^{99}}", W),
        (r"(\frac{1}{2006!}, 1)", r"(\frac{1}{2004!}, 1)", W),
        ("n=1, 2, 3", "n=2, 3, 4", W),
        ("n=4, 3, 2", "n=2, 3, 4", C),
        ("D = (0, 1.5)", "D = (0, 1)", W),
        (r"F_n = \sum_{k=0}^{n-2} F_k F_{n-k-2}", r"F_n = \sum_{k=0}^{n-1} F_k F_{n-k-1}", W),
        ("21, 36, and 82", r"19, 46, \text{ and } 82", W),
        (r"\frac{1}{3 \cdot 2^{2006}}", r"\frac{2^{2005}+1}{3 \cdot 2^{2006}}", W),
        (r"1 + \frac{1}{\mathrm{e}}", r"1 - \frac{1}{\mathrm{e}}", W),
        (r"\frac{e-1}{e}", r"1 - \frac{1}{\mathrm{e}}", C),
        ("2021", r"\pm 2021", W),
        ("1:00", "12:00", W),
        ("12:00", "12:00", C),
    ],
)
def test_issue_14_small_numbers_and_assigned_sets_keep_their_difference(
    prediction: str, answer: str, status: VerdictStatus
) -> None:
    assert _verdict(rf"\boxed{{{prediction}}}", answer) is status


def test_issue_14_an_ellipsis_is_unreadable_and_not_compared() -> None:
    verdict = judge(VerificationItem(r"\boxed{1, 3, 5, \ldots, 2n-1}", r"1, 2, \ldots, n"))
    assert (verdict.status, verdict.side) == (VerdictStatus.UNPARSEABLE, UnparseableSide.ANSWER)


@pytest.mark.parametrize(
    ("response", "answer", "status"),
    [
        (r"\boxed{4\sqrt(2)}", "4", W),
        (r"The answer is $4\sqrt(2)$", "$4$", W),
        (r"\boxed{4\sqrt(2)}", r"4\sqrt{2}", C),
    ],
)
def test_issue_41_an_unreadable_root_is_not_cut_down_to_its_factor(
    response: str, answer: str, status: VerdictStatus
) -> None:
    assert _verdict(response, answer) is status


@pytest.mark.parametrize(
    ("response", "answer", "status"),
    [
        (r"therefore\boxed{840}., but let me explain. **Final Answer** \boxed{840}", "840", C),
        (r"should be \boxed{004}. So, \boxed{004} is it. **Final Answer** \boxed{004}", "4", C),
        (r"\boxed{35 cm} ++++++ \boxed{4}", "4", C),
        (r"\boxed{35 cm} ++++++ \boxed{4}", "35", W),
        (r"\boxed{1}, \boxed{2}", "2", W),  # two values, of which one may be a guess
        (r"\boxed{1}, \boxed{2}", "1,2", C),
        (r"\boxed{1}. Much later, after a check: \boxed{2}", "1,2", W),
    ],
)
def test_issue_57_boxes_are_one_list_only_if_they_are_together(
    response: str, answer: str, status: VerdictStatus
) -> None:
    assert _verdict(response, answer) is status


@pytest.mark.parametrize(
    ("response", "answer", "status"),
    [
        ("3x + 4y + 14=0", "3*x-1*y+13=0", W),
        (r"\boxed{3x + 4y + 14=0}", "3*x-1*y+13=0", W),
        (r"\boxed{6x - 2y + 26 = 0}", "3*x-1*y+13=0", C),
        (r"\boxed{y = 3x + 13}", "3*x-1*y+13=0", C),
        (r"\boxed{f(x) = 1}", "f(x) = 0", W),
    ],
)
def test_issue_60_plain_equations_are_read_as_equations(
    response: str, answer: str, status: VerdictStatus
) -> None:
    assert _verdict(response, answer) is status


@pytest.mark.parametrize(
    ("response", "answer", "status"),
    [
        ("-1 + exp(16)", "e^{16} - 1", C),
        ("pi/2", r"\dfrac{\pi}{2}", C),
        (r"\boxed{pi/2}", r"\dfrac{\pi}{2}", C),
        (r"\boxed{14.0 + -1.0i}", "14 - i", C),
        (r"\boxed{-2*pi}", r"-2\pi", C),
        (r"\boxed{exp(17)}", "e^{16}", W),
        (r"\boxed{pi/3}", r"\dfrac{\pi}{2}", W),
    ],
)
def test_issue_69_predictions_in_plain_text_are_read(
    response: str, answer: str, status: VerdictStatus
) -> None:
    assert _verdict(response, answer) is status


@pytest.mark.parametrize(
    ("prediction", "answer", "status"),
    [
        ("9/7", r"\dfrac{9}{7}", C),
        (r"\frac{18}{14}", r"\dfrac{9}{7}", C),
        ("8/7", r"\dfrac{9}{7}", W),
        (r"(3, \frac{2\pi}{3})", r"\left( 3, \frac{\pi}{2} \right)", W),
        (r"(3, \pi/2)", r"\left( 3, \frac{\pi}{2} \right)", C),
    ],
)
def test_issue_70_bare_latex_is_a_reference_answer(
    prediction: str, answer: str, status: VerdictStatus
) -> None:
    assert _verdict(rf"\boxed{{{prediction}}}", answer) is status


def test_a_chinese_measure_word_does_not_make_a_number_unreadable() -> None:
    assert _verdict(r"\boxed{3个}", "3") is C
    assert _verdict(r"\boxed{3个}", "4") is W


@pytest.mark.parametrize(
    ("prediction", "answer", "lenient", "strict"),
    [
        (r"45^\circ", r"\frac{\pi}{4}", C, C),
        (r"45^\circ", "45", C, W),
        ("45", r"45^\circ", C, W),
        (r"\pi/4", r"45^\circ", C, C),
        ("45 degrees", r"45^\circ", C, C),
        (r"44^\circ", r"\frac{\pi}{4}", W, W),
        (r"45^\circ", r"45^\circ", C, C),
    ],
)
def test_degrees_equal_radians_and_by_default_bare_numbers(
    prediction: str, answer: str, lenient: VerdictStatus, strict: VerdictStatus
) -> None:
    assert _verdict(rf"\boxed{{{prediction}}}", answer) is lenient
    assert _verdict(rf"\boxed{{{prediction}}}", answer, ComparisonOptions(strict_degrees=True)) is strict


@pytest.mark.parametrize(
    ("prediction", "answer", "lenient", "strict"),
    [
        (r"10\%", "10", C, W),
        (r"10\%", "0.1", C, C),
        ("10", r"10\%", C, W),
        (r"\frac{1}{10}", r"10\%", C, C),
        (r"10\%", r"1000\%", W, W),
        (r"10\%", r"10\%", C, C),
        ("11", r"10\%", W, W),
    ],
)
def test_percent_is_a_hundredth_and_by_default_also_a_bare_number(
    prediction: str, answer: str, lenient: VerdictStatus, strict: VerdictStatus
) -> None:
    assert _verdict(rf"\boxed{{{prediction}}}", answer) is lenient
    assert _verdict(rf"\boxed{{{prediction}}}", answer, ComparisonOptions(strict_percent=True)) is strict


def test_a_box_in_a_box_is_one_answer() -> None:
    assert _verdict(r"\boxed{\boxed{5}}", "5") is C
    assert _verdict(r"\boxed{x = \boxed{5}}", "5") is C


@pytest.mark.parametrize(
    ("prediction", "answer", "status"),
    [
        (r"\frac{1}{\sqrt{n}}", r"\sqrt{1/n}", C),  # issue 64
        (r"\text{13}", "13", C),  # issue 37
        ("1331", "1331 and 1728", W),  # issue 47
        (r"\gamma+1", r"\gamma+2", W),  # latex2sympy reads both as 1
        (r"\alpha t", r"\alpha", W),  # the t was taken for a unit
        (r"2\pi r h", r"2\pi r", W),
        ("2(3)", "5", W),  # read as 2 + 3
        ("12 345", "357", W),  # read as 12 + 345
        ("3.84e35", "3.83e35", W),
    ],
)
def test_other_silent_misreadings_are_not_repeated(
    prediction: str, answer: str, status: VerdictStatus
) -> None:
    assert _verdict(rf"\boxed{{{prediction}}}", answer) is status


def test_issue_76_a_bold_answer_is_read_without_its_stars() -> None:
    assert _verdict("all four is **73**.\n\n---\n\n✅ Final Answer: **73**", "73") is C


DOCUMENTED = Path(__file__).resolve().parents[2] / "docs" / "math-verify-errors.md"
ROWS = re.findall(
    r"^\| [^|`]+ \| `(.+?)` \| `(.+?)` \| [^|]+ \|$", DOCUMENTED.read_text("utf-8"), re.MULTILINE
)


def test_every_documented_error_is_tested() -> None:
    assert len(ROWS) == DOCUMENTED.read_text("utf-8").count("\n| ") - 2


@pytest.mark.parametrize(("answer", "response"), ROWS)
def test_documented_errors_are_errors_there_and_not_here(answer: str, response: str) -> None:
    accepted = math_verify.verify(math_verify.parse(answer), math_verify.parse(response))
    assert (_verdict(response, answer) is C) is not accepted
