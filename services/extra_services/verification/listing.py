r"""Split an answer that lists several values into its members.

The signs between members are a comma or semicolon outside of all brackets,
    "and" and "or". `\pm` stands for two
members. Conditions ("x < 2 or x > 3") are one set and not a list; `reading` deals with them.
"""

import re

from extra_services.verification.units import split_unit

_MOST_MEMBERS = 16
_SEPARATOR = re.compile(
    r"\\q?quad(?![a-zA-Z])|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])|和|或|与|及|\\(?:text|mbox|mathrm)\s*\{\s*,?\s*(?:and|or)\s*\}"
)
_CONDITION = re.compile(
    r"[<>≤≥≠]|\\(?:le|ge|leq|geq|lt|gt|ne|neq|in|notin|mid|equiv)(?![a-zA-Z])|\.\.\.|\\[lc]?dots"
)
_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")
_NAMED = re.compile(r"\s*(.{1,40}?)\s*=\s*([^=]+)\Z", re.DOTALL)
_PLUS_MINUS = re.compile(r"\\(pm|mp)(?![a-zA-Z])")
_THOUSANDS = re.compile(r"\s*[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?\s*\Z")


def members(text: str) -> list[str]:
    r"""Return the members that `text` lists, `\pm` written out, or [text] if it is no list."""
    if (
        len(text) > 2000
        or _CONDITION.search(text)
        or "matrix" in text
        or r"\begin" in text
        or _THOUSANDS.match(text)
    ):
        return [text]
    whole = text.strip()
    if whole.startswith(r"\{") and whole.endswith(r"\}") and whole.count(r"\{") == 1:
        whole = whole[2:-2]
    parts = [part for part in _split(_SEPARATOR.sub(",", whole)) if part]
    found = [sign for part in parts for sign in _signs(part)]
    return found if 1 < len(found) <= _MOST_MEMBERS else [text]


def has_members(text: str) -> bool:
    """Return whether `text` lists several values."""
    return len(members(text.replace("$", ""))) > 1


def with_shared_unit(found: list[str]) -> list[str]:
    """Return the members with the unit of the last one, if only that has a unit ("15 and 22.5 min")."""
    bare, unit = split_unit(found[-1])
    plain = all(re.fullmatch(r"[\s$]*[+-]?[\d.]+[\s$]*", member) for member in found[:-1])
    return (
        [*(member + found[-1][len(bare) :] for member in found[:-1]), found[-1]] if unit and plain else found
    )


def named(member: str) -> tuple[str, str] | None:
    """Return the name and the value of "x = 5", or None."""
    match = _NAMED.match(member)
    return ("".join(match[1].split()), match[2].strip()) if match else None


def _split(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character in _OPEN) - (character in _CLOSE)
        if character in ",;" and depth == 0:
            parts.append(text[start:index].strip())
            start = index + 1
    return [*parts, text[start:].strip()]


def _signs(part: str) -> list[str]:
    if not _PLUS_MINUS.search(part):
        return [part]
    upper = {"pm": "+", "mp": "-"}
    lower = {"pm": "-", "mp": "+"}
    written = [_PLUS_MINUS.sub(lambda sign, table=table: table[sign[1]], part) for table in (upper, lower)]  # type: ignore[misc]
    return [re.sub(r"(\A|[=(\[{,])\s*\+", r"\1", sign) for sign in written]
