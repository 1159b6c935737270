r"""Read one answer in the light of the other, where only the other says what it means.

"point P" is P, but no "line P"; a bold or upright R is the set of the reals if the other side is about sets;
"3\hat{i} - \hat{j}" has the coordinates (3, -1), or (3, -1, 0) beside a triple.
"""

import re

from extra_services.verification.normalization import without_sizing
from extra_services.verification.notations import BOLD, SETS, flat
from extra_services.verification.symbols import any_of, plain_punctuation, word_list, word_set

_LONE_SET = re.compile(
    rf"\$?\s*+(?:[a-z]\s*+(?:\\in(?![a-zA-Z])|∈)\s*+)?(?:{BOLD}\s*+\{{)?([{SETS}])\}}?\s*+\$?\.?\Z"
)
_MENTIONS_A_SET = re.compile(
    r"\\(?:mathbb|Bbb|infty|in)(?![a-zA-Z])|[ℝℚℤℕℂ∞]|\b(?:reals?|rationals?|integers?|naturals?|complex)\b"
)
_LABELS = "point vertex line segment ray plane side edge corner node"
_LABELLED = re.compile(
    rf"(?i:the\s)?(?P<label>(?i:{any_of(_LABELS)}))\s"
    r"(?P<name>[A-Z]{1,3}'?(?:_\s?\{?\w\}?)?|\\ell|[a-z]|\([^()]{1,80},[^()]{1,80}\))"
)
_LABEL_WORDS = word_set(_LABELS)

_FONT = r"(?:hat|widehat|vec|overrightarrow|mathbf|boldsymbol|bm|textbf)"
_UNIT_VECTOR = re.compile(
    rf"""
    \\ {_FONT} (?:
      \s*+ \{{ \s*+ (?: \\(?:mathbf|boldsymbol|bm|mathrm|vec)\s*+\{{\s*+ )?
        \\? (?P<unit>imath|jmath|[ijk]) (?![a-zA-Z]) \s*+ \}}? \s*+ \}}
      | (?: \s*+\\(?=[ij]m) | \s++ ) (?P<bare>imath|jmath|[ijk]) (?![a-zA-Z]) )
    """,
    re.VERBOSE,
)
_TERM = re.compile(r"\s*+([+-]?)\s*+((?:[^+⟨{}()-]|\{[^{}]*+\}|\([^()]*+\))*+)⟨([ijk])⟩\s*+")
_ORDINALS = word_list("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth")
_NTH = re.compile(r"(?:the )?(\d{1,2}) ?\^?\{? ?(st|nd|rd|th) ?\}?")
_REMARKS = r"""
    (?:fully\s)?simplified in\s(?:its\s)?(?:simplest\sform|lowest\sterms) reduced (?:a\s)?double\sroot
    (?:a\s)?repeated\sroot (?:with\s)?multiplicity\s\d as\srequired exact(?:\svalue)?
"""
_REMARK = re.compile(
    rf"(?<![\s~,])[\s~,]*+(?:\\(?:text|mbox|textit|mathrm)\s*+\{{\s*+\((?:{any_of(_REMARKS)})\)\s*+\}}"
    rf"|\((?:{any_of(_REMARKS)})\)|(?:\\[,;: ]|\\q?quad)?\s*+\\(?:blacksquare|qed))\s*+\Z"
)
_REMARK_ENDS = ("}", ")", "blacksquare", "qed")
#: What stands before an answer and says nothing.
_LEADING = re.compile(
    r"\A\s*(?:(?:\\therefore(?![a-zA-Z])|∴|\\implies(?![a-zA-Z])|\\(?:text|mbox|textbf)\s*\{\s*(?:final\s+)?[Aa]nswer\s*:?\s*\}:?)\s*)+"
)
#: A reason or a condition behind an answer, to its end.
_EXPLANATION = re.compile(
    r"""
    (?<=[^\s,~])(?<!\\) [\s,~]*+ (?:(?:\\[,;:\ ]|\\q?quad(?![a-zA-Z]))[\s,~]*+)*+
    (?: \(?\s* \\(?:text|mbox|textit|mathrm)\s*\{ [\s,]*+ \(?\s*+
        (?: since | because | as\s+required | after\s | by\s | works\b
          | the\s+(?:only|smallest|largest|least|greatest|unique)\b
          | for\s+(?:all|every|any)\b | (?:when|at|for|where)\s*\}\s*[a-zA-Z]\s*(?:=|\\in)
          | (?:when|at|for|where)\s+\$?[a-zA-Z]\s*= )
        [^{}]*+ (?:\{[^{}]*+\}[^{}]*+)*+ \}? [^{}]*+ (?:\{[^{}]*+\}[^{}]*+){0,4}+
      | \(\s*[a-z]\s*=\s*-?[\d./]+\s*\)
      | \\checkmark
    ) \Z
    """,
    re.VERBOSE,
)
#: Words by which an explanation changes the answer, or sets another beside it.
_RESERVATION = re.compile(
    r"(?<![a-zA-Z])(?:not|or|unless|except|if|otherwise|but|approximately|about|more|less|plus|and|only\s+when|wrong)"
    r"(?![a-zA-Z])|n['’]t\b",
    re.IGNORECASE,
)
#: A real unknown that is bounded: the answer is not given for all of them.
_BOUND = re.compile(r"(?<![a-zA-Z\\])[a-hlo-z]\s*(?:\\(?:[gl]eq?(?:slant)?|[gl]t|in)(?![a-zA-Z])|[<>≤≥∈])")
_DERIVATIVE = re.compile(r"\\[dt]?frac\s*\{\s*d\s*(\\?[a-zA-Z]+)\s*\}\s*\{\s*d\s*[a-z]\s*\}")
_DOTTED = re.compile(
    r"\\dot\s*\{?\s*(\\?[a-zA-Z]+)\s*\}?"
    r"|(?<![a-zA-Z\\])([a-zA-Z])\s*(?:'(?!')|\^\s*\{?\s*\\prime(?![a-zA-Z\\])\s*\}?)(?!\s*\()"
)
_PRIMED_TWICE = re.compile(r"(?<![a-zA-Z\\])([a-zA-Z])''(?!')")
_SECOND = re.compile(r"\\ddot\s*\{?\s*(\\?[a-zA-Z]+)\s*\}?")
_D = r"(?:d|\\partial|\\mathrm\s?\{\s?d\s?\})(?:\s?\^\s?\{?\d\}?)?"
_FONTS = r"\\(?:operatorname|mathrm|text)\s?\{\s?"
_ARGUMENT = r"(?:\s?\([^()=]{1,30}\)|\s*+\\?[a-zA-Z](?![a-zA-Z])(?:\([^()=]{1,20}\))?)"
#: Left sides that only say what a value is.
_NAMES = rf"""
    \\[dt]?frac\s?\{{\s?{_D}\s?\\?[a-zA-Z]+\s?\}}\s?\{{\s?{_D}\s?[a-zA-Z](?:\s?\^\s?\{{?\d\}}?)?\s?\}}
  | d[a-z]\s?/\s?d[a-z]
  | (?:{_FONTS}(?:rank|dim|deg|det|tr|trace|nullity|Var|Cov|Area|area|ord)\s?\}} | \\(?:dim|deg|det))
    {_ARGUMENT}
  | \\(?:max|min|sup|inf)(?:\s?_\s?\{{[^{{}}=]{{1,20}}\}}|\s?_\s?[a-z])? {_ARGUMENT}
  | [a-zA-Z]\s?_\s?\{{?\s?(?:\\(?:max|min)|\\(?:text|mathrm)\s?\{{\s?(?:max|min)\s?\}}|max|min)\s?\}}?
  | (?:\\\||\\lVert)[^|=<>]{{1,20}}(?:\\\||\\rVert)
  | \|\s?(?:[A-Z]{{2}}|\\(?:vec|overrightarrow|overline|mathbf)\s?\{{[^{{}}]{{1,8}}\}})\s?\|
  | \\?\#\s?[A-Z]
  | (?:P|\\Pr|\\mathbb\s?\{{[PE]\}}|{_FONTS}P\s?\}})\s?[(\[][^()\[\]=]{{1,30}}[)\]]
"""
_NAMED = re.compile(rf"[\s$]*+({_NAMES})\s*+=(?!=)\s*+(.+)", re.VERBOSE | re.DOTALL)
_OF_ARGUMENT = re.compile(r"[\s$]*+[a-zA-Z]\s*(?:\^\s*\{?\s*-\s*1\s*\}?)?\s*\(\s*([a-z])\s*\)\s*=([^=<>,y]+)")
_VALUE_Y = re.compile(r"[\s$]*+y\s*=([^=<>,y]+)")
_RELATION = re.compile(r"[=<>≤≥≠≡∈]|\\(?:[lgn]eq?|[lg]t|equiv|in|notin|approx)(?![a-zA-Z])")
_SPACING = re.compile(r"\\(?:q?quad(?![a-zA-Z])|[,;:!])")
#: A function or a sequence, with its argument.
_FUNCTION = re.compile(r"\\?[a-zA-Z]\s?(?:\(\s?([a-z])\s?\)|_\s?\{?\s?([a-z])\s?\}?)\s?=")
_FOR_ALL = re.compile(
    r"""
    (?<![\s,;(]) [\s,;(]++ (?:where\s)?
    (?P<all> for\s(?:all|every|any|each)\s
      (?:(?:real|positive|natural|nonnegative|integers?|numbers?|reals)\s)*+ )?
    (?P<name>[a-z])
    (?: \s?(?:\\in|∈)\s?(?P<set>\\mathbb\s?\{?[RNZQ]\}?[\d{}+*_^>]*+)
      | (?<=[ijkmnr])\s?(?:\\geq?|≥)\s?[01] )?  # all of the indices, and not half of the real numbers
    \s?\)? \Z
    """,
    re.VERBOSE,
)
_ONE_SOLUTION = re.compile(r"\s*+\\\{\s*+(\([^(){}]*,[^(){}]*\))\s*+\\\}\s*+")
_ROW_END = r" \\ "
_ROW = re.compile(r"\[([^\[\]]++)\]")
_ROWS = re.compile(r"\s*+\[\s*+\[[^\[\]]++\](?:\s*+,\s*+\[[^\[\]]++\])*+\s*+\]\s*+")
_LAYOUT = re.compile(r"\\(?:displaystyle|q?quad|large|[,;:! ])(?![a-zA-Z])")
#: Longer answers are not looked at, in characters.
_MAX_LENGTH = 2000


def alike(text: str, other: str) -> tuple[str, str]:
    """Return two answers in one form, where it depends on both."""
    if (text.isalnum() and other.isalnum()) or max(len(text), len(other)) > _MAX_LENGTH:
        return text, other
    text, other = _without_labels(text, other)
    text, other = _ordinal(text, other), _ordinal(other, text)
    text, other = _without_remark(text), _without_remark(other)
    text, other = _without_explanation(text, other), _without_explanation(other, text)
    text, other = _with_derivatives(text, other), _with_derivatives(other, text)
    text, other = _without_names(text, other)
    text, other = _without_domains(text, other)
    text, other = _without_braces(text, other), _without_braces(other, text)
    text, other = _as_matrix(text, other), _as_matrix(other, text)
    text, other = _blackboard(text, other), _blackboard(other, text)
    return _as_coordinates(text, other)


def _without_labels(text: str, other: str) -> tuple[str, str]:
    """Return "point P" as P, unless both have a label and these differ."""
    if not any(word in side.casefold() for side in (text, other) for word in _LABEL_WORDS):
        return text, other
    mine, theirs = (_LABELLED.fullmatch(flat(side)) for side in (text, other))
    if mine and theirs and mine["label"].casefold() != theirs["label"].casefold():
        return text, other
    return (mine["name"] if mine else text), (theirs["name"] if theirs else other)


def _ordinal(text: str, other: str) -> str:
    """Return "2nd" as "second" if the other side is such a word."""
    if not (match := _NTH.fullmatch(flat(text))) or flat(other).casefold() not in _ORDINALS:
        return text
    word = _ORDINALS[int(match[1]) - 1] if 0 < int(match[1]) <= len(_ORDINALS) else ""
    return word if word and _suffix(int(match[1])) == match[2] else text


def _suffix(number: int) -> str:
    return "th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def _without_remark(text: str) -> str:
    r"""Return "2 \text{ (double root)}" as 2: the remark says nothing of the value."""
    return _REMARK.sub("", text) if text.endswith(_REMARK_ENDS) else text


def _without_explanation(text: str, other: str) -> str:
    r"""Return "12 \text{ (since } x > 0)" as 12, and "\therefore 12", unless the other side explains too."""
    text = _LEADING.sub("", text)
    if not ("\\text" in text or "\\m" in text or text.endswith((")", "checkmark"))):
        return text
    if not (match := _EXPLANATION.search(text)) or "\\text" in other or not text[: match.start()].strip():
        return text
    bounded = "for" in match.group() and _BOUND.search(match.group())
    return text if bounded or _RESERVATION.search(match.group()) else text[: match.start()]


def _with_derivatives(text: str, other: str) -> str:
    r"""Return "\dot{x}" and "x'" as "\frac{d x}{d t}", and "x''" as "\ddot{x}", where the other side does."""
    if not ("'" in text or "dot" in text or "prime" in text):
        return text
    written = {found[1]: found.group() for found in _DERIVATIVE.finditer(other)}
    twice = {found[1]: found.group() for found in _SECOND.finditer(other)}
    text = _PRIMED_TWICE.sub(lambda found: twice.get(found[1], found.group()), text)
    return _DOTTED.sub(lambda found: written.get(found[1] or found[2], found.group()), text)


def _without_names(text: str, other: str) -> tuple[str, str]:
    r"""Return "\frac{dy}{dx} = 2x" as "2x" where the other side has no name, or the same."""
    for one, two in ((text, other), (other, text)) if "=" in text and "=" in other else ():
        named, value = _OF_ARGUMENT.fullmatch(one), _VALUE_Y.fullmatch(two)
        if named and value and named[1] == "x":  # "f(x) = 2x" and "y = 2x"
            return (named[2], value[1]) if one is text else (value[1], named[2])
    mine, theirs = _NAMED.fullmatch(text), _NAMED.fullmatch(other)
    if mine and theirs:
        same = "".join(mine[1].split()) == "".join(theirs[1].split())
        return (mine[2], theirs[2]) if same else (text, other)
    if mine and not _RELATION.search(other):
        return mine[2], other
    return (text, theirs[2]) if theirs and not _RELATION.search(text) else (text, other)


def _without_domains(text: str, other: str) -> tuple[str, str]:
    r"""Return "f(x) = 2x \text{ for all } x \in \mathbb{R}" as "f(x) = 2x", unless the domains differ."""
    if not any(word in side for side in (text, other) for word in (" all", "every", "forall", "in", "∈")):
        return text, other
    mine, theirs = _domain(text), _domain(other)
    if mine[1] and theirs[1] and mine[1] != theirs[1]:
        return text, other
    return mine[0], theirs[0]


def _domain(text: str) -> tuple[str, str]:
    """Return a function without the set that its argument is from, and the set."""
    plain = " ".join(_SPACING.sub(" ", flat(text)).replace(r"\forall", " for all ").split())
    end, head = _FOR_ALL.search(plain), _FUNCTION.match(plain)
    if not end or not head or (head[1] or head[2]) != end["name"] or not (end["all"] or end["set"]):
        return text, ""
    if end["set"] and end["name"] not in "ijkmnr" and "R" not in end["set"]:
        return text, end["set"]  # not all of the real numbers, perhaps
    return plain[: end.start()], end["set"] or ""


def _without_braces(text: str, other: str) -> str:
    r"""Return "\{(1, 2)\}", a set of one solution, as "(1, 2)" if the other side has no braces."""
    if not (text.endswith("}") and r"\{" in text) or r"\{" in other:
        return text
    match = _ONE_SOLUTION.fullmatch(without_sizing(text))
    return match[1] if match else text


def _as_matrix(text: str, other: str) -> str:
    r"""Return "[[1, 0], [0, 1]]" as a matrix if the other side is one."""
    if "matrix" not in other or not _ROWS.fullmatch(text):
        return text
    rows = [row.replace(",", " & ") for row in _ROW.findall(text)]
    return rf"\begin{{pmatrix}}{_ROW_END.join(rows)}\end{{pmatrix}}"


def _blackboard(text: str, other: str) -> str:
    r"""Return "\mathbf{R}" as "\mathbb{R}" if the other side is about sets."""
    match = _LONE_SET.match(text) if len(text) < 60 else None
    return rf"\mathbb{{{match[1]}}}" if match and _MENTIONS_A_SET.search(other) else text


def _as_coordinates(text: str, other: str) -> tuple[str, str]:
    r"""Return "3\hat{i} - \hat{j}" as "(3, -1)", with a third coordinate if one of both sides has one."""
    mine, theirs = _components(text), _components(other)
    if mine is None and theirs is None:
        return text, other
    if mine is None or theirs is None:
        marked, plain = (mine, other) if mine is not None else (theirs, text)
        if found := _components(plain, bare=True):
            mine, theirs = (mine or found), (theirs or found)
        elif not re.match(r"[\s$]*+(?:\\left\s*+)?(?:[(<]|\\langle|\\begin)", plain):
            return text, other
        else:
            three = "k" in (marked or {}) or plain.count(",") > 1 or plain.count("\\\\") > 1
            written = _tuple(marked or {}, three)
            return (written, other) if mine is not None else (text, written)
    three = "k" in mine or "k" in theirs
    return _tuple(mine, three), _tuple(theirs, three)


def _components(text: str, bare: bool = False) -> dict[str, str] | None:
    """Return the coefficients of the unit vectors whose sum `text` is, or None."""
    if not bare and ("\\" not in text or not ("i" in text or "j" in text or "k" in text)):
        return None
    plain = _LAYOUT.sub(" ", plain_punctuation(text)).strip(" $.")
    marked = _UNIT_VECTOR.sub(lambda found: f"⟨{(found['unit'] or found['bare'])[0]}⟩", plain)
    if bare:
        marked = re.sub(r"(?<![\\a-zA-Z])[ijk](?![a-zA-Z])", lambda found: f"⟨{found.group()}⟩", marked)
    found: dict[str, str] = {}
    position = 0
    while match := _TERM.match(marked, position):
        sign, body, unit = match.groups()
        body = re.sub(r"\\[,;:! ]|\\(?:cdot|times)(?![a-zA-Z])|\*", " ", body).strip()
        if unit in found or (position and not sign):
            return None
        found[unit] = f"{sign if sign == '-' else ''}{body or '1'}"
        position = match.end()
    return found if found and position == len(marked) else None


def _tuple(components: dict[str, str], three: bool) -> str:
    return "(" + ", ".join(components.get(unit, "0") for unit in ("ijk" if three else "ij")) + ")"
