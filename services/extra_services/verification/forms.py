r"""Answers that are no expression: numbers of statements, ratios, congruences, families, products of lengths.

Each function takes an answer apart, or returns None where it does not have that form. `judge` compares the
parts.
"""

import re

_CIRCLED = re.compile(r"\s*\\textcircled[\s{]*(\d+)[\s},;]*(?:(?:and|和)\s*)?")
_IN_PARENTHESES = re.compile(r"\s*\((\d|[ivx]{1,4})\)\s*[,;]?(?:\s*(?:and|和)\s*)?")
_MODULUS = re.compile(
    r"\s*(?:\(\s*)?\\(?:pmod|bmod|mod|pod|operatorname\s*\{\s*mod\s*\}|text\s*\{\s*mod\s*\}|mathrm\s*\{\s*mod\s*\})\s*\{?\s*([^{}()]+?)\s*\}?\s*\)?\s*\Z"
    r"|\s*\(?\s*mod(?:ulo)?\s+([^()]+?)\s*\)?\s*\Z"
)
_CONGRUENT = re.compile(r"\\equiv(?![a-zA-Z])|≡")
_WHOLE_NUMBERS = r"(?:\\(?:mathbb|mathbf|mathrm)\s*\{?\s*([ZN])\s*\}?(?:\s*\^\s*\{?\s*[+*]\s*\}?)?|([ZN]))"
_INDEX = re.compile(
    rf"[,;:|\s(]*(?:\\(?:mid|text\s*\{{\s*(?:for|where)\s*\}}|quad)\s*)?([a-zA-Z])\s*\\in\s*{_WHOLE_NUMBERS}\s*\)?\s*\Z"
)
_INDEX_FIRST = re.compile(rf"([a-zA-Z])\s*\\in\s*{_WHOLE_NUMBERS}")
_SIDE = re.compile(r"\\times(?![a-zA-Z])|×|\bby\b|\bx\b")


def statements(text: str) -> frozenset[str] | None:
    r"""Return the numbers of statements in "①③", "(1)(3)" or "(1), (3)"; a single "(1)" is none."""
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


def congruence(text: str) -> tuple[str, str, str] | None:
    r"""Return (left side, right side, modulus) of "x \equiv 3 \pmod 5", or None."""
    sides = _CONGRUENT.split(text)
    modulus = _MODULUS.search(text)
    if len(sides) != 2 or not modulus:
        return None
    return sides[0].strip(), _MODULUS.sub("", sides[1]).strip(), (modulus[1] or modulus[2]).strip()


def family(text: str) -> tuple[str, str, str] | None:
    r"""Return (expression, index,
    "Z" or "N") of "\{3k : k \in \mathbb{Z}\}" or "x = 3k, k \in \mathbb{Z}", or None."""
    text = text.strip()
    braces = re.fullmatch(r"\\\{(.*)\\\}", text, re.DOTALL)
    inner = braces[1].strip() if braces else text
    match = _INDEX.search(inner)
    if not match or not inner[: match.start()].strip():
        return None
    body = inner[: match.start()].strip().rstrip(",;:|").strip()
    body = re.sub(r"\A[a-zA-Z]\s*(?:\\in\s*\\mathbb\s*\{?[RZ]\}?\s*)?(?:\\mid|\\vert|\||:)\s*", "", body)
    body = re.sub(r"\A[a-zA-Z]\s*=\s*", "", body)
    if re.search(r"[=<>,;|]|\\(?:le|ge|ne|in|mid)(?![a-zA-Z])", body) or not re.search(
        rf"(?<![\\a-zA-Z]){match[1]}", body
    ):
        return None
    return body, match[1], match[2] or match[3]


def sides(text: str) -> list[str] | None:
    r"""Return the factors of a product of lengths "9 \text{ ft} \times 20 \text{ ft}", or None."""
    parts = [part.strip() for part in _SIDE.split(text)]
    return parts if len(parts) >= 2 and all(parts) else None
