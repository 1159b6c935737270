r"""Reads the chains of a text: operands with nothing but operators between them, such as 3 + 4 = 7.

A text is brought into one notation first: LaTeX, Unicode signs and number words are written alike, and every
variable is v. A chain says numbers, relations (two operands and the operator between them), and what its
equations result in. Brackets are not known: they end no chain.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from extra_services.novelty.arithmetic import calculated
from extra_services.number_words import SMALL, decimals_in_figures, words_in_figures
from extra_services.runtime.memo import kept

#: Characters of the longest sentence, and operands of the longest chain, whose reading is kept.
LONGEST_KEPT, LONGEST_CHAIN_KEPT = 300, 32
#: Fractions within fractions that are read.
MOST_NESTED = 3
#: Operands of the longest side of an equation whose parts are calculated.
LONGEST_SIDE = 12
_LISTED_FUNCTION_WORDS = (
    "a about after again all also an and any are as at be because been before being between both but"
    " by can could do does down each either equal equals every exactly first for from get gets give"
    " gives go had has have he hence her here his how i if in into is it its just last leave leaves"
    " left let like made make makes many may more most must my need next no nor not now of off on once"
    " one only or other our out over second she should since so some such take takes than that the"
    " their them then there therefore these they third this those three through thus to together too"
    " two under until up us was we were what when where which while who whose why will with without"
    " would yet you your"
)
FUNCTION_WORDS = frozenset(_LISTED_FUNCTION_WORDS.split())
_NUMBER_WORDS = {word: str(value) for word, value in SMALL.items()}
#: What a number of several words holds.
_SEVERAL_WORDS = re.compile(r"ty(?<=[nrfxhe]ty)[\s-]|hundred|thousand|million")
_NUMBER_WORDS |= {
    "hundred": "100",
    "thousand": "1000",
    "twice": "2",
    "double": "2",
    "doubled": "2",
    "doubling": "2",
    "triple": "3",
    "half": "0.5",
    "third": "0.3333",
    "thirds": "0.6667",
    "quarter": "0.25",
    "quarters": "0.75",
}
_OPERATOR_WORDS = {
    "times": "*",
    "plus": "+",
    "minus": "-",
    "equals": "=",
    "multiplied": "*",
    "divided": "/",
    "by": "by",
}
_GREEK = frozenset(
    ["alpha", "beta", "gamma", "theta", "lambda", "mu", "pi", "phi", "sigma", "omega", "varphi"]
)
#: Short words that are no variables.
_STOP = FUNCTION_WORDS | {"ll", "re", "ve"}
_SIGNS = str.maketrans(
    {"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "—": " ", "²": "^2", "³": "^3", "⁴": "^4"}
    | {
        "√": " sqrt ",
        "≤": "<",
        "≥": ">",
        "≡": "=",
        "≈": "=",
        "→": "=",
        "½": " 1/2 ",
        "{": "(",
        "}": ")",
        "$": " ",
    }
)
_ARGUMENT = r"\s*(?:\(([^()]*)\)|([0-9a-zA-Z]))"
#: The variable a is no article where an operator or a number stands beside it: "3a + 10 = 2(a + 10)".
#: What has to stand before it is looked for behind it, so that the search skips all other characters.
_VARIABLE_A = re.compile(
    r"""
    [aA] (?<![A-Za-z\\][aA]) (?![A-Za-z])
    (?: (?=\s*[-+*/^=<>]) | (?<=\d[aA])
      | (?: (?<=[-+*/=(<>][aA]) | (?<=[-+*/=(<>]\s[aA]) ) (?=\s*(?:[).,;]|\n|\Z)) )
    """,
    re.VERBOSE,
)
#: Three or more numbers of three digits side by side, and two with dots behind them, are a list.
_LIST_OF_HUNDREDS = re.compile(
    r"\d\d\d(?<![\d,.]\d\d\d)(?:(?:,\d\d\d){2,}(?![\d,])|,\d\d\d(?=,\s?(?:\\[lc]?dots|\.\.)))"
)
_THOUSANDS = re.compile(r"\(,\)(?<=\d\(,\))|,(?<=\d,)(?=\d\d\d(?!\d))|\\,(?<=\d\\,)(?=\d\d\d(?!\d))")
#: "5 832": the marks for the thousands are spaces. "100 200" may be a list.
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,2}(?:[ \u00a0\u2009\u202f]\d{3})+(?![\d.]|,\d)")
#: An index without a sign, a cell of a table: x1, B4.
_NAME_WITH_INDEX = re.compile(r"(?<![A-Za-z\d\\])[A-Za-z]\d{1,2}(?![A-Za-z\d.])")
#: The label of a part: "k = 2:".
_LABEL = re.compile(r"\b[ijkmn]\s*=\s*\d+\s*:")
#: One number, a digit at a time: "1 2" for 12.
_SPACED_DIGITS = re.compile(r"\d(?<![\d.]\d)(?: \d)+(?![\d.])")
#: What such a number holds; a faster search.
_DIGIT_APART = re.compile(r"[ \u00a0\u2009\u202f](?<=\d.)\d")
_REWRITES = (
    (re.compile(r"\\(?:cdot|times|ast)(?![a-z])"), "*"),
    (re.compile(r"\\div(?![a-z])"), "/"),
    (re.compile(r"\\(?:equiv|approx|to)(?![a-z])"), "="),
    (re.compile(r"\\leq?(?![a-z])"), "<"),
    (re.compile(r"\\geq?(?![a-z])"), ">"),
    (
        re.compile(
            r"\\(?:left|right|[bB]igg?[lr]?|q?quad|displaystyle|text|math[a-z]+|operatorname|begin\(\w+\)"
            r"|end\(\w+\))(?![a-zA-Z])|\\[^a-zA-Z]"
        ),
        " ",
    ),
)
#: An index is no number: x_1, a_{12}.
_INDEX = re.compile(r"_(?<=[A-Za-z)]_)(?:\(\s*\w{1,3}\s*\)|\w)")
#: f(2) and a(n) are values, but 2(3) and 3 x(4) may be products.
_VALUE_OF = re.compile(r"\((?<=(?<![A-Za-z\\\d])[A-Za-z]\()\s*(?:\d+(?:\.\d+)?|[a-z])\s*\)(?=\s*[=<>+-])")
#: C(7, 3)
_CHOICES = re.compile(r"(?<![A-Za-z\\])C\(\s*(\d+)\s*,\s*(\d+)\s*\)")
_FRACTION = re.compile(r"\\[dtc]?frac" + _ARGUMENT + _ARGUMENT)
_BINOMIAL = re.compile(r"\\[dt]?binom" + _ARGUMENT + _ARGUMENT)
TOKEN = re.compile(r"\d+(?:\.\d+)?|\\?[A-Za-z]+|[-+*/^=<>!|]")
OPERATORS = frozenset("+-*/^=<>|")
_COMMUTATIVE = frozenset("+*=")


def normal_notation(text: str) -> str:
    """Return the text with one notation for operators, fractions and binomials."""
    text = text.translate(_SIGNS)
    if _SEVERAL_WORDS.search(text):
        text = words_in_figures(text)
    if " point " in text:
        text = decimals_in_figures(text)
    if ":" in text:
        text = _LABEL.sub(" ", text)
    if "," in text:
        text = _LIST_OF_HUNDREDS.sub(lambda listed: listed[0].replace(",", ", "), text)
        text = _THOUSANDS.sub("", text)
    if "\\" in text:
        for pattern, replacement in _REWRITES:
            text = pattern.sub(replacement, text)
    if "_" in text:
        text = _INDEX.sub("", text)
    if "C(" in text:
        text = _CHOICES.sub(r" \1|\2 ", text)
    text = _VALUE_OF.sub(" ", text)
    text = _NAME_WITH_INDEX.sub(" v ", text)
    if _DIGIT_APART.search(text):
        text = _SPACED_THOUSANDS.sub(lambda digits: re.sub(r"\D", "", digits[0]), text)
        text = _SPACED_DIGITS.sub(lambda digits: digits[0].replace(" ", ""), text)
    for _ in range(MOST_NESTED):  # \frac1{1-\frac56}
        if "frac" in text:
            text = _FRACTION.sub(lambda m: f" {m[1] or m[2]}/{m[3] or m[4]} ", text)
    if "binom" in text:
        text = _BINOMIAL.sub(lambda m: f" binom {m[1] or m[2]}|{m[3] or m[4]} ", text)
    return _VARIABLE_A.sub("v", text)


@dataclass(slots=True)
class Chain:
    """Operands with nothing but operators between them: 3, or 3 + 4 = 7."""

    sentence: int
    numbers: frozenset[str]
    relations: frozenset[str]
    #: What an equation between plain numbers results in; empty for any other chain.
    results: frozenset[str]
    #: Those of the numbers that are not written: 0.3 of 36/120.
    quotients: frozenset[str]
    #: Its result stands before the equality sign: 252 = 1*198 + 54.
    apart: bool
    #: A chain with an equation between plain sides that may be false, as it is written; "" for any other.
    doubtful: str


def features_of(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the numbers and relations of a text."""
    said = read_text(normal_notation(text))
    return (
        frozenset().union(*(numbers for numbers, *_ in said)),
        frozenset().union(*(relations for _, relations, *_ in said)),
    )


def read_chains(sentences: list[str]) -> list[Chain]:
    """Return the chains of sentences in normal notation, in order."""
    chains: list[Chain] = []
    for place, sentence in enumerate(sentences):
        chains += [Chain(place, *said) for said in read_text(sentence)]
    return chains


#: What a `Chain` says, wherever it stands.
_Said = tuple[frozenset[str], frozenset[str], frozenset[str], frozenset[str], bool, str]
_NOTHING: frozenset[str] = frozenset()


@kept(LONGEST_KEPT, most=16384)
def read_text(text: str) -> tuple[_Said, ...]:
    """Return what the chains of a text in normal notation say.

    Kept, because the solutions of a problem have many sentences in common, and even more chains.
    """
    said: list[_Said] = []
    operands: list[str] = []
    operators: list[str] = []
    before = ""
    for operand, operator in map(read_token, TOKEN.findall(text)):
        if operator:
            # "divided by" is one operator.
            before = before if operator == "by" and before else operator
            continue
        if operand and operands and before in OPERATORS:
            operators.append(before)
            operands.append(operand)
        else:
            if operands:
                said.append(_said(operands, operators))
                operators = []
            operands = [operand] if operand else []
        before = ""
    if operands:
        said.append(_said(operands, operators))
    return tuple(said)


def _said(operands: list[str], operators: list[str]) -> _Said:
    """Return what a chain says; `operators` are between the operands."""
    if not operators:
        return (
            _NOTHING if operands[0] == "v" else frozenset(operands),
            _NOTHING,
            _NOTHING,
            _NOTHING,
            False,
            "",
        )
    return _said_by_all(tuple(operands), tuple(operators))


@lru_cache(maxsize=65536)
def read_token(token: str) -> tuple[str, str]:
    """Return the operand or the operator that a token is; both are empty for what ends a chain."""
    if token[0].isdigit():
        return plain_number(token), ""
    if not (token[0].isalpha() or token[0] == "\\"):
        return "", token
    word = token.lstrip("\\").lower()
    if word in _OPERATOR_WORDS:
        return "", _OPERATOR_WORDS[word]
    if word in _NUMBER_WORDS:
        return _NUMBER_WORDS[word], ""
    variable = word in _GREEK or (len(word) <= 2 and token[0] != "\\" and word not in _STOP)
    return ("v" if variable else ""), ""


@kept(LONGEST_CHAIN_KEPT, most=16384)
def _said_by_all(operands: tuple[str, ...], operators: tuple[str, ...]) -> _Said:
    """Return what a chain of two operands or more says."""
    operands, operators = _without_splits(operands, operators)
    written = frozenset(operands) - {"v"}
    quotients: set[str] = set()
    relations: set[str] = set()
    for left, operator, right in zip(operands, operators, operands[1:], strict=False):
        relations.add(relation_of(left, operator, right))
        if operator == "/" and "v" not in (left, right) and right != "0":
            quotients.add(plain_number(str(float(left) / float(right))))
    results: set[str] = set()
    doubtful = _doubtful(operands, operators) if "=" in operators and len(operators) > 1 else ""
    if "=" in operators and "v" not in operands:
        around = ["=", *operators, "="]
        # An operand between two equality signs, or at one end beside one, stands alone on its side.
        results = {
            operand
            for operand, *signs in zip(operands, around, around[1:], strict=False)
            if signs == ["=", "="]
        }
    quotients -= written
    apart = results == {operands[0]} and operators[0] == "="
    said = written | quotients, frozenset(relations), frozenset(results), frozenset(quotients)
    return *said, apart, doubtful


def relation_of(left: str, operator: str, right: str) -> str:
    """Return a relation, with the operands in one order where it does not matter."""
    ends = sorted((left, right)) if operator in _COMMUTATIVE else (left, right)
    return f"{ends[0]}{operator}{ends[1]}"


def _without_splits(
    operands: tuple[str, ...], operators: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return a chain without the plain sides that are made up: 3*4 = 5+7 = 12 says 3*4 = 12.

    No operand of such a side comes from the side before it, as it is or by a calculation of a part of it.
    """
    sides = _sides(operands, operators, "=")
    if len(sides) < 3 or _takes_apart(*sides[:2]):
        return operands, operators
    chain = before = sides[0]
    for side in sides[1:]:
        # What a side with variables is cannot be told from them: x^3 + 1/x^3 = 125 - 15.
        calculates = len(side) > 1 and 1 < len(before[::2]) <= LONGEST_SIDE and "v" not in before
        if not (calculates and "v" not in side and _from_nowhere(side, before)):
            chain, before = [*chain, "=", *side], side
    return tuple(chain[::2]), tuple(chain[1::2])


def _takes_apart(first: list[str], second: list[str]) -> bool:
    """Return whether a chain starts from a number's parts: 360 = 36*10 = 4*9*10."""
    return len(first) == 1 and "v" not in first + second and _equal(first, second)


def _sides(operands: tuple[str, ...], operators: tuple[str, ...], signs: str) -> list[list[str]]:
    """Return the expressions between the signs of a chain, each as operands and operators in turn."""
    sides = [[operands[0]]]
    for operator, operand in zip(operators, operands[1:], strict=True):
        if operator in signs:
            sides.append([operand])
        else:
            sides[-1] += [operator, operand]
    return sides


def _from_nowhere(side: list[str], before: list[str]) -> bool:
    """Return whether no operand is one of the side before, or the value of a part of it."""
    values = set(before[::2])
    for start in range(0, len(before), 2):
        for end in range(start + 2, len(before), 2):
            part = before[start : end + 1]
            if "v" in part:
                break
            value = calculated(part)
            if value is not None:
                values.add(rounded(value))
    return values.isdisjoint(side[::2])


def _doubtful(operands: tuple[str, ...], operators: tuple[str, ...]) -> str:
    """Return how a chain with equations is written, or "" if they are true at first sight.

    Brackets are not known here, so that many a true equation looks false.
    """
    sides = _sides(operands, operators, "=<>")
    signs = [operator for operator in operators if operator in "=<>"]
    for left, sign, right in zip(sides, signs, sides[1:], strict=False):
        plain = sign == "=" and len(left) + len(right) > 2 and "v" not in left and "v" not in right
        if plain and not _equal(left, right):
            (whole,) = _sides(operands, operators, "")
            return " ".join(whole)
    return ""


def _equal(left: list[str], right: list[str]) -> bool:
    values = calculated(left), calculated(right)
    return values[0] is not None and values[1] is not None and abs(values[0] - values[1]) < 1e-4


def rounded(value: float) -> str:
    """Return a calculated number as `plain_number` returns a written one."""
    return plain_number(f"{value:.6f}")


@lru_cache(maxsize=65536)
def plain_number(digits: str) -> str:
    """Return a number in one notation, rounded to four decimals."""
    value = float(digits)
    return f"{round(value, 4):g}" if value < 1e6 else digits
