r"""Units behind an answer: recognize them, and convert between units of one quantity.

"5 cm" and "5" are the same answer, since the question named the unit. "100 cm" and "1 m" are the same, "5 cm"
and "5 m" are not. A word behind a plain number that is not in the table ("26 apples") is removed too and has
no meaning. Behind a formula with letters only words in `\text{}` and `\mathrm{}` are units: in "2\pi r h" the
h is a height and no hour.
"""

import re
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Unit:
    """A unit as a multiple of its quantity's base unit; `power` is 2 for squares and 3 for cubes of it."""

    quantity: str
    size: Fraction
    power: int = 1

    @property
    def factor(self) -> Fraction:
        """Number of base units, to that power, in one of these units."""
        return self.size**self.power


_TABLE = {
    "length": {
        "nm": "1/1000000000", "mm": "1/1000", "millimeter": "1/1000", "cm": "1/100", "centimeter": "1/100",
        "m": "1", "meter": "1", "metre": "1", "km": "1000", "kilometer": "1000", "in": "0.0254",
        "inch": "0.0254", "inches": "0.0254", "ft": "0.3048", "foot": "0.3048", "feet": "0.3048",
        "yd": "0.9144", "yard": "0.9144", "mi": "1609.344", "mile": "1609.344",
    },
    "mass": {
        "mg": "1/1000", "g": "1", "gram": "1", "kg": "1000", "kilogram": "1000", "lb": "453.59237",
        "lbs": "453.59237", "pound": "453.59237", "oz": "28.349523125", "ounce": "28.349523125",
        "ton": "1000000", "tonne": "1000000",
    },
    "time": {
        "ms": "1/1000", "s": "1", "sec": "1", "second": "1", "min": "60", "minute": "60", "h": "3600",
        "hr": "3600", "hour": "3600", "day": "86400", "week": "604800",
    },
    "volume": {"ml": "1/1000", "milliliter": "1/1000", "l": "1", "liter": "1", "litre": "1"},
    "money": {"cent": "1/100", "dollar": "1", "usd": "1"},
}  # fmt: skip
_UNITS = {
    name: Unit(quantity, Fraction(size)) for quantity, sizes in _TABLE.items() for name, size in sizes.items()
}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}

_IN_TEXT = re.compile(r"\\(?:text|mbox|mathrm|rm)\s*\{\s*([^{}]*?)\s*\}\s*(?:\^\s*\{?\s*([23])\s*\}?)?\s*\Z")
_BEHIND_NUMBER = re.compile(r"(?<=[\d})])\s*([a-zA-Z][a-zA-Z./ -]*?)\s*(?:\^\s*\{?\s*([23])\s*\}?)?\s*\Z")
_PLAIN_NUMBER = re.compile(
    r"[+-]?\s*(?:[\d.,]+(?:\s*/\s*\d+)?|[\d\s]*\\[dt]?frac\s*(?:\{\d+\}|\d)\s*(?:\{\d+\}|\d)"
    r"|[\d.]*\s*\\sqrt\s*\{?\d+\}?|\d*\s*\\pi)\s*\Z"
)
#: Words that change the meaning, so that the text before them is not the whole answer.
_MEANINGFUL = re.compile(
    r"\b(?:if|when|where|for|and|or|not|is|are|even|odd|mod|to|than|least|most|pi|sqrt|[ei])\b|[=<>]",
    re.IGNORECASE,
)


def split_unit(latex: str) -> tuple[str, Unit | None]:
    """Return `latex` without the unit behind it, and the unit, or None if it is unknown or absent."""
    match = _IN_TEXT.search(latex)
    if not match or not latex[: match.start()].strip():
        match = _BEHIND_NUMBER.search(latex)
        if not match or not _PLAIN_NUMBER.match(latex[: match.start()]):
            return latex, None
    before, words = latex[: match.start()].strip(), match[1].strip(" .")
    if _MEANINGFUL.search(words):
        return latex, None
    unit = _unit(words, int(match[2] or 1))
    if unit is None and not _PLAIN_NUMBER.match(before):
        return latex, None
    # "5x" and "3 n": a single letter that is no unit is a variable.
    if unit is None and len(words) == 1:
        return latex, None
    return before, unit


def _unit(words: str, power: int) -> Unit | None:
    parts = words.lower().split()
    if len(parts) == 2 and parts[0].rstrip(".") in _POWERS:
        power, parts = _POWERS[parts[0].rstrip(".")], parts[1:]
    if len(parts) != 1:
        return None
    name = parts[0]
    found = _UNITS.get(name) or (_UNITS.get(name[:-1]) if name.endswith("s") else None)
    return Unit(found.quantity, found.size, power) if found else None
