r"""Write functions in the notations of other countries as latex2sympy knows them.

`\operatorname{cis} x` is `\cos x + i \sin x`, `\tg` is `\tan`, `\arctg` is `\arctan`, `\lg` is `\log_{10}`,
`C_5^2` is `\binom{5}{2}`, `5!!` is 15, `17 \bmod 5` is 2.
"""

import math
import re

from extra_services.verification.normalization import without_sizing

_OTHER_NAMES = {
    "tg": r"\tan ", "ctg": r"\cot ", "cotg": r"\cot ", "cosec": r"\csc ", "arctg": r"\arctan ",
    "arcctg": r"\arccot ",
    "arccotg": r"\arccot ", "sh": r"\sinh ", "ch": r"\cosh ", "th": r"\tanh ", "arsh": r"\arsinh ",
    "lg": r"\log_{10} ",
    "asin": r"\arcsin ", "acos": r"\arccos ", "atan": r"\arctan ", "sen": r"\sin ", "Arctan": r"\arctan ",
    "Arcsin": r"\arcsin ", "Arccos": r"\arccos ", "Re": r"\Re ", "Im": r"\Im ",
    "arcsin": r"\arcsin ", "arccos": r"\arccos ", "arctan": r"\arctan ", "sin": r"\sin ", "cos": r"\cos ",
    "tan": r"\tan ", "cot": r"\cot ", "sec": r"\sec ", "csc": r"\csc ", "ln": r"\ln ", "log": r"\log ",
    "exp": r"\exp ",
    "sinh": r"\sinh ", "cosh": r"\cosh ", "tanh": r"\tanh ", "max": r"\max", "min": r"\min",
    "gcd": r"\gcd", "lcm": r"\lcm",
}  # fmt: skip
_NAMES = "|".join(sorted(_OTHER_NAMES, key=len, reverse=True))
_NAMED = re.compile(rf"\\(?:operatorname\*?|mathrm|text|mathop|textrm)\s*\{{\s*({_NAMES})\s*\}}")
_COMMAND = re.compile(r"\\(tg|ctg|cotg|cosec|arctg|arcctg|arccotg|sh|ch|th|lg)(?![a-zA-Z])")
_BARE = re.compile(r"(?<![\\a-zA-Z])(arctg|arcctg|ctg|cotg|cosec|tg|lg)(?![a-zA-Z])")
_OF_SET = re.compile(r"\\(max|min|gcd|lcm)\s*(?:\\\{|\{)([^{}]*?)(?:\\\}|\})")
_DIGITS = r"\{?\s*(\d+)\s*\}?"
#: "C_5^2", "\mathrm{C}_{5}^{2}", "A^2_5", "{}_5P_2", "{}^5C_2", "5C2", "C(5,2)".
_CHOICES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?<![a-zA-Z\\])(?:\\(?:mathrm|text|mathbf|rm)\s*\{{?\s*)?(?P<kind>[CAP])\s*\}}?\s*"
        rf"(?:_\s*{_DIGITS}\s*\^\s*{_DIGITS}|\^\s*{_DIGITS}\s*_\s*{_DIGITS})(?!\w)",
        rf"(?:\{{\s*\}}\s*)?[_^]\s*{_DIGITS}\s*(?:\\mathrm\s*)?\{{?(?P<kind>[CP])\}}?\s*_\s*{_DIGITS}(?!\w)",
        r"(?<![\w.])(\d+)\s?(?P<kind>[CP])\s?(\d+)(?![\w.])",
        r"(?<![a-zA-Z\\])(?P<kind>[CP])\(\s*(\d+)\s*,\s*(\d+)\s*\)",
    )
)
_REMAINDER = re.compile(
    r"\s*(-?\d+)\s*(?:\\(?:bmod|mod)(?![a-zA-Z])|\\(?:text|mathrm|operatorname)\s*\{\s*mod\s*\}|\bmod(?:ulo)?\b)\s*"
    r"(\d+)\s*"
)
#: The parts of a complex number in figures.
_PART = re.compile(r"\\(Re|Im)\s*\(\s*(-?[\d.]+)\s*([+-])\s*([\d.]*)\s*i\s*\)")
#: "2 \\operatorname{cis} 60^\\circ": cos 60° + i sin 60°.
_CIS = re.compile(
    r"""
    (?:\\(?:operatorname\*?|mathrm|text|textrm)\s*\{\s*cis\s*\}|\\?(?<![a-zA-Z])cis(?![a-zA-Z])) [\s~]*
    ( \\left \s* \( [^()]{1,80}? \\right \s* \) | \( [^()]{1,60} \) | \{ [^{}]{1,60} \}
      | -? (?: \\[dt]?frac \s* \{[^{}]*\} \s* \{[^{}]*\} | [\d.]* \\?[a-zA-Z]+ (?:/\d+)? | \d+(?:\.\d+)? )
        (?: \s*\^\s*\{?\s*\\circ\s*\}? )? )
    """,
    re.VERBOSE,
)
_DOUBLE_FACTORIAL = re.compile(r"(?<![\d.])(\d{1,3})\s*!!(?!!)")


def standard_functions(text: str) -> str:
    """Return `text` with functions in latex2sympy's notation."""
    for pattern in _CHOICES:
        text = pattern.sub(_choices, text)
    text = _CIS.sub(_cosine_and_sine, text)
    text = _NAMED.sub(_command, text)
    text = _COMMAND.sub(lambda name: _OTHER_NAMES[name[1]], text)
    text = _BARE.sub(lambda name: _OTHER_NAMES[name[1]], text)
    text = _PART.sub(lambda part: part[2] if part[1] == "Re" else f"{part[3].strip('+')}{part[4] or 1}", text)
    text = _OF_SET.sub(r"\\\1(\2)", text)
    if (remainder := _REMAINDER.fullmatch(text)) and int(remainder[2]):
        return str(int(remainder[1]) % int(remainder[2]))
    return _DOUBLE_FACTORIAL.sub(lambda factorial: str(math.prod(range(int(factorial[1]), 0, -2))), text)


def _command(match: "re.Match[str]") -> str:
    """Return the command of a function; "140 \\text{ min}" are minutes, "5 \\text{ sec}" are seconds."""
    behind_number = match.string[: match.start()].rstrip(" ~")[-1:].isdigit()
    last = not match.string[match.end() :].strip(" ~.$")
    time = behind_number and (match[1] == "min" or (match[1] == "sec" and last))
    return match.group() if time else _OTHER_NAMES[match[1]]


def _cosine_and_sine(match: "re.Match[str]") -> str:
    angle = without_sizing(match[1]).strip()
    angle = angle[1:-1] if angle[0] in "({" else angle
    return rf"(\cos({angle})+i\sin({angle}))"


def _choices(match: "re.Match[str]") -> str:
    """Return combinations C or arrangements A, P; of an index and a power, the index is the larger."""
    below, above = (int(group) for group in match.groups() if group and group.isdigit())
    if match.re is _CHOICES[0] and match[4]:
        below, above = above, below
    if above > below:
        return match.group()
    if match["kind"] == "C":
        return rf"\binom{{{below}}}{{{above}}}"
    return rf"\frac{{{below}!}}{{{below - above}!}}"
