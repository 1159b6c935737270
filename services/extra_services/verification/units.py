r"""Units behind an answer: recognize them, and convert between units of one dimension.

"5 cm" and "5" are the same answer, since the question named the unit. "100 cm" and "1 m" are the same, "5
cm" and "5 m" are not, nor are "5 km/h" and "5 mph". Letters behind a number are a unit only if the table
has them, and a single letter only behind a space or in `\text{}` or `\mathrm{}`: "12xy" and "3m" are
products. Behind a formula with letters only marked words are units: in "2\pi r h" the h is a height and no
hour. Counted things ("26 apples") are units of their own: apples are no pears.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from extra_services.verification.words import counted_noun


@dataclass(frozen=True)
class Unit:
    """A product of powers of units.

    `dimension` has the sorted quantities with exponents, `size` the number of base units in one of these.
    """

    dimension: tuple[tuple[str, int], ...]
    size: Fraction = Fraction(1)

    def __mul__(self, other: "Unit") -> "Unit":
        powers = dict(self.dimension)
        for quantity, exponent in other.dimension:
            powers[quantity] = powers.get(quantity, 0) + exponent
        left = tuple(sorted((name, power) for name, power in powers.items() if power))
        return Unit(left, self.size * other.size)

    def __pow__(self, exponent: int) -> "Unit":
        powers = tuple((name, power * exponent) for name, power in self.dimension)
        return Unit(powers if exponent else (), self.size**exponent)

    def matches(self, other: "Unit") -> bool:
        """Return whether both measure the same: equal dimensions, "apples" for "red apples"."""
        mine, theirs = _apart(self), _apart(other)
        return (
            mine[0] == theirs[0]
            and len(mine[1]) == len(theirs[1])
            and all(
                power == other_power and (nouns <= others or others <= nouns)
                for (nouns, power), (others, other_power) in zip(mine[1], theirs[1], strict=True)
            )
        )


#: Start of the quantities that are counted things.
_THING = "noun "
_TABLE = {
    "length": {
        "nm": "1/1000000000", "\\mu m": "1/1000000", "um": "1/1000000", "mm": "1/1000",
        "millimeter": "1/1000",
        "millimetre": "1/1000", "cm": "1/100", "centimeter": "1/100", "centimetre": "1/100", "dm": "1/10",
        "m": "1", "meter": "1", "metre": "1", "km": "1000", "kilometer": "1000", "kilometre": "1000",
        "in": "0.0254", "inch": "0.0254", "inches": "0.0254", "ft": "0.3048", "foot": "0.3048",
        "feet": "0.3048",
        "yd": "0.9144", "yard": "0.9144", "mi": "1609.344", "mile": "1609.344", "Å": "1/10000000000",
        "米": "1", "厘米": "1/100", "毫米": "1/1000", "千米": "1000", "公里": "1000", "分米": "1/10",
    },
    "mass": {
        "ug": "1/1000000",
        "mg": "1/1000", "milligram": "1/1000", "g": "1", "gram": "1", "kg": "1000", "kilogram": "1000",
        "lb": "453.59237", "lbs": "453.59237", "pound": "453.59237", "oz": "28.349523125",
        "ounce": "28.349523125",
        "ton": "1000000", "tonne": "1000000", "克": "1", "千克": "1000", "公斤": "1000", "吨": "1000000",
    },
    "time": {
        "ns": "1/1000000000", "us": "1/1000000",
        "ms": "1/1000", "millisecond": "1/1000", "s": "1", "sec": "1",
        "second": "1", "min": "60",
        "mins": "60", "minute": "60", "h": "3600", "hr": "3600", "hour": "3600", "day": "86400",
        "week": "604800",
        "秒": "1", "分钟": "60", "小时": "3600", "天": "86400", "日": "86400", "周": "604800",
    },
    "calendar": {"month": "1", "year": "12", "yr": "12", "decade": "120", "century": "1200",
    "centuries": "1200",
                 "年": "12", "个月": "1"},
    "data": {"bit": "1", "byte": "8", "kB": "8000", "KB": "8000", "MB": "8000000", "GB": "8000000000"},
    "dollar": {"cent": "1/100", "dollar": "1", "usd": "1", "USD": "1", "$": "1", "美元": "1"},
    "euro": {"euro": "1", "€": "1", "EUR": "1", "欧元": "1"},
    "pound sterling": {"£": "1", "GBP": "1", "pence": "1/100"},
    "yen": {"¥": "1", "yen": "1", "JPY": "1", "yuan": "1", "rmb": "1", "RMB": "1", "元": "1", "角": "1/10"},
    "rupee": {"₹": "1", "rupee": "1", "Rs": "1", "INR": "1", "paise": "1/100", "paisa": "1/100"},
    "ruble": {"ruble": "1", "rouble": "1", "kopeck": "1/100", "kopek": "1/100"},
    "celsius": {"^\\circ C": "1", "^\\circC": "1", "celsius": "1"},
    "fahrenheit": {"^\\circ F": "1", "^\\circF": "1", "fahrenheit": "1"},
    "kelvin": {"K": "1", "kelvin": "1"},
    "current": {"A": "1", "mA": "1/1000", "ampere": "1", "amp": "1"},
    "amount": {"mol": "1", "mole": "1", "mmol": "1/1000"},
    "concentration": {"M": "1", "molar": "1", "mM": "1/1000"},
    "magnitude": {"mag": "1", "magnitude": "1", "dex": "1"},
    "solar mass": {"M_\\odot": "1"}, "parsec": {"pc": "1", "kpc": "1000", "Mpc": "1000000"},
    "astronomical unit": {"AU": "1", "au": "1"}, "light year": {"ly": "1"},
    "angle": {"rad": "1", "radian": "1"}, "solid angle": {"sr": "1"}, "decibel": {"dB": "1"},
}  # fmt: skip
_METRE, _GRAM, _SECOND = Unit((("length", 1),)), Unit((("mass", 1),)), Unit((("time", 1),))
_AMPERE = Unit((("current", 1),))
_NEWTON = Unit((), Fraction(1000)) * _GRAM * _METRE * _SECOND**-2
_JOULE = _NEWTON * _METRE
_WATT = _JOULE * _SECOND**-1
_VOLT = _WATT * _AMPERE**-1


def _times(size: str, unit: Unit) -> Unit:
    return Unit((), Fraction(size)) * unit


_PREFIXES = {
    "": "1", "k": "1000", "M": "1000000", "G": "1000000000", "m": "1/1000", "u": "1/1000000",
    "n": "1/1000000000",
}  # fmt: skip
_DERIVED = {
    "N": _NEWTON, "J": _JOULE, "W": _WATT, "V": _VOLT, "Pa": _NEWTON * _METRE**-2, "Hz": _SECOND**-1,
    "C": _AMPERE * _SECOND, "eV": _times("0.0000000000000000001602176634", _JOULE),
    "F": _AMPERE * _SECOND * _VOLT**-1,
    "T": _VOLT * _SECOND * _METRE**-2, "cal": _times("4.184", _JOULE), "Wh": _times("3600", _JOULE),
}  # fmt: skip
_UNITS = {
    name: Unit(((quantity, 1),), Fraction(size))
    for quantity, sizes in _TABLE.items()
    for name, size in sizes.items()
}
_UNITS |= {
    prefix + name: _times(size, unit) for name, unit in _DERIVED.items() for prefix, size in _PREFIXES.items()
}
#: Names that take the long prefixes ("kilojoule"), with the names of the same units in the table above.
_NAMES_WITH_PREFIX = {
    "joule": "J", "watt": "W", "volt": "V", "newton": "N", "pascal": "Pa", "hertz": "Hz", "coulomb": "C",
    "farad": "F", "tesla": "T", "calorie": "cal", "electronvolt": "eV", "electron volt": "eV",
    "watt hour": "Wh", "watt-hour": "Wh", "gram": "g", "gramme": "g", "meter": "m", "metre": "m",
    "second": "s", "ampere": "A", "amp": "A", "mole": "mol", "byte": "byte", "bit": "bit", "parsec": "pc",
}  # fmt: skip
_LONG_PREFIXES = {
    "": "1", "kilo": "1000", "mega": "1000000", "giga": "1000000000", "tera": "1000000000000",
    "hecto": "100", "deca": "10", "deci": "1/10", "centi": "1/100", "milli": "1/1000", "micro": "1/1000000",
    "nano": "1/1000000000", "pico": "1/1000000000000",
}  # fmt: skip
_UNITS |= {
    prefix + name: _times(size, _UNITS[unit])
    for name, unit in _NAMES_WITH_PREFIX.items()
    for prefix, size in _LONG_PREFIXES.items()
    if prefix + name not in _UNITS
}
_UNITS |= {
    **{prefix + "\\Omega": _times(size, _VOLT * _AMPERE**-1) for prefix, size in _PREFIXES.items()},
    "newton": _NEWTON, "joule": _JOULE, "watt": _WATT, "volt": _VOLT, "ohm": _VOLT * _AMPERE**-1,
    "hertz": _SECOND**-1, "pascal": _NEWTON * _METRE**-2, "erg": _times("0.0000001", _JOULE),
    "dyn": _times("0.00001", _NEWTON),
    "mph": _UNITS["mi"] * _UNITS["h"] ** -1, "kph": _UNITS["km"] * _UNITS["h"] ** -1,
    "kmh": _UNITS["km"] * _UNITS["h"] ** -1, "kmph": _UNITS["km"] * _UNITS["h"] ** -1,
    "mps": _METRE * _SECOND**-1, "bps": _UNITS["bit"] * _SECOND**-1,
    "rpm": Unit((("noun revolution", 1),)) * _UNITS["min"] ** -1,
    "acre": _times("4046.8564224", _METRE**2),
    "hectare": _times("10000", _METRE**2), "ha": _times("10000", _METRE**2), "m": _METRE,
    "min": _UNITS["minute"],
}  # fmt: skip
#: In litres; a gallon of the United States is 231 cubic inches.
_VOLUMES = {
    "uL": "1/1000000",
    "ml": "1/1000", "mL": "1/1000", "milliliter": "1/1000", "millilitre": "1/1000", "cc": "1/1000",
    "cl": "1/100", "cL": "1/100", "dl": "1/10", "dL": "1/10", "l": "1", "L": "1", "\\ell": "1",
    "liter": "1", "litre": "1", "升": "1", "毫升": "1/1000",
    "gal": "3.785411784", "gallon": "3.785411784", "quart": "0.946352946", "qt": "0.946352946",
    "pint": "0.473176473", "cup": "0.2365882365", "fl oz": "0.0295735295625",
}  # fmt: skip
_UNITS |= {name: _times(size, _times("1/1000", _METRE**3)) for name, size in _VOLUMES.items()}
_UNITS_OF_SIZE = re.compile(r"(?:square|sq|cubic|cu) units")
#: Directly behind a number these are rather products.
_ONLY_APART = ("Rs", "mps")
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "平方": 2, "立方": 3}

# Possessive: a long run of spaces must not be tried in every way.
_TEXT = re.compile(
    r"\\(?:text|mbox|mathrm|textrm|rm|operatorname|mathit|textbf|mathbf)\s*\{[\s~]*+((?:\^\{-?\d\}|[^{}\s]|\s++(?!\}))*+)\s*+\}"
)
_NAME = (
    r"(?:\^\s*\{?\\circ\s*\}?\s*)?(?:⟦[^⟧]*⟧|\\mu\s?m|[kMGmn]?\s?\\Omega|\\mu|[a-zA-ZÅ]+|[\u4e00-\u9fff]+)"
)
_POWER = r"(?:\s*\^\s*\{?\s*(-?\s*\d)\s*\}?)?"
_FACTOR = rf"{_NAME}{_POWER}"
# Atomic: spaces between two units must not be shared out in every way.
_JOIN = r"(?>\s*(?:/|\\cdot(?![a-zA-Z])|\\times(?![a-zA-Z])|\*|·|\bper\b|⟦\s*per\s*⟧)\s*|\s+|(?<=⟧)|(?=⟦))"
_TAIL = re.compile(rf"(?P<gap>\s*)(?P<unit>/?\s*{_FACTOR}(?:{_JOIN}{_FACTOR}){{0,8}})\s*\.?\s*\Z")
_FACTORS = re.compile(rf"(?P<join>/|\bper\b)?\s*\(?(?P<name>{_NAME}){_POWER}\)?")
_DOT = re.compile(r"\\(?:cdot|times)(?![a-zA-Z])")
_FRACTION_IN_TEXT = re.compile(r"⟦([^⟧/]+)/\s*([^⟧/ ]+)\s*⟧\Z")
_TIMES = re.compile(r"\s*(?:\\cdot|\\times|·|\*|\\,|\\ )\s*")
_PLAIN_NUMBER = re.compile(
    r"\(?[+-]?\s*(?:[\d.,]*\d(?:\s*/\s*\d+)?(?:\s+\d+/\d+)?|[\d\s]*\\[dt]?frac\s*(?:\{-?[\d.]+\}|\d)\s*(?:\{\d+\}|\d)"
    r"|[\d.]*\s*\\sqrt\s*\{?\d+\}?|\d*\s*\\pi|[\d.,]+\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*\{?\s*-?\d+\s*\}?|[\d.]+[eE]-?\d+)\)?\s*\Z"
)
_FORMULA_END = re.compile(r"[\d})\]!]\s*\Z|\\pi\s*\Z")
#: A variable before a marked unit of two letters or more ("x\\text{ cm}"); one letter may be a variable too.
_VARIABLE_END = re.compile(
    r"(?:(?<![a-zA-Z\\])[a-zA-Z]|\\(?:alpha|beta|gamma|theta|phi|lambda|mu|rho|sigma|omega))\s*\Z"
)
_MARKED_WORD = re.compile(r"⟦[^⟧]{2}")
_CURRENCY_BEFORE = re.compile(
    r"\A\s*(-?)\s*(\\\$|US\\?\$|\$|£|€|¥|₹|\\pounds|\\text\s*\{\s*[$£€¥]\s*\}"
    r"|(?:Rs\.?|INR|USD|EUR|GBP)(?![a-zA-Z])|\\(?:text|mathrm)\s*\{\s*(?:Rs\.?|INR|USD|EUR|GBP)\s*\})[\s~]*(?=[\d.])"
)
#: What names a currency in the text before a number.
_CURRENCIES = {
    "£": "£", "€": "€", "¥": "¥", "₹": "₹", "pounds": "£", "Rs": "₹", "INR": "₹", "EUR": "€", "GBP": "£",
}  # fmt: skip


def split_currency(latex: str) -> tuple[str, Unit | None]:
    """Return `latex` without the sign of a currency before its number, and the currency."""
    match = _CURRENCY_BEFORE.match(latex)
    if not match:
        return latex, None
    sign = next((sign for name, sign in _CURRENCIES.items() if name in match[2]), "$")
    return match[1] + latex[match.end() :], _UNITS[sign]


def split_unit(latex: str) -> tuple[str, Unit | None]:
    """Return `latex` without the unit or counted noun behind it, and the unit, or None if there is none."""
    if not latex or not (latex[-1].isalpha() or latex[-1] in "}.0123456789)") or latex.isdigit():
        return latex, None
    marked = _TEXT.sub(r"⟦\1⟧", latex)
    for match in _tails(marked):
        before = marked[: match.start()].rstrip().rstrip("~").rstrip()
        text = match["unit"]
        marked_word = _MARKED_WORD.match(text) is not None
        complete = _FORMULA_END.search(before) or (marked_word and _VARIABLE_END.search(before))
        if not before or not complete or "⟦" in before:
            continue
        plain = bool(_PLAIN_NUMBER.match(before))
        if not plain and "⟦" not in text:
            continue
        spaced = match["gap"] or marked[: match.start()] != before
        glued = not spaced and text[0].isalpha() and text[0].isascii()
        if unit := _compound(text, glued, plain):
            return latex[: _length(latex, match.start())].rstrip().rstrip("~").rstrip(), unit
    return latex, None


_SPACE = re.compile(r"\\[,;: ]|~")
_QUANTITY = re.compile(r"\s*,?\s*(?:and\s+)?(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\.?")


def mixed_quantity(text: str) -> tuple[Fraction, Unit] | None:
    """Return "1 hour 30 minutes" as a number of the first unit, or None; the units must become smaller."""
    flat = _SPACE.sub(" ", _TEXT.sub(r" \1 ", text)).strip()
    total, first, last, position = Fraction(0), None, None, 0
    while match := _QUANTITY.match(flat, position):
        unit = _one(match[2])
        if unit is None or (last and (unit.dimension != last.dimension or unit.size >= last.size)):
            return None
        first = first or unit
        total += Fraction(match[1]) * unit.size / first.size
        last, position = unit, match.end()
    return (total, first) if first and last != first and not flat[position:].strip(" .") else None


def unit_named(name: str) -> Unit | None:
    """Return the unit that the table has by this name, or None."""
    return _one(name)


def _tails(marked: str) -> "list[re.Match[str]]":
    """Return the tails that can be a unit, the longest first."""
    found = []
    for start in range(max(0, len(marked) - 80), len(marked)):
        previous = marked[start - 1 : start]
        inside_a_word = previous.isalpha() and marked[start] != "⟦"
        if previous and (inside_a_word or previous in "\\⟦^_"):
            continue
        if "⟧" in marked[start:] and marked.count("⟦", start) != marked.count("⟧", start):
            continue
        if match := _TAIL.match(marked, start):
            found.append(match)
    return found


def _length(latex: str, marked_length: int) -> int:
    r"""Return the length in `latex` of the first `marked_length` characters of its marked form."""
    position = marked = 0
    for match in _TEXT.finditer(latex):
        step = match.start() - position
        if marked + step >= marked_length:
            break
        marked += step + len(match[1]) + 2
        position = match.end()
    return position + marked_length - marked


def _compound(text: str, glued: bool, plain: bool) -> Unit | None:
    if plain and not glued and (" per " in text or " " in text) and re.fullmatch(r"[a-zA-Z ⟦⟧]+", text):
        words = " ".join(re.sub("[⟦⟧]", " ", text).split())
        if " per " in text or _one(words):
            return _inside(words)
        if _UNITS_OF_SIZE.fullmatch(words) and (noun := counted_noun(words)):
            return _counted(noun)
    text = _DOT.sub("*", text)
    total = Unit(())
    sign = 1
    position = 0
    for match in _FACTORS.finditer(text):
        if text[position : match.start()].strip(" *.") not in ("", "\\cdot", "\\times"):
            return None
        position = match.end()
        name = match["name"].strip()
        bare = name.strip("⟦⟧ ").rstrip(".").replace(r" \Omega", r"\Omega")
        if bare == "per" or match["join"]:
            sign = -1
        if bare == "per":
            continue
        unit = _inside(bare) if "⟦" in name else _one(bare)
        if unit is None and match.start() == 0 and position == len(text):
            noun = counted_noun(bare) if plain and not glued else None
            return _counted(noun) if noun else None
        product = glued and "⟦" not in name and (len(bare) == 1 or bare in _ONLY_APART)
        if unit is None or (product and match.start() == 0):
            return None
        power = int(match[3].replace(" ", "")) if match[3] else 1
        if power != 1 and (fraction := _FRACTION_IN_TEXT.match(name)):
            # The power behind "\\text{kg/m}" is that of the metre.
            below = _inside(fraction[2])
            total = total * below ** (sign * (1 - power)) if below else total
            power = 1
        elif (
            power != 1 and "⟦" in name and " " in bare and (last := _one(bare.split()[-1])) and not _one(bare)
        ):
            # Likewise behind "\\text{m s}".
            total = total * last ** (sign * (power - 1))
            power = 1
        total = total * unit ** (sign * power)
    if text[position:].strip(" .") or not total.dimension:
        return None
    return total


def _inside(words: str) -> Unit | None:
    """Return the unit in a `\\text{}`: one name, "square inches", "km/h", "words per minute"."""
    unit = _one(words)
    if unit or not re.search(r"[/^\\ ]", words):
        return unit
    total = Unit(())
    words = _TIMES.sub(" ", words)
    for index, part in enumerate(re.split(r"\s*/\s*|\s+per\s+|\Aper\s+", words)):
        if index == 0 and part == "":
            continue
        if not part:
            return None
        part = part[1:-1] if part[0] == "(" and part[-1] == ")" else part
        factor = _product(part) or (_thing(part, index) if " per " in words else None)
        if factor is None:
            return None
        total = total * factor ** (-1 if index else 1)
    return total if total.dimension else None


def _product(words: str) -> Unit | None:
    """Return the unit "kg m^2", or None."""
    total = Unit(())
    for name in [words] if _one(words) else words.split():
        match = re.match(r"(.+?)(?:\^\{?(-?\d)\}?)?\Z", name)
        found = _one(match[1]) if match else None
        if match is None or found is None:
            return None
        total = total * found ** int(match[2] or 1)
    return total


def _thing(words: str, index: int) -> Unit | None:
    """Return the things counted in "words per minute" (index 0) or "dollars per person" (index 1)."""
    noun = counted_noun(words if index == 0 else f"{words}{'es' if words.endswith('s') else 's'}")
    return _counted(noun) if noun else None


def _one(words: str) -> Unit | None:
    """Return the unit with this name ("cm", "square inches", "feet"), or None."""
    if words in _UNITS:
        return _UNITS[words]
    parts = words.split()
    if len(parts) == 2 and parts[0].lower().rstrip(".") in _POWERS:
        found = _one(parts[1])
        return found ** _POWERS[parts[0].lower().rstrip(".")] if found else None
    if words[:2] in ("平方", "立方") and (found := _UNITS.get(words[2:])):
        return found ** _POWERS[words[:2]]
    joined = re.sub(r"\^\s*\{?\\circ\s*\}?\s*", r"^\\circ ", words)
    lower = words.lower() if len(words) > 2 else words
    for name in (joined, lower, lower.removesuffix("s"), lower.removesuffix("es")):
        if name in _UNITS and (name == joined or len(name) > 1):
            return _UNITS[name]
    return None


def _apart(unit: Unit) -> tuple[list[tuple[str, int]], list[tuple[frozenset[str], int]]]:
    """Return the quantities and the counted things of a dimension, with their exponents."""
    things = [(name, power) for name, power in unit.dimension if name.startswith(_THING)]
    words = [(frozenset(name.removeprefix(_THING).split()), power) for name, power in things]
    rest = [each for each in unit.dimension if each not in things]
    return rest, sorted(words, key=lambda each: each[1])


def _counted(noun: str) -> Unit:
    return Unit(((f"{_THING}{noun}", 1),))
