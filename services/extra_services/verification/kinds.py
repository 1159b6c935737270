r"""Tell apart answers whose values are the same, but not what they say of them.

`1 < x < 2` is a range, `x = 1, x = 2` and `x \in \{1, 2\}` are two values of one unknown, `x = 1, y = 2` is a
point. Read as mathematics they would all be 1 and 2. Bare values, `1, 2` and `(1, 2)`, may be each of them.
"""

import re

from extra_services.verification.listing import members, named, roots, tuple_members
from extra_services.verification.normalization import without_sizing

_BOUND = re.compile(
    r"[<>≤≥]|\\(?:le|ge|leq|geq|lt|gt|leqslant|geqslant|leqq|geqq)(?![a-zA-Z])"
    r"|(?:\\in(?![a-zA-Z])|∈)\s*[(\[\]]|\A\s*\][^\[\]]*\[\s*\Z"
)
_OR = re.compile(r"(?<![a-zA-Z\\])or(?![a-zA-Z])|\\(?:lor|vee)(?![a-zA-Z])|或")
_OF_A_SET = re.compile(r"\s*\\?[a-zA-Z](?:_\{?\w\}?)?\s*(?:\\in(?![a-zA-Z])|∈)\s*\\\{")
_BRACES = re.compile(r"\s*\\\{[^{}]*,[^{}]*\\\}\s*\Z")
_NAME_OF_A_POINT = re.compile(r"\s*\([^()=]*,[^()=]*\)\s*=\s*\(")
#: Something between brackets may be an interval.
_BRACKETS = re.compile(r"[(\[\])]|\\(?:cup|cap|emptyset|infty|mathbb)")
_LONGEST = 300


def contradict(found: str, gold: str) -> bool:
    """Return whether two answers certainly say different things of their values."""
    if max(len(found), len(gold)) > _LONGEST or not re.search(r"[,;]|or|and|\\pm|±|或", gold + found):
        return False
    found, gold = without_sizing(found), without_sizing(gold)
    mine, theirs = _kind(found), _kind(gold)
    if "range" in (mine, theirs):
        other = theirs if mine == "range" else mine
        return mine != theirs and other in ("values", "point", "list")
    if theirs == "point" or (tuple_members(gold) and not _OR.search(gold)):
        return mine == "values"
    return theirs == "values" and mine == "point"


def _kind(text: str) -> str:
    """Return "range", "values" (of one unknown), "point", "list" (bare values), or "" for anything else."""
    if _BOUND.search(text):
        return "range"
    if _OF_A_SET.match(text):
        return "values"
    if _NAME_OF_A_POINT.match(text):
        return "point"
    found = members(text)
    if len(found) < 2:
        return ""
    names = [pair[0] for pair in map(named, found) if pair]
    if roots(found):
        return "values"
    if _OR.search(text) or _BRACES.match(text) or _pm(text):
        return "values"
    if not names:
        return "" if _BRACKETS.search(text) else "list"
    if len(set(names)) == len(found):
        return "point"
    return "values" if len(set(names)) == 1 and named(found[0]) else ""


def _pm(text: str) -> bool:
    return "\\pm" in text or "±" in text
