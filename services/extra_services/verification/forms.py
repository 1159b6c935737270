r"""Answers that are no expression: numbers of statements, ratios, congruences, products of lengths, points.

Each function takes an answer apart, or returns None where it does not have that form. `judge` compares the
parts.
"""

import re

from extra_services.verification.normalization import without_sizing

_CIRCLED = re.compile(r"\s*\\textcircled[\s{]*(\d+)[\s},;]*(?:(?:and|和)\s*)?")
_IN_PARENTHESES = re.compile(r"\s*\((\d|[ivx]{1,4})\)\s*[,;]?(?:\s*(?:and|和)\s*)?")
#: "\pmod 5", "\pmod{5}", "(\bmod 5)", "(\text{mod } 5)", "(mod 5)", "mod{5}".
_MODULUS = re.compile(
    r"\(?\s*(?:\\(?:text|mathrm|operatorname)\s*\{\s*)?\\?(?:p?mod|bmod|modulo|pod)(?![a-zA-Z])\s*\}?"
    r"(?:\s|\\[ ,;:])*\{?\s*(\\?\w+)\s*\}?\s*\)?\s*\Z"
)
#: What joins congruences of which one holds.
_ALTERNATIVES = re.compile(
    r"(?<!\s)(?:\s*+,)?\s*+(?:\\(?:text|mbox|mathrm)\s*+\{\s*+(?:,\s*+)?or\s*+\}|(?<![a-zA-Z])or(?![a-zA-Z]))\s*+"
    r"|(?<!\s)\s*+,\s*+"
)
_CONGRUENT = re.compile(r"\\equiv(?![a-zA-Z])|≡")
_CONDITION = re.compile(r"[<>]|\\(?:le|ge|lt|gt|leq|geq|ne|neq)(?![a-zA-Z])")
_APPROXIMATELY = re.compile(r"\\approx(?:eq)?(?![a-zA-Z])|≈|\bor\s+(?:about|approximately|roughly|around)\b")
_RESTATED = re.compile(r",\s*+or\b")
_LIST = re.compile(r",(?!\d{3})|;|\b(?:and|or)\b|[<>]|\\(?:l|g|n)eq?(?![a-zA-Z])")
_ROUNDED = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?\s*(?:\\?%|[a-zA-Z\\{}^ \d/]{1,30})?\.?\Z")
_SERIES = ("abcdefgh", ("i", "ii", "iii", "iv", "v"), "12345678")
#: Of a part: a, ii, 3.
LABEL = r"[a-h]|i{1,3}|iv|v|[1-8]"
_PART = re.compile(rf"(?:\\(?:text|mathrm|textbf)\s*\{{\s*)?\(({LABEL})\)(?:\s*\}}|[:.])?(?=[\s\\$\d])")
_AROUND = re.compile(
    r"\A(?:[\s,;:.$]|\\[,;:! ]|\\q?quad(?![a-zA-Z])|\\\\)++"
    r"|(?<![\s,;:.$])(?:[\s,;:.$]|\\[,;:! ]|\\q?quad(?![a-zA-Z])|\\\\|\band\b|\\text\s*+\{\s*+and\s*+\})++\Z"
)
_OPERATOR = re.compile(r"\A[+*/^=]|[-+*/^=_(]\Z")
_BY = re.compile(r"\bby\b")
_SIDE = re.compile(r"\\times(?![a-zA-Z])|×|\b(?:by|x)\b")
_CASES = re.compile(
    r"\A(?:[^={}]{1,30}=)?\s*(?:\\left\s*\\\{)?\s*\\begin\{(?:d?cases|array)\}(?:\s*\{[lcr]*\})?(.*)"
    r"\\end\{(?:d?cases|array)\}\s*(?:\\right\s*\.)?\s*\Z",
    re.DOTALL,
)
#: Words before a condition, which say nothing; "otherwise" stands for no condition.
_CONDITION_WORDS = re.compile(
    r"\\(?:text|mbox|textrm|mathrm)\s*\{\s*(?:if|for|when|where|as|otherwise|else|elsewhere|若|当|其他)?\s*[,:]?\s*\}"
    r"|\b(?:if|for|when|where|otherwise|else|elsewhere)\b|\\q?quad(?![a-zA-Z])|\\[,;: ]"
)
_CORNERS = r"(?:[A-Z](?:'|_\{?\w\}?)?\s*+){1,4}"
_FIGURE = re.compile(
    rf"""
    \s*+ (?:
      (?: (?P<angle>\\(?:measured)?angle(?![a-zA-Z])) | (?P<triangle>\\triangle(?![a-zA-Z])) )? \s*+
      (?P<one>{_CORNERS})
    | (?: (?P<segment>\\overline) | (?P<vector>\\(?:overrightarrow|vec)) ) \s*+
      \{{ \s*+ (?P<two>{_CORNERS}) \}} \s*+ )
    """,
    re.VERBOSE,
)
_KINDS = ("angle", "triangle", "segment", "vector")
_LETTERS = re.compile(r"[A-Z](?:'|_\{?\w\}?)?")
_TEXT_BY = re.compile(r"\\(?:text|mbox|mathrm)\s*\{\s*by\s*\}")


_ROMAN = r"(?:I{1,3}|IV|VI{0,3}|IX|X)"
_ONLY = re.compile(r"\s*\bonly\Z")
_ROMANS = re.compile(rf"{_ROMAN}(?:(?:\s*[,;&]\s*(?:and\s*)?|\s*and\s*){_ROMAN})+\Z")


def statements(text: str) -> frozenset[str] | None:
    r"""Return the numbers of statements in "①③", "(1)(3)" or "I and III"; a single "(1)" is none."""
    text = _ONLY.sub("", text)
    if _ROMANS.match(text):
        return frozenset(re.findall("[IVX]+", text))
    for pattern, least in ((_CIRCLED, 1), (_IN_PARENTHESES, 2)):
        found, position = [], 0
        while match := pattern.match(text, position):
            found.append(match[1])
            position = match.end()
        if len(found) >= least and not text[position:].strip(" .$"):
            return frozenset(found)
    return None


def single_statement(text: str) -> str | None:
    """Return the number in "(3)" or "③", or None."""
    match = re.fullmatch(r"\s*(?:\((\d)\)|\\textcircled\s*\{?(\d+)\}?)\s*", text)
    return (match[1] or match[2]) if match else None


def ratio(text: str) -> list[str] | None:
    """Return the terms of a ratio "a:b:c", or None."""
    parts = text.replace(r"\colon", ":").split(":")
    plain = all(re.fullmatch(r"[\w\s\\{}./+*^()-]+", part) and part.strip() for part in parts)
    return [part.strip() for part in parts] if len(parts) >= 2 and plain and "\\{" not in text else None


def has_modulus(text: str) -> bool:
    r"""Return whether `text` ends with "\pmod 5" or the like."""
    return bool(_MODULUS.search(text))


def twice(text: str) -> tuple[str, str] | None:
    """Return the two notations of an answer that is written twice ("-1 < x \\le 1: (-1, 1]"), or None."""
    first, colon, second = text.partition(":")
    twice = colon and ":" not in second and _CONDITION.search(first) and re.match(r"\s*[(\[]", second)
    return (first.strip(), second.strip()) if twice else None


def congruence(text: str) -> tuple[str, str, str] | None:
    r"""Return (left side, right side, modulus) of "x \equiv 3 \pmod 5", or None."""
    modulus = _MODULUS.search(text)
    if not modulus:
        return None
    sides = _CONGRUENT.split(_as_one_congruence(text, modulus[1]))
    if len(sides) != 2:
        return None
    return sides[0].strip(), _MODULUS.sub("", sides[1]).strip(" ,"), modulus[1]


def _as_one_congruence(text: str, modulus: str) -> str:
    r"""Return "x \\equiv 2 \\pmod 5 or x \\equiv 3 \\pmod 5" as "x \\equiv 2, 3 \\pmod{5}"."""
    parts = _ALTERNATIVES.split(text)
    unknown = _CONGRUENT.split(parts[0])[0].strip()
    residues = []
    for part in parts:
        own = _MODULUS.search(part)
        sides = _CONGRUENT.split(part[: own.start()] if own else part)
        if (own and own[1] != modulus) or len(sides) > 2 or (len(sides) == 2 and sides[0].strip() != unknown):
            return text
        residues.append(sides[-1].strip(" ,"))
    several = len(parts) > 1 and _CONGRUENT.search(parts[0])
    return rf"{unknown} \equiv {', '.join(residues)} \pmod{{{modulus}}}" if several else text


def residue(text: str, other: tuple[str, str, str] | None) -> tuple[str, str, str] | None:
    r"""Return "3 \\pmod 5" as a congruence with the left side of `other`, or None."""
    modulus = _MODULUS.search(text)
    if other is None or not modulus or _CONGRUENT.search(text):
        return None
    return other[0], text[: modulus.start()].strip(" ,"), modulus[1]


def sides(text: str) -> tuple[list[str], bool] | None:
    r"""Return the factors of "9 \text{ ft} \times 20 \text{ ft}" or "9 by 20", and whether "by" is used."""
    flat = _TEXT_BY.sub(" by ", text)
    parts = [part.strip() for part in _SIDE.split(flat)]
    return (parts, bool(_BY.search(flat))) if len(parts) >= 2 and all(parts) else None


def pieces(text: str) -> list[tuple[str, str]] | None:
    r"""Return (value, condition) of each row of a definition by cases, or None.

    The condition of "0 & \text{otherwise}" is empty.
    """
    match = _CASES.search(text)
    if not match:
        return None
    rows = [row.split("&") for row in re.split(r"\\\\(?:\s*\[[\d.]+\w+\])?", match[1]) if row.strip(" ,;.")]
    if len(rows) < 2 or any(len(row) != 2 for row in rows):
        return None
    return [
        (value.strip(" ,;"), _CONDITION_WORDS.sub(" ", condition).strip(" ,;.")) for value, condition in rows
    ]


def figure(text: str) -> tuple[str, str] | None:
    r"""Return kind and name of "\angle ABC", "\triangle ABC", "\overline{AB}" or "\vec{AB}", or None.

    Two notations of one angle, triangle or segment have the same name. Three capital letters alone are an
    angle without its sign, of the kind "letters".
    """
    if not (match := _FIGURE.fullmatch(text)):
        return None
    kind = next((kind for kind in _KINDS if match[kind]), "letters")
    letters = _LETTERS.findall(match["one"] or match["two"])
    if kind in ("angle", "letters") and len(letters) == 3:
        letters = [min(letters[0], letters[2]), letters[1], max(letters[0], letters[2])]
    elif kind in ("triangle", "segment"):
        letters.sort()
    return kind, " ".join(letters)


def point(text: str) -> tuple[str, str] | None:
    """Return the name and the coordinates of "A(1, 2)", or None."""
    match = re.fullmatch(r"\s*([A-Z](?:'|_\{?\d\}?)?)\s*(\([^()]*,[^()]*\))\s*", without_sizing(text))
    return (match[1], match[2]) if match else None


def approximation(text: str) -> tuple[str, str, bool] | None:
    r"""Return both values of "\\frac{12}{35} \\approx 0.343", or of "1/2, or 50%", or None.

    The third is whether the second value may be rounded. A name before the sign ("x \\approx 11") is none.
    """
    parts = _APPROXIMATELY.split(text)
    rounded = len(parts) == 2
    parts = parts if rounded else _RESTATED.split(text)
    if len(parts) != 2:
        return None
    exact, other = (part.strip(" $,") for part in parts)
    if _LIST.search(exact) or not _ROUNDED.match(other) or not re.search(r"\d|\\pi", exact):
        return None
    return exact, other, rounded


def decimals(text: str) -> int:
    """Return the number of decimals that "2.83 cm" shows."""
    behind = text.partition(".")[2]
    return len(behind) - len(behind.lstrip("0123456789"))


def labelled(text: str) -> list[str] | None:
    """Return the values of "(a) 4; (b) 9" or "(i) 3 (ii) 5", or None."""
    if "(" not in text:
        return None
    found = list(_PART.finditer(text))
    labels = [part[1] for part in found]
    if len(found) < 2 or text[: found[0].start()].strip(" $") or not in_series(labels):
        return None
    ends = [part.start() for part in found[1:]] + [len(text)]
    values = [_AROUND.sub("", text[part.end() : end]) for part, end in zip(found, ends, strict=True)]
    return values if all(values) and not any(_OPERATOR.search(value) for value in values) else None


def in_series(labels: list[str]) -> bool:
    """Return whether `labels` are a, b, c, or i, ii, iii, or 1, 2, 3, as far as they go."""
    return any(labels == list(series[: len(labels)]) for series in _SERIES)
