r"""Rewrite answers of people and models as LaTeX that latex2sympy reads correctly.

This module turns text into text; it does no mathematics. latex2sympy 1.11 misreads many notations without an
error ("12 345" as 12 + 345, "2(3)" as 2 + 3, `exp(16)` as e*x*p*16, "1e5" as 1*e*5), and math-verify then
uses the first number it can find: to it 4\sqrt(2) equals 4. So each such notation is rewritten first, and an
answer that latex2sympy cannot read whole counts as unreadable.

A percent sign, a degree sign and a unit are removed and returned separately (`Written`): their meaning is a
convention, on which the comparison decides.
"""

import re
from dataclasses import dataclass, replace

from extra_services.verification.functions import standard_functions
from extra_services.verification.listing import members
from extra_services.verification.normalization import (
    braced_fractions,
    set_of_numbers,
    unwrapped,
    without_thousands,
)
from extra_services.verification.spoken import chinese_in_figures, in_figures, without_ordinals
from extra_services.verification.symbols import plain_punctuation, symbols_as_commands
from extra_services.verification.units import Unit, mixed_quantity, split_currency, split_unit, unit_named
from extra_services.verification.words import (
    MEASURE_WORDS,
    counts_as_change,
    has_english,
    without_either,
    without_fillers,
)
from extra_services.verification.wrappers import unwrap_commands


@dataclass(frozen=True)
class Written:
    """An answer as LaTeX for latex2sympy, without percent sign, degree sign and unit."""

    latex: str
    percent: bool = False
    degrees: bool = False
    unit: Unit | None = None
    #: The answer including a letter that may be a unit ("37/4 m", where m may be a mass), if that differs.
    with_letter: str = ""
    #: The answer with its angles in radians, if it is more than one angle ("(2, 60^\\circ)").
    in_radians: str = ""
    #: The digits as written of a number in a base other than ten ("52" of "52_8").
    digits: str = ""
    #: "or" joins conditions ("x < 4 or x > 1"), so that they are a union.
    alternatives: bool = False
    #: "and" joins conditions ("x > 1 and x < 4"), so that all of them hold.
    together: bool = False


#: Names that plain text writes without a backslash.
_FUNCTIONS = "sqrt|exp|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|ln|log|min|max|gcd|lcm"
_NAMES = f"{_FUNCTIONS}|pi|theta|alpha|beta|gamma|delta|lambda|mu|omega|phi|sigma|rho|tau|infty"
_BARE_NAME = re.compile(rf"(?<![\\a-zA-Z])(?:np\.|math\.|sympy\.)?({_NAMES})(?![a-zA-Z])")
_INFINITY = re.compile(r"(?<![\\a-zA-Z])(?:infinity|inf|oo)(?![a-zA-Z])")
_HEXADECIMAL = re.compile(r"\\(?:text|mathrm|textrm|mbox)\s*\{\s*([0-9A-F]+)\s*\}(?=\s*_\s*\{?\s*\(?16)")
_DELIMITERS = re.compile(r"(?<!\\)\$\$?|\\[()\[\]](?![a-zA-Z])")
#: "$50": a dollar sign that begins no formula.
_AMOUNT = re.compile(r"-?\$\s?\d[\d,]*(?:\.\d+)?(?:\s+[a-zA-Z ]+)?\Z")
#: "\\vec a".
_ACCENT = re.compile(r"(\\(?:vec|hat|bar|overline|mathbf|widehat)) +([a-zA-Z])(?![a-zA-Z])")
#: The arc that an answer is the measure of: "m\\widehat{AB} = 120^\\circ".
_ARC = re.compile(
    r"\A\s*m?\s*\\(?:widehat|overset\s*\{\s*\\frown\s*\}|overarc|arc)\s*\{[A-Z]{2,3}\}\s*=\s*(?=[\d\\(-])"
)
_STYLE = re.compile(
    r"\\(?:displaystyle|textstyle|limits|nolimits|rm|bf|it)(?![a-zA-Z])|\\(?:hspace|vspace|phantom)\{[^{}]*\}"
)
_SPACES = re.compile(r"(?<!\\)\\(?:[ ;:>]|(?:quad|qquad|enspace|thinspace)(?![a-zA-Z]))|~|\u200b|\ufeff")
_SIZES = re.compile(r"\\[bB]igg?[lrm]?(?![a-zA-Z])|\\middle(?![a-zA-Z])|\\(?:left|right)\s*\.")
_FONT = re.compile(
    r"\\(?:mathrm|mathbf|mathit|mathsf|textbf|textit|textrm|boldsymbol|bm|operatorname\*?|mathop)"
    r"\s*\{([^{}]*)\}"
)
_TEXT = re.compile(r"\\(?:text|mbox|textnormal|textup)\s*\{([^{}]*)\}")
_SPACED_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?: \d{3})+(?:\.\d+)?\Z")
_NUMBERS_SIDE_BY_SIDE = re.compile(r"(?<![_^.\d])\d+(?:\.\d+)?\s+\.?\d")
#: "3_a", which latex2sympy reads as 3.
_INDEX_OF_NUMBER = re.compile(r"(?<![\w}])\d+_\{?[a-zA-Z]")
_SCIENTIFIC = re.compile(r"(?<![a-zA-Z\\_^{\d.])(\d+\.?\d*|\.\d+)[eE]([+-]?\d+)(?![a-zA-Z\d.])")
_TRAILING_POINT = re.compile(r"(?<=\d)\.(?!\d)")
_LEADING_POINT = re.compile(r"(?<!\d)\.(?=\d)")
_MIXED = re.compile(r"(?<![\d./}])(\d+)\s+(\d+)/(\d+)(?![\d/])")
_BASED = re.compile(
    r"(-?(?:\d|[A-F]\d)[0-9A-F]*|-?[A-F]+(?=_\{?\(?16))(?:_\{?\(?|\s+(?:in\s+)?base\s+)(\d{1,2})\)?\}?\Z"
)
_PERCENT = re.compile(r"\s*(?:\\?%|\bper\s?cent(?:age)?(?:\s+points?)?\b|\bpct\b)\s*\Z", re.IGNORECASE)
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-z])|\bdegrees?\b|(?<!\\)\bdeg\b)")
_VARIABLE_BEHIND = re.compile(r"(?<![a-zA-Z])[a-zA-Z]\s*\Z")
_TRIGONOMETRY = re.compile(r"(?<![a-z])\\?(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_ANGLE = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?")
_RADIANS = r"(\\frac{\1\\pi}{180})"
_CJK = re.compile(r"[\u3400-\u9fff\uac00-\ud7af\u3040-\u30ff]")
_AND = re.compile(r"\s*,?\s*(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])\s*,?\s*|\s*(?:[和或与及]|\\&)\s*")
_OR = re.compile(r"(?<![a-zA-Z\\])or(?![a-zA-Z])|或")
_BOTH = re.compile(r"(?<![a-zA-Z\\])and(?![a-zA-Z])|且")
#: The signs of logic between conditions; between statements they are no list.
_JUNCTIONS = (
    (re.compile(r"\\(?:lor|vee)(?![a-zA-Z])|∨"), " or "),
    (re.compile(r"\\(?:land|wedge)(?![a-zA-Z])|∧"), " and "),
)
_ORDER = re.compile(r"[<>≤≥]|\\(?:leq?|geq?|[lg]t|leqslant|geqslant)(?![a-zA-Z])")
_TIMES_BEFORE_PAREN = re.compile(r"(?<=[\d}])\s*(?=\((?!\s*\)))|(?<=\))\s*(?=\(|\d)")
_BUILDER = re.compile(
    r"\\\{\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\{?\w\}?\s*)?(?:\\mid|\\vert|\||:)\s*(.+)\\\}\Z"
)
_NEGATIVE_POWER = re.compile(r"\^\s*(-\s*(?:\d+|\\?[a-zA-Z]+))")
_GAMMA = re.compile(r"\\gamma(?![a-zA-Z])")
_CAPITAL_GAMMA = re.compile(r"\\Gamma(?![a-zA-Z])(?!\s*\()")
_E_WITH_INDEX = re.compile(r"(?<![\\a-zA-Z])E(?=_)")
_PRIME = re.compile(r"(?<=[a-zA-Z)])('+)")
_APPROXIMATELY = re.compile(r"\\(?:approxeq|simeq|cong|doteq|thickapprox|sim)(?![a-zA-Z])|≈")
_NOT_EQUAL = re.compile(r"\A\s*([a-zA-Z])\s*\\(?:ne|neq)(?![a-zA-Z])\s*([^=<>|]+)\Z")
_WITHOUT_POINTS = re.compile(
    r"\A(?:([a-zA-Z])\s*\\in\s*)?\\mathbb\s*\{?R\}?\s*(?:\\setminus|\\backslash|-)\s*\\\{(.+)\\\}\Z"
)
#: An interval in the notation of ISO 31-11 ("]0, 1]"): a bracket that points outwards is a parenthesis.
_OUTWARD = re.compile(r"([\[\](])([^\[\](){}=]*,[^\[\](){}=]*)([\[\])])")
#: "[-2; 5)", with decimal commas in "[1,5; 2)".
_SEMICOLON = re.compile(r"([\[\](])([^\[\]();]*);([^\[\]();]*)([\[\])])")
_COMMA_IN_NUMBER = re.compile(r"(?<=\d),(?=\d)")
_NAME_ALONE = re.compile(r"(?:\\?[a-zA-Z]+(?:_\{?\w+\}?)?|[a-zA-Z]\([a-zA-Z\d]+\))\Z")
_LABEL = re.compile(r"([a-zA-Z][a-zA-Z' ]{2,40}?)\s*(?:=|:)\s*(?=[\d\\$-])")
_DEGREES_AND_MINUTES = re.compile(
    r"(\d+)\s*\^\s*\{?\s*\\circ\s*\}?\s*(\d{1,2})\s*(?:'|\^\s*\{?\s*\\prime\s*\}?)(?!')(?:\s*(\d{1,2})\s*(?:''|\"|\^\s*\{?\s*\\prime\s*\\prime\s*\}?))?"
)
#: "C is an arbitrary constant" and the like behind an answer.
_CONSTANT = re.compile(
    r"[\s,(;]*+(?:\\text\s*\{\s*)?(?:(?:where|with)\s+)?(?:\}\s*)?\$?([Cck])(?:_\d)?\$?\s*(?:\\text\s*\{\s*)?(?:为任意常数|是任意常数|为常数|是常数|(?:is\s+(?:an?\s+)?(?:arbitrary\s+|any\s+|real\s+)*constant)"
    r"|\\in\s*\\mathbb\s*\{?R\}?)[\s}.)]*\Z"
)
_CJK_ROUND = re.compile(r"答案|结果|答|[为為是共约約有:：]|大约|一共|总共|等于|选项|所以|因此")
_CJK_MEASURE = re.compile(rf"(\d)\s*(?:{'|'.join(sorted(MEASURE_WORDS, key=len, reverse=True))}|名学生)\s*\Z")
_FORMULA = re.compile(r"[+*=()]|(?<=\w)-|\A[\d.,\s]+\Z")
_DECIMAL = re.compile(r"[+-]?\d*\.\d+")
_DECIMAL_WITH_DOTS = re.compile(r"(?<=\d)\s*(?:\\[lc]?dots(?![a-zA-Z])|\.\.\.|…)\s*\Z")
_ELLIPSIS = re.compile(r"\\[lc]?dots[cbmio]?(?![a-zA-Z])|\.\.\.|…")


def has_ellipsis(text: str) -> bool:
    """Return whether `text` omits members of a list ("1, 2, ..., n")."""
    return bool(_ELLIPSIS.search(_DECIMAL_WITH_DOTS.sub("", text) if _DECIMAL.match(text) else text))


def written(text: str) -> Written:
    """Rewrite `text` as LaTeX for latex2sympy; the LaTeX is empty where a word of it is not understood."""
    if mixed := mixed_quantity(unwrapped(unwrap_commands(text))):
        return Written(rf"\frac{{{mixed[0].numerator}}}{{{mixed[0].denominator}}}", unit=mixed[1])
    if numbers := set_of_numbers(text):
        return Written(numbers)
    alternatives = together = False
    if _ORDER.search(text):
        for sign, word in _JUNCTIONS:
            text = sign.sub(word, text)
        alternatives = bool(_OR.search(text))
        together = not alternatives and bool(_BOTH.search(text))
    latex = _each_excluded(_with_one_value(spoken_latex(text)))
    marks = Written("", alternatives=alternatives, together=together)
    latex, currency = split_currency(latex)
    latex = re.sub(r"\\\$|[¥€£₹$]", "", latex)
    percent = _PERCENT.sub("", latex)
    if percent != latex and percent:
        latex, marks = percent, replace(marks, percent=True)
    latex = _minutes_as_degrees(latex)
    if _TRIGONOMETRY.search(latex):  # the degrees belong to the argument
        latex = _ANGLE.sub(_RADIANS, latex)
    bare, unit = split_unit(latex)
    if unit is None:
        without_degrees = _DEGREES.sub("", latex)
        if without_degrees != latex and without_degrees.strip():
            radians = _ANGLE.sub(_RADIANS, latex)
            radians = "" if _ANGLE.fullmatch(latex.strip()) or _DEGREES.search(radians) else radians
            latex, marks = without_degrees, replace(marks, degrees=True, in_radians=_mathematics(radians))
        bare, unit = split_unit(latex)
    if _VARIABLE_BEHIND.search(latex) and bare != latex:
        marks = replace(marks, with_letter=_mathematics(latex))
    if (based := _BASED.match(bare)) and based[1].lstrip("-").isdigit():
        marks = replace(marks, digits=based[1])
    readable = not has_english(_TEXT.sub(r" \1 ", bare)) and not _CJK.search(bare)
    return replace(marks, latex=_mathematics(bare.strip()) if readable else "", unit=unit or currency)


def spoken_latex(text: str) -> str:
    """Return `text` as LaTeX with number words and spoken arithmetic in figures."""
    return _spoken(plain_latex(text))


def without_delimiters(text: str) -> str:
    """Return `text` without the delimiters of formulas; units and words stay marked."""
    plain = unwrap_commands(symbols_as_commands(plain_punctuation(text)))
    return unwrapped(_SIZES.sub("", _DELIMITERS.sub(" ", plain)))


def plain_latex(text: str) -> str:
    """Return `text` as LaTeX without layout, delimiters and marks for the thousands; words stay."""
    text = unwrapped(unwrap_commands(symbols_as_commands(plain_punctuation(text))))
    text = _ARC.sub("", _ACCENT.sub(r"\1{\2}", text))
    if _AMOUNT.match(text):
        text = text.replace("$", "\\$")
    text = _DECIMAL_WITH_DOTS.sub("", text) if _DECIMAL.match(text) else text
    text = text.replace("\\%", "%")
    text = _DELIMITERS.sub(" ", _STYLE.sub("", text.replace("\\$", "\0"))).replace("\0", "\\$")
    text = _HEXADECIMAL.sub(r"\1", without_thousands(text))
    text = _SIZES.sub("", _SPACES.sub(" ", text)).replace(r"\!", "").replace(r"\,", " ")
    text = _one_space(text)
    text = _TEXT.sub(
        lambda match: match.group() if any(map(str.isalpha, match[1])) else match[1], without_ordinals(text)
    )
    text = standard_functions(_CONSTANT.sub("", text))
    text = _FONT.sub(lambda match: _letters(match.group(1), match.group()), text)
    if _CJK.search(text):
        text = _without_cjk(text)
    text = _AND.sub(", ", in_figures(without_either(_TEXT.sub(r" \1 ", text)))) if _is_listing(text) else text
    text = _SEMICOLON.sub(_with_comma, text)
    return unwrapped(re.sub(r"\s+", " ", _OUTWARD.sub(_with_parentheses, text)))


def _with_comma(match: "re.Match[str]") -> str:
    left, right = (_COMMA_IN_NUMBER.sub(".", end) for end in match.groups()[1:3])
    return match.group() if "," in left + right else f"{match[1]}{left},{right}{match[4]}"


def _with_parentheses(match: "re.Match[str]") -> str:
    left, inside, right = match.groups()
    return f"{'(' if left == ']' else left}{inside}{')' if right == '[' else right}"


def _each_excluded(text: str) -> str:
    r"""Return "x \ne 1, 2" and "\mathbb{R} \setminus \{1, 2\}" as "x \ne 1, x \ne 2", "x \ne \pm 5" alike."""
    if not (match := _NOT_EQUAL.match(text) or _WITHOUT_POINTS.match(text)):
        return text
    name = match[1] or "x"
    return ", ".join(rf"{name} \ne {value}" for value in members(match[2]))


def _spoken(text: str) -> str:
    """Return `text` with number words and spoken arithmetic in figures, without labels and fillers."""
    flat = " ".join(_TEXT.sub(r" \1 ", text).split())
    spoken = without_fillers(flat)
    if (label := _LABEL.match(spoken)) and not counts_as_change(label[1]):
        spoken = spoken[label.end() :]
    spoken = in_figures(spoken)
    return text if spoken == flat else spoken


def _with_one_value(text: str) -> str:
    r"""Return what stands before "\approx", or what stands behind it if only a name does ("x \approx 11")."""
    before, sign, behind = text.partition(r"\approx")
    if not sign and (similar := _APPROXIMATELY.search(text)):
        # Between two values these signs are a range, or a relation of figures.
        before, sign, behind = text[: similar.start()], similar.group(), text[similar.end() :]
        name = before.strip(" =")
        sign = sign if (not name or _NAME_ALONE.match(name)) and any(map(str.isdigit, behind)) else ""
    if not sign:
        return text
    name = before.strip(" =")
    if not name or _NAME_ALONE.match(name):
        return f"{name}={behind}" if name else behind.strip()
    return before.strip()


def _minutes_as_degrees(text: str) -> str:
    """Return "22^\\circ 30'" as decimal degrees."""
    return _DEGREES_AND_MINUTES.sub(
        lambda angle: (
            rf"\frac{{{int(angle[1]) * 3600 + int(angle[2]) * 60 + int(angle[3] or 0)}}}{{3600}}^\circ"
        ),
        text,
    )


def _one_space(text: str) -> str:
    """Return `text` without runs of spaces, which other expressions would share out in every way."""
    return re.sub(r"\s{2,}", " ", text)


def _without_cjk(text: str) -> str:
    """Return `text` without Chinese words that announce or count; the others stay and make it unreadable."""
    text = chinese_in_figures(text)
    text = _CJK_ROUND.sub(" ", _AND.sub(", ", text)).replace("负", "-").replace("負", "-")
    text = _one_space(text)
    return _CJK_MEASURE.sub(r"\1 ", text)


def _is_listing(text: str) -> bool:
    return bool(_AND.search(text)) and any(character.isdigit() or character in "\\=" for character in text)


def _letters(name: str, written: str) -> str:
    """Return a formula in another font in the open, letters of a product apart, longer names as one name."""
    name = name.strip()
    if len(name) == 1 or (_FORMULA.search(name) and not unit_named(name)):
        return name
    if len(name) == 2 and name.isalpha() and "textbf" not in written and not unit_named(name):
        return name if "operatorname" in written or "text" in written else f" {name} "
    return rf"\text{{{name}}}"


def _mathematics(text: str) -> str:
    based = _BASED.match(text)
    if based:  # a digit that the base does not have makes it unreadable
        value = _value_in_base(based[1], int(based[2]))
        return "" if value is None else str(value)
    builder = _BUILDER.match(text)
    text = builder[2].strip() if builder else text
    if _SPACED_THOUSANDS.match(text):
        text = text.replace(" ", "")
    text = _SCIENTIFIC.sub(r"\1\\cdot 10^{\2}", text)
    text = _LEADING_POINT.sub("0.", _TRAILING_POINT.sub("", text))
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    if _INDEX_OF_NUMBER.search(text):
        return ""
    if _NUMBERS_SIDE_BY_SIDE.search(text) and "matrix" not in text and "array" not in text:
        return ""
    text = braced_fractions(text).replace(r"\varnothing", r"\emptyset")
    text = text.replace("**", "^").replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\ne ")
    text = _INFINITY.sub(r"\\infty ", _BARE_NAME.sub(r"\\\1 ", text))
    # latex2sympy takes gamma for Euler's constant, and \gamma^2 for infinity; it cannot read E with an index.
    text = _CAPITAL_GAMMA.sub(r"\\Upsilon ", text)
    text = _GAMMA.sub(r"\\upsilon ", _E_WITH_INDEX.sub(r"\\Xi ", text))
    text = _PRIME.sub(lambda match: "^{" + r"\prime" * len(match[1]) + "}", text)
    text = _NEGATIVE_POWER.sub(r"^{\1}", _braced(text))
    text = _TIMES_BEFORE_PAREN.sub(_times, text)
    return re.sub(r"\s+", " ", text).strip()


def _times(match: "re.Match[str]") -> str:
    before = match.string[: match.start()]
    # A superscript or subscript belongs to a function (log_2(x), sin^{2}(x)): that is no product.
    return "" if re.search(r"[_^]\s*(?:\w|\{[^{}]*\})\s*\Z", before) and "\\" in before else r"\cdot "


def _braced(text: str) -> str:
    r"""Return `text` with `\sqrt(x)` as `\sqrt{x}` and `^(x)` as `^{x}`, at any depth of parentheses."""
    pieces: list[str] = []
    position = 0
    for match in re.finditer(r"(?:\\sqrt(?:\s*\[\d+\])?|\^)\s*(?=\()", text):
        if match.start() < position:
            continue
        end = _closing(text, match.end())
        if end < 0:
            break
        inner = _braced(text[match.end() + 1 : end])
        pieces += [text[position : match.start()], match.group().strip(), "{", inner, "}"]
        position = end + 1
    return "".join([*pieces, text[position:]])


def _closing(text: str, start: int) -> int:
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    return -1


def _value_in_base(digits: str, base: int) -> int | None:
    try:
        return int(digits, base) if 2 <= base <= 36 else None
    except ValueError:
        return None
