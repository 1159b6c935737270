r"""Nothing whose meaning was changed is accepted, and nothing that is only written otherwise is refused.

The answers are the references of the labelled cases and of a benchmark; the edits and the sentences
around them are in `support.meaning_edits` and `tests/data/verification_edits.json`. So a fault of a kind
shows with some answer although nobody has thought of that one. Plain runs take every twelfth answer, `-m
slow` all of them.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from extra_services.verification import box_words, commitment, extraction
from extra_services.verification.extraction import boxes, final_answer
from extra_services.verification.judge import judge
from extra_services.verification.verdict import VerificationItem
from support.meaning_edits import TABLES, changed, changed_words, kept

DATA = Path(__file__).resolve().parents[1] / "data"
_FILES = ("verification_cases.jsonl", "verification_families.jsonl", "public/math500.jsonl")
#: Values and others, for the sentences.
_VALUES = (
    ("12", "13"), ("-7", "8"), (r"\frac{3}{4}", r"\frac{5}{4}"), ("x^2+1", "x^2-1"), ("(2,5)", "(2,6)")
)  # fmt: skip
_INTEGERS = ("7", "-12", "128", "84000")
_IN_FORMULAS = re.compile(r"\$[^$]*\$|\\\[.*?\\\]", re.DOTALL)
_EVERY = 12
_PLAIN = pytest.param(_EVERY, id="some")
_ALL = pytest.param(1, id="all", marks=pytest.mark.slow)


def _status(response: str, answer: str) -> str:
    return str(judge(VerificationItem(response, answer)).status)


def _boxed(answer: str) -> str:
    return rf"\boxed{{{answer}}}" if answer.startswith(("$", "\\(")) else rf"$\boxed{{{answer}}}$"


@cache
def _answers() -> tuple[str, ...]:
    rows = (json.loads(line) for name in _FILES for line in (DATA / name).read_text("utf-8").splitlines())
    plain = (
        row["answer"].strip().strip("$")
        for row in rows
        if row.get("method", "math") == "math" and not row.get("convention")
    )
    return tuple(
        answer
        for answer in dict.fromkeys(plain)
        if 0 < len(answer) < 120
        and not ("$" in answer or "\\boxed" in answer or "^{10^" in answer)
        and (answer in _INTEGERS or not re.fullmatch(r"-?\d+", answer))
    )


def _read(every: int) -> Iterator[str]:
    """Yield every so manieth answer that is accepted as it is."""
    for answer in (*_INTEGERS, *_answers()[::every]):
        if _status(_boxed(answer), answer) == "correct":
            yield answer


@pytest.mark.parametrize("every", [_PLAIN, _ALL])
def test_an_answer_with_another_meaning_is_not_accepted(every: int) -> None:
    edited = [(answer, *edit) for answer in _read(every) for edit in changed(answer)]
    assert len(edited) > 500
    assert [each for each in edited if _status(_boxed(each[2]), each[0]) == "correct"] == []


@pytest.mark.parametrize("every", [_PLAIN, _ALL])
def test_an_answer_in_another_spelling_is_accepted(every: int) -> None:
    spelled = [(answer, other) for answer in _read(every) for other in kept(answer)]
    assert len(spelled) > 500
    assert [each for each in spelled if _status(_boxed(each[1]), each[0]) != "correct"] == []


def test_answers_that_look_alike_are_different() -> None:
    pairs = [(answer, other) for answer, others in TABLES["other_answers"].items() for other in others]
    assert [each for each in pairs if _status(_boxed(each[1]), each[0]) == "correct"] == []


def test_words_that_change_a_number_are_never_ignored() -> None:
    said = [(answer, text) for answer in _INTEGERS for text in changed_words(answer)]
    assert [each for each in said if _status(each[1], each[0]) == "correct"] == []


def _sentences(templates: list[str]) -> Iterator[tuple[str, str]]:
    """Yield responses with each value; formulas only where the sentence has them between delimiters."""
    for template in templates:
        prose = _IN_FORMULAS.sub("", template).replace("####", "")
        for value, other in _VALUES:
            if value.lstrip("-").isdigit() or not ("@" in prose or "#" in prose or "x^2 =" in template):
                marked = template.replace("####", "\0").replace("@", value).replace("#0", "777")
                yield marked.replace("#", other).replace("\0", "####"), value


def test_a_sentence_that_does_not_answer_with_the_value_is_not_accepted() -> None:
    said = [
        *_sentences(TABLES["wrong_sentences"]),
        *((text, "12") for text in TABLES["wrong_with_12"]),
    ]
    assert [each for each in said if _status(*each) == "correct"] == []


def test_a_sentence_that_answers_with_the_value_is_accepted() -> None:
    said = [
        (template.replace("@", value), value)
        for template in TABLES["right_sentences"]
        for value, _ in _VALUES
    ] + [(text, "12") for text in TABLES["right_with_12"]]
    assert [each for each in said if _status(*each) != "correct"] == []


def test_the_quick_looks_miss_nothing_that_the_patterns_find(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    families = (DATA / "verification_families.jsonl").read_text("utf-8").splitlines()
    templates = [*TABLES["wrong_sentences"], *TABLES["right_sentences"]]
    texts = [text for text, _ in _sentences(templates)] + [json.loads(line)["response"] for line in families]
    texts += [*TABLES["wrong_with_12"], *TABLES["right_with_12"]]
    quick = [final_answer(text) for text in texts]
    monkeypatch.setattr(commitment, "_says_more", lambda *_: True)
    monkeypatch.setattr(commitment, "_may_withdraw", lambda *_: True)
    monkeypatch.setattr(extraction, "_fills_its_formula", lambda *_: False)
    monkeypatch.setattr(
        commitment, "_change_before", lambda *within: box_words.CHANGED_BEFORE.search(*within)
    )
    slow = [final_answer(text) for text in texts]
    assert [text for text, one, other in zip(texts, quick, slow, strict=True) if one != other] == []


def test_written_solutions_answer_with_their_last_box() -> None:
    """552 solutions in many styles, so that words beside a box are not taken for a denial too easily."""
    texts = [
        text
        for line in (DATA / "novelty_problems.jsonl").read_text("utf-8").splitlines()
        for text in json.loads(line)["texts"].values()
    ]
    found = [(text, final_answer(text)) for text in texts]
    assert [text for text, answer in found if answer is None or answer.text != boxes(text)[-1].strip()] == []
