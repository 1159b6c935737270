r"""Split an answer that lists several values into its members.

The signs between members are a comma or semicolon outside of all brackets, "and" and "or", also in the text
between two units ("30 \text{ mph and } 40 \text{ mph}"). `\pm` stands for two members. Conditions ("x < 2 or
x > 3") are one set and not a list; `reading` deals with them. Values with names ("a = 1, b = 2") are told
apart by the names: `assignments` and `in_order_of_names` compare them with pairs.
"""

import re

from extra_services.runtime.memo import kept
from extra_services.verification.normalization import without_sizing
from extra_services.verification.symbols import plain_punctuation
from extra_services.verification.units import split_unit
from extra_services.verification.words import without_either

_MOST_MEMBERS = 16
_TEXT = re.compile(r"\\(text|mbox|mathrm)\s*\{([^{}]*)\}")
_JOINED = re.compile(r"(?:,\s*)?\b(?:and|or)\b\s*")
_TUPLE = re.compile(r"\s*+(?:\\left\s*+)?\(([^()]*,[^()]*)\)\s*\Z")
_SEPARATOR = re.compile(
    r"\\q?quad(?![a-zA-Z])|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])|和|或|与|及|\\(?:text|mbox|mathrm)\s*\{\s*,?\s*(?:and|or)\s*\}"
    r"|\\(?:text|mbox)\s*\{\s*\\&\s*\}|\\&"
)
_CONDITION = re.compile(
    r"[<>≤≥≠]|\\(?:le|ge|leq|geq|lt|gt|ne|neq|in|notin|mid|equiv)(?![a-zA-Z])|\.\.\.|\\[lc]?dots"
)
_LAKHS = re.compile(r"[\s$]*[+-]?\d{1,2}(?:,\d{2})+,\d{3}[\s$]*\Z")
_DECIMAL_COMMA = re.compile(r"([\s$]*[+-]?)(\d+),(\d+)([^,;\d]*)\Z")
_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")
_NAMED = re.compile(r"\s*([^\s\d+-][^+-]{0,39}?)\s*=\s*([^=]+)\Z")
#: Letters of an unknown with several roots; "a_1" and "a_2" are two terms of a sequence.
_UNKNOWNS = frozenset("xyzt")
#: "m = n = 3".
_CHAIN = re.compile(r"\s*[a-zA-Z]\s*=\s*[a-zA-Z]\s*=(?:\s*[a-zA-Z]\s*=)?\s*[-\d./]+\s*")
_SPACING = re.compile(r"\\[,;:! ]")
_PLUS_MINUS = re.compile(r"\\(pm|mp)(?![a-zA-Z])")
_THOUSANDS = re.compile(r"\s*[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?\s*\Z")


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
    whole = without_either(_TEXT.sub(_with_open_joints, without_sizing(text))).strip()
    if whole.startswith("{") and whole.endswith("}") and whole.count("{") == 1:
        whole = whole[1:-1]  # TeX does not show these braces
    if whole.startswith(r"\{") and whole.endswith(r"\}") and whole.count(r"\{") == 1:
        whole = whole[2:-2]
    parts = [part for part in _split(_SEPARATOR.sub(",", whole)) if part]
    found = [sign for part in parts for sign in _signs(part)]
    return found if 1 < len(found) <= _MOST_MEMBERS else [text]


def _with_open_joints(match: "re.Match[str]") -> str:
    r"""Return `\text{ mph and }` as `\text{ mph } and`, so that the joint is seen between the units."""
    parts = _JOINED.split(match[2])
    if len(parts) == 1:
        return match.group()
    return " and ".join(rf"\{match[1]}{{{part}}}" if part.strip() else "" for part in parts)


def has_members(text: str) -> bool:
    """Return whether `text` lists several values."""
    if text.lstrip("-").isalnum():  # most are numbers, and the way below is a long one
        return False
    return _has_members(text)


@kept()
def _has_members(text: str) -> bool:
    return len(members(text.replace("$", ""))) > 1


def with_decimal_point(text: str, other: str, decimals: int) -> str:
    """Return "2,74" as "2.74" where the other side is a single number, so that it can be no list.

    "1,234" stays: there the comma marks the thousands. Likewise "1,00,000" becomes "100000".

    Args:
        text: One answer.
        other: The other answer.
        decimals: Least number of decimals.
    """
    match = _DECIMAL_COMMA.match(text)
    other = plain_punctuation(other)
    if _LAKHS.match(text) and other.strip("$ ").isdigit():
        return text.replace(",", "")
    if (
        not match
        or "," in other
        or has_members(other)
        or _CONDITION.search(other)
        or not re.search(r"\d", other)
    ):
        return text
    sign, whole, behind, unit = match.groups()
    thousands = len(behind) == 3 and len(whole) <= 3 and whole != "0"
    return text if thousands or len(behind) < decimals else f"{sign}{whole}.{behind}{unit}"


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
    return (_name(match[1]), match[2].strip()) if match else None


def tuple_members(text: str) -> list[str] | None:
    """Return the coordinates of "(1, 2)", or None."""
    match = _TUPLE.match(text)
    return [part for part in _split(match[1]) if part] if match else None


def assignments(found: list[str]) -> list[str]:
    """Return a point as its coordinates, and several as one list.

    "(a, b) = (1, 2)" is "a = 1" and "b = 2", "a = b = 1" likewise; "x = 1, y = 2, x = 3, y = 4" are (1, 2)
    and (3, 4).
    """
    pairs = [named(member) for member in found]
    if len(found) == 1 and _CHAIN.fullmatch(found[0]):
        *chained, last = found[0].split("=")
        return [f"{name.strip()} = {last}" for name in chained]
    if len(found) == 1 and pairs[0]:
        names, values = (tuple_members(side) for side in pairs[0])
        if names and values and len(names) == len(values) and all(map(str.isalnum, names)):
            return [f"{name} = {value}" for name, value in zip(names, values, strict=True)]
    names = [pair[0] for pair in pairs if pair]
    distinct = list(dict.fromkeys(names))
    size = len(distinct)
    if not all(pairs) or size < 2 or len(names) == size or names != distinct * (len(names) // size):
        return found
    order = _order(distinct)
    values = [pair[1] for pair in pairs if pair]
    rows = [values[start : start + size] for start in range(0, len(values), size)]
    return ["(" + ", ".join(row[index] for index in order) + ")" for row in rows]


def in_order_of_names(found: list[str]) -> list[str] | None:
    """Return the values of "b = 2, a = 1" as 1, 2; None if a member has no name, or two have the same.

    Neighbours in the alphabet are ordered by it (x before y); other names count as they are written.
    """
    pairs = [named(member) for member in found]
    names = [pair[0] for pair in pairs if pair]
    if len(found) < 2 or not all(pairs) or len(set(names)) < len(found):
        return None
    values = [pair[1] for pair in pairs if pair]
    return [values[index] for index in _order(names)]


def roots(golds: list[str]) -> tuple[str, list[str]] | None:
    """Return x and the values of "x_1 = 1, x_2 = -3", the roots of one unknown, or None."""
    pairs = [named(member) for member in golds]
    names = [pair[0] for pair in pairs if pair]
    letter = names[0][:1] if names else ""
    numbered = letter in _UNKNOWNS and names == [f"{letter}_{index}" for index in range(1, len(pairs) + 1)]
    return (letter, [pair[1] for pair in pairs if pair]) if numbered and len(pairs) > 1 else None


def unordered(found: str, parts: list[str], unknown: str) -> list[str] | None:
    r"""Return the values of "\{1, -3\}", of "x = 1 or x = -3" and of two bare values, or None.

    More bare values may be those of as many unknowns, in their order.
    """
    pairs = [named(part) for part in parts]
    values = [pair[1] if pair else part for pair, part in zip(pairs, parts, strict=True)]
    if any(pair and pair[0] != unknown for pair in pairs) or (not pairs[0] and any(pairs)):
        return None
    whole = without_sizing(found).strip()
    a_set = pairs[0] is not None or (whole.startswith(r"\{") and whole.endswith(r"\}"))
    return values if len(parts) > 1 and (a_set or len(parts) == 2) else None


def _order(names: list[str]) -> list[int]:
    positions = sorted(range(len(names)), key=names.__getitem__)
    letters = "".join(names[position] for position in positions)
    neighbours = len(letters) == len(names) and letters in "abcdefghijklmnopqrstuvwxyz"
    return positions if neighbours else list(range(len(names)))


def _name(text: str) -> str:
    return "".join(_SPACING.sub("", text).split()).replace("{", "").replace("}", "")


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
