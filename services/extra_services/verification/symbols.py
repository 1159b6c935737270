r"""Write the characters of Unicode in an answer as ASCII and LaTeX.

`plain_punctuation` maps characters that are only another shape of an ASCII character (full width, dashes,
quotes, spaces, mathematical alphanumerics, digits of other scripts). `symbols_as_commands` also maps
mathematical signs to commands: "⩾" to `\ge`, "¾" to `\frac{3}{4}`, "x⁴" to `x^4`, "ℝ" to `\mathbb{R}`, "①" to
`\textcircled{1}`. Neither changes a meaning.
"""

import re
import unicodedata
from typing import Any

_SIGNS = {
    "。": ".", "、": ",", "−": "-", "–": "-", "‐": "-", "‑": "-", "‒": "-", "﹣": "-", "˗": "-", "➖": "-",
    "➕": "+", "∴": "",
    "“": '"', "”": '"', "‘": "'", "’": "'", "′": "'", "″": "''", "【": "[", "】": "]", "《": "<", "》": ">",
    "∕": "/", "⁄": "/", "∶": ":", "ˆ": "^", "∗": "*", "∣": "|", "﹪": "%", "٪": "%", "٫": ".", "٬": ",",
    "\u00ad": "", "\u200b": "", "\u200c": "", "\u200d": "", "\u200e": "", "\u200f": "", "\u2060": "",
    "\ufeff": "",
    "\u2061": "", "\u2062": "", "\u2063": ",", "\t": "\t", "\n": "\n", "\r": "\r", "\v": "\v", "\f": "\f",
    "\u0085": "\n", "\u2028": "\n", "\u2029": "\n",
}  # fmt: skip
_COMMANDS = {
    "∞": r"\infty ", "×": r"\times ", "✕": r"\times ", "✖": r"\times ", "⨯": r"\times ", "·": r"\cdot ",
    "⋅": r"\cdot ", "∙": r"\cdot ", "•": r"\cdot ", "÷": r"\div ", "≤": r"\le ", "⩽": r"\le ", "≦": r"\le ",
    "≥": r"\ge ", "⩾": r"\ge ", "≧": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≃": r"\approx ",
    "≅": r"\approx ",
    "≡": r"\equiv ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∉": r"\notin ", "∖": r"\setminus ",
    "°": r"^\circ ", "º": r"^\circ ", "±": r"\pm ", "∓": r"\mp ", "∅": r"\emptyset ", "√": r"\sqrt ",
    "∛": r"\sqrt[3] ", "∜": r"\sqrt[4] ", "∠": r"\angle ",
    "⟨": r"\langle ", "⟩": r"\rangle ", "△": r"\triangle ", "⊥": r"\perp ", "∑": r"\sum ",
    "∏": r"\prod ", "∫": r"\int ", "→": r"\to ", "⇒": r"\Rightarrow ", "⇔": r"\Leftrightarrow ",
    "∨": r"\lor ",
    "∧": r"\land ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "ℓ": r"\ell ",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}",
    "—": "-", "―": "-", "¢": r"\text{ cents}", "℃": r"^\circ \text{C}", "℉": r"^\circ \text{F}",
    "ϵ": r"\epsilon ", "ϕ": r"\phi ", "ϑ": r"\theta ",
}  # fmt: skip
_SUPERSCRIPTS = {**dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni", strict=True))}
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙₓ", "0123456789+-()nx", strict=True))
_SUPERSCRIPT = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_SUBSCRIPT = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
_ROOT = re.compile(r"([√∛∜])\s*(\d+|[a-zA-Z])(?![.\d])")
_GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER (?:FINAL )?([A-Z]+)\Z")
#: Greek letters that look like Latin ones have no command.
_NO_COMMAND = frozenset("OMICRON")


class _Table(dict[int, str]):
    """A table for str.translate that works out each character once."""

    def __init__(self, known: dict[str, str], shape: Any) -> None:
        super().__init__({ord(character): plain for character, plain in known.items()})
        self._shape = shape

    def __missing__(self, code: int) -> str:
        plain: str = self._shape(chr(code))
        if len(self) < 10_000:
            self[code] = plain
        return plain


def _ascii_shape(character: str) -> str:
    code = ord(character)
    if code < 128:
        return character
    category = unicodedata.category(character)
    if category == "Zs":
        return " "
    if category == "Nd":
        return str(unicodedata.digit(character))
    if 0xFF01 <= code < 0xFF5F or 0x1D400 <= code < 0x1D800:
        return unicodedata.normalize("NFKC", character)
    return character


def _command(character: str) -> str:
    code = ord(character)
    if code < 128:
        return character
    if 0x2460 <= code <= 0x2473:
        return rf"\textcircled{{{code - 0x245F}}}"
    compatible = unicodedata.normalize("NFKC", character)
    top, slash, bottom = compatible.partition("⁄")
    if slash and top.isdigit() and bottom.isdigit():
        return rf"\frac{{{top}}}{{{bottom}}}"
    if match := _GREEK.match(unicodedata.name(compatible, "") if len(compatible) == 1 else ""):
        name = {"LAMDA": "LAMBDA"}.get(match[2], match[2])
        if name not in _NO_COMMAND:
            return f"\\{name.lower() if match[1] == 'SMALL' else name.capitalize()} "
    return character


_PLAIN = _Table(_SIGNS, _ascii_shape)
_MATHEMATICS = _Table(_COMMANDS, _command)


def any_of(words: str) -> str:
    """Return the regular expression for one of `words`, which are expressions without spaces."""
    return "|".join(words.split())


def word_list(text: str) -> list[str]:
    """Return the words of a table that is written as a text."""
    return text.split()


def word_set(text: str) -> frozenset[str]:
    """Return the words of a table that is written as a text, as a set."""
    return frozenset(text.split())


def plain_punctuation(text: str) -> str:
    """Return `text` with other shapes of ASCII characters in ASCII."""
    return text if text.isascii() else text.translate(_PLAIN)


def symbols_as_commands(text: str) -> str:
    """Return `text` with mathematical signs ("π", "≤", "x²") as LaTeX."""
    if text.isascii():
        return text
    text = _ROOT.sub(lambda root: f"{_COMMANDS[root[1]].strip()}{{{root[2]}}}", text)
    text = _SUPERSCRIPT.sub(lambda run: _script("^", run.group(), _SUPERSCRIPTS), text)
    text = _SUBSCRIPT.sub(lambda run: _script("_", run.group(), _SUBSCRIPTS), text)
    return text.translate(_MATHEMATICS)


def _script(mark: str, run: str, table: dict[str, str]) -> str:
    plain = "".join(table[character] for character in run)
    return mark + plain if len(plain) == 1 else f"{mark}{{{plain}}}"
