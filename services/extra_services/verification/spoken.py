r"""Numbers and arithmetic in words, written in figures.

`in_figures` turns "minus seven" into -7, "3 million" into 3000000, "half of 14" into \frac{14}{2} and "7
factorial" into 7!. Words that are no number stay as they are: the caller decides what they mean.
"""

import re

from extra_services.number_words import LARGE, SMALL, words_in_figures

#: Words behind figures ("3 million", "5 dozen"); each may have an s.
_SCALES = {"hundred": 10**2, "dozen": 12, "lakh": 10**5, "crore": 10**7, **LARGE}
_CJK_SCALES = {"百": 10**2, "千": 10**3, "万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
    "eighth": 8, "ninth": 9, "tenth": 10, "hundredth": 100, "thousandth": 1000, "millionth": 10**6,
}  # fmt: skip

_SUFFIX = r"\s*(?:st|nd|rd|th)\s*"
_MARKED = rf"\\(?:text|mathrm|textrm)\s*\{{{_SUFFIX}\}}"
_ORDINAL = re.compile(
    rf"(?<![\w.])(\d+)\s*(?:(?:st|nd|rd|th)(?!\w)|{_MARKED}|\^\s*(?:\{{{_SUFFIX}\}}|\{{\s*{_MARKED}\s*\}}|{_MARKED}))"
)
_SCALED = re.compile(rf"(?<![\w.])(-?\d[\d,]*(?:\.\d+)?)\s*-?({'|'.join(_SCALES)})s?(?![a-z])", re.IGNORECASE)
_CJK_SCALED = re.compile(rf"(\d[\d,]*(?:\.\d+)?)\s*({'|'.join(_CJK_SCALES)})")
_VALUE = r"(-?(?:\\frac\{\d+\}\{\d+\}|\d[\d,]*(?:\.\d+)?(?:/\d+)?))"
_PART_OF = re.compile(
    rf"(?:\b(a|an|one)|(?<![\d.,/])(\d+))[ -]({'|'.join(_PARTS)})(s?)\b(?:\s+of\s+(?:a\s+)?{_VALUE})?",
    re.IGNORECASE,
)
_AND_PART = re.compile(r"(\d+)\s+and\s+(\\frac\{\d+\}\{\d+\})")
_SPOKEN = tuple(
    (re.compile(pattern, re.IGNORECASE), latex)
    for pattern, latex in (
        (r"\bhalf\s+a\s+dozen\b", "6"),
        (r"\ba\s+dozen\b", "12"),
        (r"(\d+)\s+point\s+(\d+)\b", r"\1.\2"),
        (rf"\bhalf(?:\s+of)?\s+{_VALUE}", r"\\frac{\1}{2}"),
        (rf"\b(?:twice|double)\s+{_VALUE}", r"(2 \\cdot \1)"),
        (rf"\b(?:thrice|triple)\s+{_VALUE}", r"(3 \\cdot \1)"),
        (rf"\b(?:the\s+)?square\s+root\s+of\s+{_VALUE}", r"\\sqrt{\1}"),
        (rf"\b(?:the\s+)?cube\s+root\s+of\s+{_VALUE}", r"\\sqrt[3]{\1}"),
        (rf"\b(?:the\s+)?reciprocal\s+of\s+{_VALUE}", r"\\frac{1}{\1}"),
        (rf"{_VALUE}\s+factorial\b", r"\1!"),
        (rf"{_VALUE}\s+squared\b", r"(\1)^{2}"),
        (rf"{_VALUE}\s+cubed\b", r"(\1)^{3}"),
        (rf"{_VALUE}\s+(?:to\s+the\s+power\s+(?:of\s+)?|raised\s+to\s+(?:the\s+)?){_VALUE}", r"(\1)^{\2}"),
        (rf"{_VALUE}\s+out\s+of\s+(?:every\s+)?{_VALUE}", r"\\frac{\1}{\2}"),
        (rf"{_VALUE}\s+choose\s+{_VALUE}", r"\\binom{\1}{\2}"),
        (rf"{_VALUE}\s+(?:over|divided\s+by)\s+{_VALUE}", r"\\frac{\1}{\2}"),
        (rf"{_VALUE}\s+(?:times|multiplied\s+by)\s+{_VALUE}", r"\1 \\cdot \2"),
        (rf"{_VALUE}\s+plus\s+{_VALUE}", r"\1 + \2"),
        (rf"{_VALUE}\s+minus\s+{_VALUE}", r"\1 - \2"),
        (rf"{_VALUE}\s+to\s+{_VALUE}(?=\s*\Z)", r"\1:\2"),
        (r"\b(?:minus|negative)\s+(?=\\?[\dfs(]|\()", r"-"),
        (r"\bplus\s+(?=\\?\d)", r""),
        (rf"{_VALUE}\s+per\s?cent\b", r"\1\\%"),
        (r"\s+equals?(?:\s+to)?\s+", " = "),
    )
)
_LETTERS = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2}")


def without_ordinals(text: str) -> str:
    """Return "21^{st}" and "4th" as 21 and 4."""
    return _ORDINAL.sub(r"\1", text)


def in_figures(text: str) -> str:
    """Return `text` with number words and spoken arithmetic as LaTeX."""
    text = without_ordinals(text)
    text = _CJK_SCALED.sub(lambda found: _scaled(found[1], _CJK_SCALES[found[2]]), text)
    if not _LETTERS.search(text):
        return text
    text = words_in_figures(text)
    text = _SCALED.sub(lambda found: _scaled(found[1], _SCALES[found[2].lower()]), text)
    text = _AND_PART.sub(r"\1\2", _PART_OF.sub(_fraction, text))
    for pattern, latex in _SPOKEN:
        text = pattern.sub(latex, text)
    return text


_HAN_DIGITS = {
    "零": 0,
    "〇": 0,
    "两": 2,
    **{digit: value for value, digit in enumerate("一二三四五六七八九", 1)},
}
_HAN_PLACES = {"十": 10, "百": 100, "千": 1000}
_HAN_NUMBER = rf"[{''.join(_HAN_DIGITS)}十百千万]+"
_HAN_ALONE = re.compile(rf"\s*(负|負)?(?:({_HAN_NUMBER})分之)?({_HAN_NUMBER})\s*\Z")


def chinese_in_figures(text: str) -> str:
    """Return an answer that is a number in Chinese ("负一", "三分之一") in figures, another as it is."""
    if not (match := _HAN_ALONE.match(text)):
        return text
    sign, below, above = match.groups()
    numbers = [_han_value(part) for part in (above, below) if part]
    if None in numbers:
        return text
    minus = "-" if sign else ""
    return rf"{minus}\frac{{{numbers[0]}}}{{{numbers[1]}}}" if below else f"{minus}{numbers[0]}"


def _han_value(numeral: str) -> int | None:
    """Return the value of a numeral below 100 million, or None if it is none ("万" alone)."""
    if not numeral:
        return None
    if not any(place in numeral for place in "十百千万"):
        digits = "".join(str(_HAN_DIGITS[digit]) for digit in numeral)
        return int(digits) if len(digits) == 1 or digits[0] != "0" else None
    high, mark, low = numeral.rpartition("万")
    if mark:
        above, below = _han_value(high), _han_value(low) if low else 0
        return None if above is None or below is None else above * 10**4 + below
    total, digit = 0, None
    for sign in low:
        if sign in _HAN_PLACES:
            total, digit = total + (1 if digit is None else digit) * _HAN_PLACES[sign], None
        else:
            digit = _HAN_DIGITS[sign]
    return total + (digit or 0)


def number_word(word: str) -> int | None:
    """Return the value of one word ("seven", "twenty"), or None."""
    return SMALL.get(word)


def is_number_in_words(text: str) -> bool:
    """Return whether `text` is a number word, or several that spell one number."""
    figures = in_figures(text.strip())
    return figures != text.strip() and not _LETTERS.search(re.sub(r"\\[a-z]+", "", figures))


def _scaled(number: str, scale: int) -> str:
    whole, _, decimals = number.replace(",", "").partition(".")
    zeros = len(str(scale)) - 1
    if scale == 10**zeros and len(decimals) <= zeros:
        return str(int(whole + decimals.ljust(zeros, "0")))
    return rf"({number} \cdot {scale})"


def _fraction(match: "re.Match[str]") -> str:
    top = match[2] or "1"
    part = match[3].lower()
    if match[2] and int(top) != 1 and not match[4] and part != "halves":
        return match.group()  # "3 third"
    fraction = rf"\frac{{{top}}}{{{_PARTS[part]}}}"
    return rf"({fraction} \cdot {match[5]})" if match[5] else fraction
