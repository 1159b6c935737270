"""Decide one item in a worker process: everything that the fast path could not prove.

No error on the way is turned into WRONG. A reference answer that cannot be read is UNPARSEABLE on the
answer's side, a comparison that runs out of memory or stack is an ERROR, and WRONG means that both sides were
read and found different. There are no time limits here: the pool kills the whole process.
"""

import re
from fractions import Fraction
from typing import Any

import sympy

from extra_rl.vocabulary import Method, UnparseableSide, VerdictStatus
from extra_services.verification import custom, dates, forms, kinds, products, quick
from extra_services.verification.comparison import answers_equal
from extra_services.verification.families import Family, families_equal, family, is_plain
from extra_services.verification.latex import has_ellipsis, spoken_latex, without_delimiters
from extra_services.verification.listing import (
    assignments,
    in_order_of_names,
    members,
    roots,
    tuple_members,
    unordered,
    with_shared_unit,
)
from extra_services.verification.normalization import normalized, same_words, without_text_commands, words
from extra_services.verification.quick import SHOWN, Question
from extra_services.verification.reading import Readings, expression, read, too_large
from extra_services.verification.symbols import word_set
from extra_services.verification.timings import timed
from extra_services.verification.units import split_unit
from extra_services.verification.verdict import Verdict, VerificationItem

RULE = "math_verify"
#: Longest answer that is read as mathematics, in characters: some steps take time that grows with its square.
_LONGEST = 4000
_OPPOSITES = {"yes": "no", "no": "yes", "true": "false", "false": "true"}
#: Words that take back a yes or no.
_HEDGES = word_set(
    """
    or if unless otherwise except only maybe perhaps possibly sometimes depends not but
    """
)
#: "x = \\frac{\\pi}{3} + 2k\\pi": angles for all integers, although the answer does not say so.
_ANGLES = re.compile(r"\s*(?:x|t|\\theta|\\alpha)\s*=.*[kn]\s*\\pi")
#: A whole turn times a letter, "2\\pi n" or "2n\\pi".
_TURNS = re.compile(r"2\s*(?:\\pi\s*([kn])|([kn])\s*\\pi)(?![a-zA-Z])")
#: What "no" means once more, at the end.
_PLAIN_DENIAL = re.compile(
    r"\b(?:do(?:es)?\s+not\s+exist|(?:it|they|this|that|there)\s+(?:is|are|do|does|can)\s*not)[\s.}$]*\Z"
)
#: Mathematics for reference answers in words.
_IN_WORDS = {r"\emptyset": "no solution", r"\varnothing": "no solution", r"\{\}": "no solution"}


def judge(item: VerificationItem) -> Verdict:
    """Decide `item`, without a time limit."""
    if item.method is Method.CUSTOM:
        with timed("compare"):
            return custom.judge(item)
    asked = quick.question(item)
    return quick.decide(asked) or judge_question(asked)


def judge_question(asked: Question) -> Verdict:
    """Decide a question that the fast path left undecided, without a time limit."""
    try:
        return _read_and_compare(asked)
    except (MemoryError, RecursionError) as error:
        reason = f"{type(error).__name__}: the comparison is too large for this worker"
        return quick.described(asked)._replace(status=VerdictStatus.ERROR, rule=RULE, detail=reason)


def _read_and_compare(asked: Question) -> Verdict:
    blank = quick.described(asked)._replace(rule=RULE)
    response = asked.found or ""
    for side, text in ((UnparseableSide.ANSWER, asked.answer), (UnparseableSide.RESPONSE, response)):
        if len(text) > _LONGEST:
            return blank.unparseable(side, f"it has {len(text):,} characters, more than {_LONGEST:,}")
    gold_words = words(asked.answer)
    if gold_words is None and words(response):
        gold_words = _IN_WORDS.get(normalized(asked.answer))
    if gold_words:
        shown = blank._replace(rule="words", normalized_answer=gold_words)
        return _decided(shown, _means(response, gold_words))
    if kinds.contradict(response, asked.answer):
        return _decided(blank._replace(rule="kind"), False)
    if products.differ(response, asked.answer):
        return _decided(blank._replace(rule="product"), False)
    if products.order_unknown(response, asked.answer):
        text = "a product whose order matters can only be compared as written"
        return blank.unparseable(UnparseableSide.RESPONSE, text)
    if (equal := _by_form(asked)) is not None:
        return _decided(blank, equal)
    for side, text in ((UnparseableSide.ANSWER, asked.answer), (UnparseableSide.RESPONSE, response)):
        if too_large(text):
            return blank.unparseable(side, "its value is too large to be calculated")
    if has_ellipsis(asked.answer):
        return blank.unparseable(UnparseableSide.ANSWER, "an ellipsis can only be compared as written")
    if has_ellipsis(response):
        return blank.unparseable(UnparseableSide.RESPONSE, "an ellipsis can only be compared as written")
    with timed("parse"):
        readings = read(asked.answer, response, asked.options)
    if readings.gold is None:
        text = "the reference answer cannot be read as mathematics"
        return blank.unparseable(UnparseableSide.ANSWER, text)
    if readings.prediction is None:
        text = "the final answer cannot be read as mathematics"
        return blank.unparseable(UnparseableSide.RESPONSE, text)
    shown = blank._replace(
        normalized_response=str(readings.prediction)[:SHOWN],
        normalized_answer=str(readings.gold)[:SHOWN],
    )
    with timed("compare"):
        if asked.method is Method.NUMERIC:
            return _numeric(readings, asked, shown)
        return _decided(shown, any(answers_equal(gold, prediction) for gold, prediction in readings.pairs))


def _numeric(readings: Readings, asked: Question, shown: Verdict) -> Verdict:
    shown = shown._replace(rule="numeric")
    for gold, prediction in readings.pairs:
        right, left = _fraction(gold), _fraction(prediction)
        if right is None:
            text = "the reference answer is not a number"
            return shown._replace(rule=RULE).unparseable(UnparseableSide.ANSWER, text)
        if left is None:
            text = "the final answer is not a number"
            return shown._replace(rule=RULE).unparseable(UnparseableSide.RESPONSE, text)
        if quick.within_tolerance(left, right, asked.options):
            return _decided(shown, True)
    return _decided(shown, False)


def _fraction(value: Any) -> Fraction | None:
    if isinstance(value, sympy.Eq):
        value = value.rhs
    number = value.evalf(30) if isinstance(value, sympy.Expr) else sympy.nan
    return Fraction(str(number)) if number.is_Float or number.is_Integer else None


def _means(response: str, gold_words: str) -> bool:
    response_words = words(response) or _IN_WORDS.get(normalized(response))
    if gold_words in _OPPOSITES and response_words is None:
        plain = without_text_commands(response).casefold()
        said = re.findall(r"[a-z']+", _PLAIN_DENIAL.sub("", plain) if gold_words == "no" else plain)
        hedged = _OPPOSITES[gold_words] in said or not _HEDGES.isdisjoint(said)
        return bool(said) and said[0] == gold_words and not hedged
    return response_words is not None and same_words(response_words, gold_words)


def _by_form(asked: Question) -> bool | None:
    """Compare answers that are no expression (times, dates, ratios, lengths, lists), or return None."""
    response = asked.found or ""
    if gold_date := dates.date(asked.answer):
        date = dates.date(response)
        return date is not None and dates.same_date(gold_date, date)
    if gold_time := dates.clock(asked.answer):
        time = dates.clock(response)
        return dates.same_time(gold_time, time) if time else _written_alike(asked)
    gold_latex, latex = spoken_latex(asked.answer), spoken_latex(response)
    gold_terms, terms = forms.ratio(gold_latex), forms.ratio(latex)
    if (gold_terms and (len(gold_terms) > 2 or not latex)) or (terms and len(terms) > 2):
        return _ratios_equal(gold_terms, terms, asked)
    gold, found = without_delimiters(asked.answer), without_delimiters(response)
    if (equal := _parts_equal(gold, found, asked)) is not None:
        return equal
    if (equal := _approximations_equal(gold, found, asked)) is not None:
        return equal
    if (value := forms.twice(gold)) and _member_equal(*value, asked):
        return _member_equal(found, value[0], asked)
    if (equal := _figures_equal(gold, found)) is not None:
        return equal
    if (equal := _pieces_equal(gold, found, asked)) is not None:
        return equal
    if (equal := _sides_equal(gold, found, asked)) is not None:
        return equal
    if (equal := _congruent(gold, found, asked)) is not None:
        return equal
    if (equal := _families_equal(gold, found, asked)) is not None:
        return equal
    return _lists_equal(gold, found, asked)


def _parts_equal(gold: str, found: str, asked: Question) -> bool | None:
    """Compare the values of parts ("(a) 4 (b) 9") in their order; one side may leave out the labels."""
    golds, parts = forms.labelled(gold), forms.labelled(found)
    if golds is None and parts is None:
        return None
    equal = _in_order(golds or members(gold), parts or members(found), asked)
    return equal or (False if golds and parts else None)


def _approximations_equal(gold: str, found: str, asked: Question) -> bool | None:
    """Compare answers of which one states a value twice ("12/35, or about 0.343"); None if none does.

    A rounded value counts beside its exact one. A false one makes the answer wrong.
    """
    golds, values = forms.approximation(gold), forms.approximation(found)
    mine, theirs = _values(found, values), _values(gold, golds)
    if (golds is None and values is None) or mine is None or theirs is None:
        return None
    return any(_member_equal(value, wanted, asked) for value in mine for wanted in theirs)


def _values(text: str, stated: tuple[str, str, bool] | None) -> tuple[str, ...] | None:
    """Return the values of an answer: none if its second is false, None if they are no numbers."""
    if stated is None:
        return (text,)
    exact, other, may_be_rounded = stated
    if len({split_unit(side)[1] for side in (exact, other)} - {None}) > 1:
        return None
    sides = [expression(side.rpartition("=")[2]) for side in (exact, other)]
    left, right = (None if side is None or side.free_symbols else _fraction(side) for side in sides)
    if left is None or right is None:
        return None
    if not may_be_rounded:
        return (exact, other) if left == right else None
    unit = Fraction(1, 10 ** forms.decimals(other)) / (100 if "%" in other else 1)
    apart, share = abs(left - right), abs(left - right) / (abs(left) or 1)
    rounds = apart <= unit * Fraction("0.5000001") or 0 <= abs(left) - abs(right) < unit
    if not rounds and share > Fraction(1, 100):
        return ()
    return (exact, other) if rounds and share <= Fraction(1, 50) else (exact,)


def _figures_equal(gold: str, found: str) -> bool | None:
    """Compare the names of two angles, triangles, segments or vectors; None if one side is something else."""
    mine, theirs = forms.figure(found), forms.figure(gold)
    if mine is None or theirs is None or mine[0] == theirs[0] == "letters":
        return None
    kinds = {mine[0], theirs[0]}
    if "letters" in kinds and kinds != {"angle", "letters"}:
        return None
    return mine[1] == theirs[1] and (len(kinds) == 1 or "letters" in kinds)


def _pieces_equal(gold: str, found: str, asked: Question) -> bool | None:
    """Compare two definitions by cases, piece by piece: the same values under the same conditions."""
    golds, left = forms.pieces(gold), forms.pieces(found)
    if golds is None or left is None:
        return False if golds and r"\begin" not in found else None
    if len(golds) != len(left):
        return False
    for value, condition in golds:
        piece = next(
            (
                piece
                for piece in left
                if _member_equal(piece[0], value, asked) and _same_condition(piece[1], condition, asked)
            ),
            None,
        )
        if piece is None:
            return False
        left.remove(piece)
    return True


def _same_condition(found: str, gold: str, asked: Question) -> bool:
    return found == gold or (bool(found and gold) and _member_equal(found, gold, asked))


def _sides_equal(gold: str, found: str, asked: Question) -> bool | None:
    """Compare lengths of sides ("9 ft by 20 ft"), in any order where they have units."""
    golds, sides = forms.sides(gold), forms.sides(found)
    measured = golds is not None and all(split_unit(side)[1] for side in golds[0])
    if not measured and not any(side and side[1] for side in (golds, sides)):
        return None
    if golds is None or sides is None:
        return False
    return (_members_equal if measured else _in_order)(golds[0], sides[0], asked)


def _congruent(gold: str, found: str, asked: Question) -> bool | None:
    """Compare two congruences: unknown and modulus are the same, residues differ by multiples of it."""
    golds, parts = forms.congruence(gold), forms.congruence(found)
    if bool(golds) != bool(parts):  # "3 \\pmod 5" leaves out the unknown
        golds = golds or forms.residue(gold, parts)
        parts = parts or forms.residue(found, golds)
    if golds is None or parts is None:
        return False if golds and forms.has_modulus(found) else None
    if not all(_member_equal(parts[index], golds[index], asked) for index in (0, 2)):
        return False
    modulus = int(golds[2]) if golds[2].isdigit() else 0
    residues, gold_residues = (
        [
            str(int("".join(each.split())) % modulus) if modulus and re.fullmatch(r"-?\s?\d+", each) else each
            for each in members(side)
        ]
        for side in (parts[1], golds[1])
    )
    return _members_equal(gold_residues, residues, asked)


def _families_equal(gold: str, found: str, asked: Question) -> bool | None:
    r"""Compare families of values ("2k\pi, k \in \mathbb{Z}"); one side may leave out what its index is."""
    golds = family(gold) or _angles(gold, found)
    letters = (golds.index, *"knml") if golds else ("", *("kn" if _ANGLES.match(gold) else ""))
    parts = next(filter(None, (family(found, letter) for letter in letters)), None)
    golds = golds or (family(gold, parts.index) if parts else None)
    if golds is None or parts is None:
        return None
    parts = parts.with_index(golds.index)
    if not (is_plain(golds) and is_plain(parts)):
        return _members_equal(list(golds.bodies), list(parts.bodies), asked)
    values = [expression(body) for body in (*golds.bodies, *parts.bodies)]
    found_values = [value for value in values if value is not None]
    index = next((s for value in found_values for s in value.free_symbols if str(s) == golds.index), None)
    if len(found_values) < len(values) or index is None:
        return None
    count = len(golds.bodies)
    negative = golds.negative and parts.negative
    return families_equal(found_values[:count], found_values[count:], index, negative)


def _angles(gold: str, found: str) -> Family | None:
    r"""Return "\frac{\pi}{6} + 2\pi n" as a family, if the response has another index or says what it is."""
    turns = _TURNS.search(gold)
    letter = (turns[1] or turns[2]) if turns else ""
    return (
        family(gold, letter)
        if turns and (family(found) or not re.search(rf"{letter}(?![a-z])", found))
        else None
    )


def _written_alike(asked: Question) -> bool | None:
    """Return None for a product that only looks like a time ("5am" and "5ma"), False for anything else."""
    return None if asked.answer.strip("$ ").isalnum() and not (asked.found or "").isdigit() else False


def _ratios_equal(gold: list[str] | None, terms: list[str] | None, asked: Question) -> bool:
    if gold is None or terms is None or len(gold) != len(terms):
        return False
    crossed = [
        (rf"({mine}) \cdot ({gold[0]})", rf"({theirs}) \cdot ({terms[0]})")
        for mine, theirs in zip(terms[1:], gold[1:], strict=True)
    ]
    return all(_member_equal(mine, theirs, asked) for mine, theirs in crossed)


def _lists_equal(gold: str, found: str, asked: Question) -> bool | None:
    """Compare two lists member by member, or return None if they have to be read as a whole."""
    golds, parts = assignments(members(gold)), assignments(members(found))
    if len(golds) == len(parts) == 1:
        return _named_points_equal(golds[0], parts[0], asked)
    solved = roots(golds)
    if solved and (others := unordered(found, parts, solved[0])):
        return _members_equal(solved[1], others, asked)
    values, found_values = in_order_of_names(golds), in_order_of_names(parts)
    if values and not found_values:
        # Bare values count in the order of the names.
        coordinates = tuple_members(parts[0]) if len(parts) == 1 else parts
        return (
            _in_order(values, coordinates, asked) if coordinates and len(coordinates) == len(values) else None
        )
    if found_values and len(golds) == 1 and (coordinates := tuple_members(golds[0])):
        return _in_order(coordinates, found_values, asked)
    if len(golds) != len(parts):
        return None
    equal = _members_equal(with_shared_unit(golds), with_shared_unit(parts), asked)
    return equal or (False if values and found_values else None)


def _named_points_equal(gold: str, found: str, asked: Question) -> bool | None:
    """Compare "A(1, 2)" with "(1, 2)"; None if both or none have a name."""
    named, other = forms.point(gold), forms.point(found)
    if bool(named) == bool(other) or not (tuple_members(gold) or tuple_members(found)):
        return None
    return _member_equal(other[1] if other else found, named[1] if named else gold, asked)


def _in_order(golds: list[str], found: list[str], asked: Question) -> bool:
    return len(golds) == len(found) and all(
        _member_equal(mine, gold, asked) for mine, gold in zip(found, golds, strict=True)
    )


def _members_equal(golds: list[str], found: list[str], asked: Question) -> bool:
    """Return whether each member of one list has its own partner in the other."""
    left = list(found)
    for gold in golds:
        partner = next((member for member in left if _member_equal(member, gold, asked)), None)
        if partner is None:
            return False
        left.remove(partner)
    return not left


def _member_equal(found: str, gold: str, asked: Question) -> bool:
    member = Question(found, gold, Method.MATH, asked.options)
    return (quick.decide(member) or judge_question(member)).status is VerdictStatus.CORRECT


def _decided(shown: Verdict, equal: bool) -> Verdict:
    return shown._replace(status=VerdictStatus.CORRECT if equal else VerdictStatus.WRONG)
