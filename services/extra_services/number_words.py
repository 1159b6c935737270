"""Numbers in English words, written in figures. Shared by verification and novelty.

A run of number words is read as the one number it spells ("one hundred and forty-four" is 144). A run that
spells none ("seven eight") stays as it is.
"""

import re

_LISTED_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
)
_LISTED_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
#: The numbers of a single word below hundred.
SMALL = {word: value for value, word in enumerate(_LISTED_ONES.split())} | {
    word: 10 * value for value, word in enumerate(_LISTED_TENS.split(), 2)
}
LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_SMALL_WORD = rf"(?:{'|'.join(sorted(SMALL, key=len, reverse=True))})(?![a-z])"
_WORD = rf"(?:{_SMALL_WORD}|(?:hundred|{'|'.join(LARGE)})(?![a-z]))"
_RUN = re.compile(
    rf"(?<![a-z\\])(?:{_SMALL_WORD}|an?\s+(?:hundred|{'|'.join(LARGE)})(?![a-z]))(?:(?:\s+and)?[\s-]+{_WORD})*",
    re.IGNORECASE,
)

_DIGIT = "|".join(_LISTED_ONES.split()[:10])
_DECIMAL = re.compile(
    rf"(?<![a-z\d.])({_SMALL_WORD}|\d+)\s+point\s+((?:{_DIGIT})(?![a-z])(?:[\s-]+(?:{_DIGIT})(?![a-z]))*|[1-9]\d?(?![\d.])"
    rf"|(?:{'|'.join(_LISTED_TENS.split())})(?:-(?:{_DIGIT}))?(?![a-z]))",
    re.IGNORECASE,
)


def decimals_in_figures(text: str) -> str:
    """Return `text` with decimals in words in figures ("zero point seven five" as 0.75)."""
    return _DECIMAL.sub(_decimal, text)


def _decimal(match: "re.Match[str]") -> str:
    whole, digits = match[1].lower(), re.split(r"[\s-]+", match[2].lower())
    if len(digits) > 1 and digits[0] in SMALL and SMALL[digits[0]] >= 20:  # "point seventy-five"
        digits = [str(SMALL[digits[0]] + SMALL[digits[1]])]
    return f"{SMALL.get(whole, whole)}.{''.join(str(SMALL.get(one, one)) for one in digits)}"


def words_in_figures(text: str) -> str:
    """Return `text` with each number in words in figures, single words included."""
    return _RUN.sub(lambda run: _each_in_figures(run.group()), text)


def _each_in_figures(run: str) -> str:
    """Return a run of number words in figures; "one and three" (fifths) is two numbers."""
    figures = _figures(run)
    first, joint, second = re.split(r"(\s+and\s+)", run, maxsplit=1) if " and " in run else (run, "", "")
    return _figures(first) + joint + _each_in_figures(second) if joint and figures == run else figures


def _figures(run: str) -> str:
    """Return the number that a run of number words spells, or the run if it spells none."""
    words = [word for word in re.split(r"[\s-]+", run.lower()) if word not in ("and", "a", "an")]
    total, current, last_scale = 0, 0, 10**15
    for word in words:
        if word in SMALL:
            tens_before = current % 100 >= 20 and current % 10 == 0 and 0 < SMALL[word] < 10
            if current % 100 and not tens_before:
                return run
            current += SMALL[word]
        elif word == "hundred":
            if current >= 100:
                return run
            current = max(current, 1) * 100
        else:
            if LARGE[word] >= last_scale:
                return run
            last_scale = LARGE[word]
            total, current = total + max(current, 1) * last_scale, 0
    return run if words[0] == "zero" and len(words) > 1 else str(total + current)
