r"""Write functions in the notations of other countries as latex2sympy knows them.

`\tg` is `\tan`, `\arctg` is `\arctan`, `\lg` is `\log_{10}`, `C_5^2` is `\binom{5}{2}`, `5!!` is 15.
"""

import math
import re

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
_COMBINATIONS = re.compile(
    r"(?<![a-zA-Z\\])(?:\\(?:mathrm|text|mathbf|rm)\s*\{?\s*)?C\s*\}?\s*(?:_\s*\{?\s*(\d+)\s*\}?\s*\^\s*\{?\s*(\d+)\s*\}?"
    r"|\^\s*\{?\s*(\d+)\s*\}?\s*_\s*\{?\s*(\d+)\s*\}?)(?![\w])"
)
_PERMUTATIONS = re.compile(
    r"\\(?:mathrm|text|rm)\s*\{?\s*[AP]\s*\}?\s*_\s*\{?\s*(\d+)\s*\}?\s*\^\s*\{?\s*(\d+)\s*\}?(?![\w])"
)
_DOUBLE_FACTORIAL = re.compile(r"(?<![\d.])(\d{1,3})\s*!!(?!!)")


def standard_functions(text: str) -> str:
    """Return `text` with functions in latex2sympy's notation."""
    text = _COMBINATIONS.sub(_combinations, text)
    text = _PERMUTATIONS.sub(_permutations, text)
    text = _NAMED.sub(lambda name: _OTHER_NAMES[name[1]], text)
    text = _COMMAND.sub(lambda name: _OTHER_NAMES[name[1]], text)
    text = _BARE.sub(lambda name: _OTHER_NAMES[name[1]], text)
    text = _OF_SET.sub(r"\\\1(\2)", text)
    return _DOUBLE_FACTORIAL.sub(lambda factorial: str(math.prod(range(int(factorial[1]), 0, -2))), text)


def _combinations(match: "re.Match[str]") -> str:
    below, above = int(match[1] or match[4]), int(match[2] or match[3])
    return rf"\binom{{{below}}}{{{above}}}" if above <= below else match.group()


def _permutations(match: "re.Match[str]") -> str:
    below, above = int(match[1]), int(match[2])
    return rf"\frac{{{below}!}}{{{below - above}!}}" if above <= below else match.group()
