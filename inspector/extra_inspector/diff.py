"""The difference between two texts, word by word and line by line."""

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

WORD = re.compile(r"\s|\w+|[^\w\s]")
#: Longer texts, in words of both, are compared by lines: the time grows with the square of the number.
MOST_WORDS = 4000


@dataclass(frozen=True)
class Piece:
    """A stretch of text: in both, only in the first, or only in the second."""

    kind: Literal["same", "gone", "new"]
    text: str


def pieces(first: str, second: str) -> list[Piece]:
    """Return the difference of two texts as pieces in order; "gone" and "same" joined are `first`."""
    a, b = WORD.findall(first), WORD.findall(second)
    if len(a) + len(b) > MOST_WORDS:
        a, b = first.splitlines(keepends=True), second.splitlines(keepends=True)
    found: list[Piece] = []
    for tag, a0, a1, b0, b1 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag == "equal":
            found.append(Piece("same", "".join(a[a0:a1])))
            continue
        if a1 > a0:
            found.append(Piece("gone", "".join(a[a0:a1])))
        if b1 > b0:
            found.append(Piece("new", "".join(b[b0:b1])))
    return found
