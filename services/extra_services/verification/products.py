r"""Products whose order or kind matters: of vectors and matrices, and the letters of a word.

latex2sympy reads "\vec a \times \vec b" and "\vec b \cdot \vec a", AB^{-1} and B^{-1}A, HTH and HHT alike: as
products of numbers. Here they are told apart by how they are written.
"""

import re

from extra_services.verification.normalization import unwrapped, without_sizing, without_text_commands

_VECTOR = re.compile(r"\\(?:vec|overrightarrow|mathbf|boldsymbol|bm|nabla|hat)(?![a-zA-Z])")
#: A cross product, not a number's: "3 \times 10^8".
_CROSS = re.compile(r"\\times(?![a-zA-Z])(?!\s*\d)|×(?!\s*\d)")
_LAYOUT = re.compile(r"\\(?:left|right|cdot|times|,|;|!| )|[\s{}$]")
_INVERSE = r"\s*\^\s*\{?\s*(?:-\s*1|T|\\top|\\dagger)\s*\}?"
#: ABA^{-1}, A^{-1}BA, A^{-1}B, AB^{-1}, A \times B and AB - BA.
_NOT_COMMUTING = re.compile(
    rf"""
    (?<![a-zA-Z\\]) (?:
      ([a-zA-Z]) \s* \\?[a-zA-Z]{{1,9}} \s* \1 {_INVERSE}
    | ([a-zA-Z]) {_INVERSE} \s* \\?[a-zA-Z]{{1,9}} \s* \2 (?![a-zA-Z])
    | [A-Z] {_INVERSE} \s* [A-Z]
    | [A-Z] \s* [A-Z] {_INVERSE}
    | [A-Z] \s* \\times \s* [A-Z] (?![a-zA-Z])
    | ([A-Z]) ([A-Z]) \s* - \s* \4\3 (?![a-zA-Z])
    )
    """,
    re.VERBOSE,
)
#: "8 J K^{-1}" has a unit.
_QUANTITY = re.compile(r"\s*-?\d")
_WORD = re.compile(r"[A-Z]{3,12}|[IVXL]{2}")
_SEGMENT = re.compile(r"(?<![a-zA-Z\\])[A-Z]{2}(?![a-zA-Z])")


def differ(found: str, gold: str) -> bool:
    """Return whether two products whose order or kind matters certainly differ."""
    mine, theirs = _word(found), _word(gold)
    if mine and theirs:
        return mine != theirs
    segments = _segments(found), _segments(gold)
    if len(segments[0]) == len(segments[1]) > 1:
        return segments[0] != segments[1]
    vectors = _VECTOR.search(gold) or _VECTOR.search(found)
    return bool(vectors) and len(_CROSS.findall(gold)) != len(_CROSS.findall(found))


def order_unknown(found: str, gold: str) -> bool:
    """Return whether two products may differ in an order of factors that matters, which is not understood."""
    ordered = _NOT_COMMUTING.search(gold) and not _QUANTITY.match(gold)
    crossed = _VECTOR.search(gold) and _CROSS.search(gold)
    return bool(ordered or crossed) and _LAYOUT.sub("", found) != _LAYOUT.sub("", gold)


def _segments(text: str) -> list[str]:
    """Return the segments that a text names by their ends (AB, CD), each in the order of the alphabet."""
    return sorted("".join(sorted(name)) for name in _SEGMENT.findall(text))


def _word(text: str) -> str | None:
    r"""Return the letters of "HTH" or "\text{XIV}", which are no product; None for anything else."""
    plain = unwrapped(without_text_commands(without_sizing(text))).strip()
    return plain if _WORD.fullmatch(plain) else None
