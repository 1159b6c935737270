r"""Words in an answer that say nothing, count things, or make it unreadable.

`without_fillers` removes phrases that announce or round an answer. What is left and still has English words
(`has_english`) is either a counted noun behind a number ("26 apples"; see `counted_noun`) or unreadable: a
word that is not understood may change the number ("anything except 7"), so it is never ignored. The words
that are numbers are read in `spoken`.
"""

import re

from extra_services.verification.symbols import word_set

_NOUN = (
    "answers?|results?|solutions?|value|total|sum|product|number|amount|probability|area|volume|length|distance"
    "|perimeter|minimum|maximum|remainder"
)
_FILLERS = re.compile(
    r"(?<![a-z\\])(?:(?:therefore|thus|hence|so|finally|namely|indeed)\b,?"
    rf"|(?:(?:the|my|our|your|final|correct|exact|required|numerical)\s+)*(?:{_NOUN})"
    r"(?:\s+(?:value|number|amount|sum|area|length))?\s+(?:is|are|equals|=|:|must\s+be|will\s+be|would\s+be)"
    r"|it\s+is|it's|there\s+(?:are|is)|a\s+total\s+of|equal(?:s)?\s+to|equals|exactly|precisely|simply|just"
    r")(?=[\s:\d\\$-])\s*:?\s*",
    re.IGNORECASE,
)
_EITHER = re.compile(r"\b(?:either|both)\s+(?=.{1,80}?\b(?:or|and)\b)", re.IGNORECASE)
_APPROXIMATE = re.compile(
    r"(?<![a-z\\])(?:approximately|approx\.?|about|around|roughly|circa|ca\.)(?=[\s\d$\\-])\s*"
    r"|\s*\((?:approximately|approx\.?|exactly|rounded)\)\s*\Z"
    r"|\s+(?:approximately|exactly|in\s+total|in\s+all|altogether|total|overall)\s*\Z",
    re.IGNORECASE,
)
#: Words behind a number that change it, or leave open whether it is the answer.
_CHANGING = word_set(
    """
    per no none nor not never neither either without except excepting excluded excluding excludes
    exclude but besides unless if when whether where while until or and more less fewer greater smaller
    larger bigger least most than over under above below between before after ago up down short off away
    to minus plus times halves thirds quarters fourths fifths sixths sevenths eighths ninths tenths
    hundredths thousandths millionths half third quarter squared cubed factorial factorials hundred
    hundreds thousand thousands million millions billion billions dozen dozens scores percent degrees
    degree base mod modulo root roots power twice double triple remainder maybe perhaps possibly
    probably possible impossible wrong incorrect false invalid rejected ruled discarded missing omitted
    removed fails does doesn't isn't aren't don't cannot can't vs versus other others otherwise else
    depends unknown undefined all any every some guess plusminus squares cubes inverse negative opposite
    digits too few extra additional further
    """
)
_PLURALS = word_set(
    """
    people men women children students persons sheep fish mice teeth geese dice cattle feet inches pence
    deer oxen way time person ways
    """
)
_NOUNS_BEHIND = word_set(
    """
    in of all total on the each a an for his her their your our from at with left there
    """
)
_WHOLE_WORDS = {"sq": "square", "cu": "cubic"}
#: Chinese, Japanese and Korean words that count things.
MEASURE_WORDS = word_set(
    """
    个 個 只 隻 条 條 本 张 張 人 次 种 種 件 块 塊 台 辆 棵 名 位 对 双 套 支 枚 颗 朵 头 匹
    岁 元 角 分 组 班 页 题 道 步 项 组数 种方法 个数 倍 度 개 명 つ 回 組
    """
)
#: Names of functions and letters, which are no words.
_NAMES = word_set(
    """
    sqrt exp sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log gcd lcm min max inf
    infinity theta alpha beta gamma delta lambda omega phi sigma rho tau det abs floor ceil mod pmatrix
    matrix bmatrix vmatrix array cases begin end
    """
)
_VOWELS = frozenset("aeiouy")
_SHORT_WORDS = word_set(
    """
    the and not but for are was has had can may any all one two its our out now yet nor per via off let
    get got use try see say set sum odd even yes none only else than then that this them they with from
    into upto
    """
)
#: Words of two letters; between spaces they are no products.
_TINY_WORDS = re.compile(
    r"(?<![^\s])(?:by|of|or|to|is|it|if|no|on|at|as|an|so|up|be|we|do|go)(?![^\s])", re.IGNORECASE
)
_TWO_LETTERS = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2}")
_ENGLISH = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z][a-z']{2,}(?![a-zA-Z])")


def without_fillers(text: str) -> str:
    """Return `text` without phrases that announce, round or sum up an answer."""
    if not _TWO_LETTERS.search(text):
        return text
    return _APPROXIMATE.sub(" ", _FILLERS.sub(" ", text)).strip()


def without_either(text: str) -> str:
    """Return "either 3 or 5" and "both 3 and 5" as "3 or 5" and "3 and 5"."""
    return _EITHER.sub("", text)


def counted_noun(words: str) -> str | None:
    """Return the nouns if `words` name counted things ("apples in all"), else None."""
    names = [word for word in re.split(r"[^a-z'\u4e00-\u9fff]+", words.lower()) if word]
    if len(names) == 1 and not names[0].isascii():
        return names[0] if names[0] in MEASURE_WORDS else None
    if not names or any(name in _CHANGING for name in names) or re.search(r"[\d=<>\\^_{}]", words):
        return None
    nouns = [_WHOLE_WORDS.get(name, name) for name in names if name not in _NOUNS_BEHIND]
    if not nouns or not any(_plural(name) for name in nouns) or len(names) > 8:
        return None
    return " ".join(name.removesuffix("s") for name in nouns)


def counts_as_change(words: str) -> bool:
    """Return whether one of `words` may change the number beside it ("not", "half", "except")."""
    return any(word in _CHANGING for word in re.findall(r"[a-z']+", words.lower()))


def _plural(name: str) -> bool:
    return name in _PLURALS or (len(name) > 3 and name.endswith("s") and not name.endswith("ss"))


def has_english(text: str) -> bool:
    r"""Return whether `text` has words that are no commands and no products of variables."""
    return any(_is_word(match.group()) for match in _ENGLISH.finditer(text)) or bool(_TINY_WORDS.search(text))


def _is_word(name: str) -> bool:
    lower = name.lower()
    if lower in _NAMES:
        return False
    return lower in _SHORT_WORDS or (len(name) >= 4 and bool(_VOWELS & set(lower)))
