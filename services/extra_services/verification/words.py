r"""Words in an answer: what they say as mathematics, and which of them say nothing.

`in_figures` writes number words and spoken arithmetic as LaTeX ("minus seven", "3 million", "half of 14", "7
factorial"). `without_fillers` removes phrases that announce or round an answer. What is left and still has
English words is either a counted noun behind a number ("26 apples"; see `counted_noun`) or unreadable: a word
that is not understood may change the number ("anything except 7"), so it is never ignored.
"""

import re

_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SMALL = {word: value for value, word in enumerate(_ONES)} | {
    word: 10 * value for value, word in enumerate(_TENS, 2)
}
_SCALES = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
    "lakh": 10**5, "crore": 10**7,
}  # fmt: skip
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
    "eighth": 8,
    "ninth": 9, "tenth": 10, "hundredth": 100, "thousandth": 1000, "millionth": 10**6,
}  # fmt: skip
_SMALL_WORD = "|".join(sorted(_SMALL, key=len, reverse=True))
_NUMBER_WORD = rf"(?:{_SMALL_WORD})(?:[ -](?:{'|'.join(_ONES[1:10])}))?(?![a-z])"
_NUMBER_WORDS = re.compile(
    rf"(?<![a-z\\])(?:a\s+(?=hundred|thousand|million)|(?={_SMALL_WORD}))(?:{_NUMBER_WORD}|hundred|thousand|million|billion"
    rf"|trillion)(?:[\s-]+(?:and\s+(?={_SMALL_WORD}))?(?:{_NUMBER_WORD}|hundred|thousand|million|billion|trillion)(?![a-z]))*(?![a-z])",
    re.IGNORECASE,
)
_VALUE = r"(-?(?:\\frac\{\d+\}\{\d+\}|\d[\d,]*(?:\.\d+)?(?:/\d+)?))"
_PART = "|".join(_PARTS)
_SPOKEN = tuple(
    (re.compile(pattern, re.IGNORECASE), latex)
    for pattern, latex in (
        (rf"\b(?:one|a|1)[ -](?:and[ -]a[ -])?half\s+of\s+{_VALUE}", r"\\frac{\1}{2}"),
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
)  # fmt: skip
_PART_OF = re.compile(
    rf"(?:\b(a|an|one)|(?<![\d.,/])(\d+))[ -]({_PART})(s?)\b(?:\s+of\s+(?:a\s+)?{_VALUE})?", re.IGNORECASE
)
_AND_PART = re.compile(r"(\d+)\s+and\s+(\\frac\{\d+\}\{\d+\})")
_SCALED = re.compile(rf"(?<![\w.])(-?\d[\d,]*(?:\.\d+)?)\s*-?({'|'.join(_SCALES)})s?(?![a-z])", re.IGNORECASE)
_CJK_SCALED = re.compile(r"(\d[\d,]*(?:\.\d+)?)\s*(百|千|万|萬|亿|億)")
_CJK_SCALES = {"百": 10**2, "千": 10**3, "万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_ORDINAL = re.compile(
    r"(?<![\w.])(\d+)\s*(?:\^\s*\{?\s*)?(?:\\(?:text|mathrm|textrm)\s*\{\s*)?(?:st|nd|rd|th)(?:\s*\})*(?![a-z\w])"
)
_FILLERS = re.compile(
    r"(?<![a-z\\])(?:(?:therefore|thus|hence|so|finally|namely|indeed)\b,?|(?:(?:the|my|our|your|final|correct|exact|required|"
    r"numerical)\s+)*(?:answers?|results?|solutions?|value|total|sum|product|number|amount|probability|area|volume|length|"
    r"distance|perimeter|minimum|maximum|remainder)(?:\s+(?:value|number|amount|sum|area|length))?\s+(?:is|are|equals|=|:|must\s+be|will\s+be|would\s+be)"
    r"|it\s+is|it's|there\s+(?:are|is)|a\s+total\s+of|equal(?:s)?\s+to|equals|exactly|precisely|simply|just)(?=[\s:\d\\$-])\s*:?\s*",
    re.IGNORECASE,
)
_APPROXIMATE = re.compile(
    r"(?<![a-z\\])(?:approximately|approx\.?|about|around|roughly|nearly|circa|ca\.)(?=[\s\d$\\-])\s*"
    r"|\s*\((?:approximately|approx\.?|exactly|rounded)\)\s*\Z|\s+(?:approximately|exactly|in\s+total|in\s+all|altogether|total|overall)\s*\Z",
    re.IGNORECASE,
)
#: Words behind a number that change it, or leave open whether it is the answer.
_CHANGING = frozenset(
    [
        "no",
        "none",
        "nor",
        "not",
        "never",
        "neither",
        "either",
        "without",
        "except",
        "excepting",
        "excluded",
        "excluding",
        "excludes",
        "exclude",
        "but",
        "besides",
        "unless",
        "if",
        "when",
        "whether",
        "where",
        "while",
        "until",
        "or",
        "and",
        "more",
        "less",
        "fewer",
        "greater",
        "smaller",
        "larger",
        "bigger",
        "least",
        "most",
        "than",
        "over",
        "under",
        "above",
        "below",
        "between",
        "before",
        "after",
        "ago",
        "up",
        "down",
        "short",
        "off",
        "away",
        "to",
        "minus",
        "plus",
        "times",
        "halves",
        "thirds",
        "quarters",
        "fourths",
        "fifths",
        "sixths",
        "sevenths",
        "eighths",
        "ninths",
        "tenths",
        "hundredths",
        "thousandths",
        "millionths",
        "half",
        "third",
        "quarter",
        "squared",
        "cubed",
        "factorial",
        "factorials",
        "hundred",
        "hundreds",
        "thousand",
        "thousands",
        "million",
        "millions",
        "billion",
        "billions",
        "dozen",
        "dozens",
        "scores",
        "percent",
        "degrees",
        "degree",
        "base",
        "mod",
        "modulo",
        "root",
        "roots",
        "power",
        "twice",
        "double",
        "triple",
        "remainder",
        "maybe",
        "perhaps",
        "possibly",
        "probably",
        "possible",
        "impossible",
        "wrong",
        "incorrect",
        "false",
        "invalid",
        "rejected",
        "ruled",
        "discarded",
        "missing",
        "omitted",
        "removed",
        "fails",
        "does",
        "doesn't",
        "isn't",
        "aren't",
        "don't",
        "cannot",
        "can't",
        "vs",
        "versus",
        "other",
        "others",
        "otherwise",
        "else",
        "depends",
        "unknown",
        "undefined",
        "all",
        "any",
        "every",
        "some",
        "guess",
        "plusminus",
        "squares",
        "cubes",
        "inverse",
        "negative",
        "opposite",
        "digits",
    ]
)
_PLURALS = frozenset(
    ["people", "men", "women", "children", "students", "persons", "sheep", "fish", "mice", "teeth",
    "geese", "dice", "cattle", "feet", "inches", "pence", "deer", "oxen", "way", "time", "person", "ways"]
)  # fmt: skip
_NOUNS_BEHIND = frozenset(
    [
        "in",
        "of",
        "all",
        "total",
        "on",
        "per",
        "the",
        "each",
        "a",
        "an",
        "for",
        "his",
        "her",
        "their",
        "your",
        "our",
        "from",
        "at",
        "with",
        "left",
        "there",
    ]
)
_ENGLISH = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z][a-z']{2,}(?![a-zA-Z])")


def in_figures(text: str) -> str:
    """Return `text` with number words and spoken arithmetic as LaTeX."""
    if _ORDINAL.search(text):
        text = _ORDINAL.sub(r"\1", text)
    text = _CJK_SCALED.sub(lambda found: _scaled(found[1], _CJK_SCALES[found[2]]), text)
    if not _ENGLISH.search(text) and " to " not in text:
        return text
    text = _NUMBER_WORDS.sub(lambda found: str(_spelled(found.group())), text)
    text = _SCALED.sub(lambda found: _scaled(found[1], _SCALES[found[2].lower()]), text)
    text = _AND_PART.sub(r"\1\2", _PART_OF.sub(_fraction, text))
    for pattern, latex in _SPOKEN:
        text = pattern.sub(latex, text)
    return text


def _scaled(number: str, scale: int) -> str:
    whole, _, decimals = number.replace(",", "").partition(".")
    zeros = len(str(scale)) - 1
    if scale == 10**zeros and len(decimals) <= zeros:
        return str(int(whole + decimals.ljust(zeros, "0")))
    return rf"({number} \cdot {scale})"


def _spelled(words: str) -> int:
    total = current = 0
    for word in re.split(r"[\s-]+", words.lower()):
        if word in _SMALL:
            current += _SMALL[word]
        elif word == "hundred":
            current = max(current, 1) * 100
        elif word in _SCALES:
            total, current = total + max(current, 1) * _SCALES[word], 0
    return total + current


def _fraction(match: "re.Match[str]") -> str:
    top = match[2] or "1"
    part = match[3].lower()
    if match[2] and int(top) != 1 and not match[4] and part != "halves":
        return match.group()  # "3 third"
    bottom = _PARTS[part]
    fraction = rf"\frac{{{top}}}{{{bottom}}}"
    return rf"({fraction} \cdot {match[5]})" if match[5] else fraction


def without_fillers(text: str) -> str:
    """Return `text` without phrases that announce, round or sum up an answer."""
    if not _ENGLISH.search(text):
        return text
    return _APPROXIMATE.sub(" ", _FILLERS.sub(" ", text)).strip()


def counted_noun(words: str) -> str | None:
    """Return the nouns if `words` name counted things ("apples in all"), else None."""
    names = [word for word in re.split(r"[^a-z'\u4e00-\u9fff]+", words.lower()) if word]
    if len(names) == 1 and not names[0].isascii():
        return names[0] if _is_measure_word(names[0]) else None
    if not names or any(name in _CHANGING for name in names) or re.search(r"[\d=<>\\^_{}]", words):
        return None
    nouns = [name for name in names if name not in _NOUNS_BEHIND]
    if not nouns or not any(_plural(name) for name in nouns) or len(names) > 8:
        return None
    return " ".join(name.removesuffix("s") for name in nouns)


def counts_as_change(words: str) -> bool:
    """Return whether one of `words` may change the number beside it ("not", "half", "except")."""
    return any(word in _CHANGING for word in re.findall(r"[a-z']+", words.lower()))


def _plural(name: str) -> bool:
    return name in _PLURALS or (len(name) > 3 and name.endswith("s") and not name.endswith("ss"))


_MEASURE_WORDS = frozenset(
    [
        "个",
        "個",
        "只",
        "隻",
        "条",
        "條",
        "本",
        "张",
        "張",
        "人",
        "次",
        "种",
        "種",
        "件",
        "块",
        "塊",
        "台",
        "辆",
        "棵",
        "名",
        "位",
        "对",
        "双",
        "套",
        "支",
        "枚",
        "颗",
        "朵",
        "头",
        "匹",
        "岁",
        "元",
        "角",
        "分",
        "组",
        "班",
        "页",
        "题",
        "道",
        "步",
        "项",
        "组数",
        "种方法",
        "个数",
        "倍",
        "度",
        "개",
        "명",
        "本",
        "つ",
        "回",
        "組",
    ]
)


def _is_measure_word(text: str) -> bool:
    return text in _MEASURE_WORDS


def has_english(text: str) -> bool:
    r"""Return whether `text` has words that are no commands and no products of variables."""
    return any(_is_word(match.group()) for match in _ENGLISH.finditer(text))


_NAMES = frozenset(
    [
        "sqrt",
        "exp",
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "log",
        "gcd",
        "lcm",
        "min",
        "max",
        "inf",
        "infinity",
        "theta",
        "alpha",
        "beta",
        "gamma",
        "delta",
        "lambda",
        "omega",
        "phi",
        "sigma",
        "rho",
        "tau",
        "det",
        "abs",
        "floor",
        "ceil",
        "mod",
        "pmatrix",
        "matrix",
        "bmatrix",
        "vmatrix",
        "array",
        "cases",
        "begin",
        "end",
    ]
)
_VOWELS = frozenset("aeiouy")
_SHORT_WORDS = frozenset(
    [
        "the",
        "and",
        "not",
        "but",
        "for",
        "are",
        "was",
        "has",
        "had",
        "can",
        "may",
        "any",
        "all",
        "one",
        "two",
        "its",
        "our",
        "out",
        "now",
        "yet",
        "nor",
        "per",
        "via",
        "off",
        "let",
        "get",
        "got",
        "use",
        "try",
        "see",
        "say",
        "set",
        "sum",
        "odd",
        "even",
        "yes",
        "none",
        "only",
        "else",
        "than",
        "then",
        "that",
        "this",
        "them",
        "they",
        "with",
        "from",
        "into",
        "upto",
    ]
)


def _is_word(name: str) -> bool:
    lower = name.lower()
    if lower in _NAMES:
        return False
    return lower in _SHORT_WORDS or (len(name) >= 4 and bool(_VOWELS & set(lower)))
