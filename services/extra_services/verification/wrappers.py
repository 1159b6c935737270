r"""Remove LaTeX that changes the look of an answer and not its meaning.

Colours, boxes, lines below, sizes, equation numbers, alignment and row spacing go; synonyms are written alike
(`\lbrace` as `\{`, `{a \over b}` as `\frac{a}{b}`). Braces are matched in one pass, so the time is linear.
"""

import re

from extra_services.verification.symbols import word_list

#: Longest answer that is unwrapped, in characters.
_MAX_LENGTH = 8000
#: Commands whose last argument is kept, with their number of arguments.
_KEEP_LAST = {
    "textcolor": 2, "colorbox": 2, "color": 2,
    **dict.fromkeys(
        word_list(
            """
            underline boxed fbox ensuremath smash pmb textnormal mathclap mathopen mathclose mathord mathrel
            mathbin mathinner emph underbrace overbrace
            """
        ),
        1,
    ),
}  # fmt: skip
#: Fonts, which go where they hold a formula and no name.
_FONTS = ("mathbf", "boldsymbol", "bm", "mathit", "textbf")
#: Commands that are dropped with their argument.
_DROP = ("tag", "tag*", "label", "hspace", "hspace*", "vspace", "phantom", "hphantom", "vphantom", "mspace")
#: Text, which goes where all of it is a formula ("\text{$x$}").
_TEXTS = ("text", "mbox", "textrm")
_WRAPPER = re.compile(rf"\\({'|'.join(map(re.escape, [*_KEEP_LAST, *_DROP, *_FONTS, *_TEXTS]))})\s*(?=\{{)")
#: The remark below "\underbrace{7}_{\text{sum}}".
_REMARK = re.compile(r"\\(?:under|over)brace(?![a-zA-Z])")
_DOLLARS = re.compile(r"\s*+\$[^$]*+\$\s*+")
_SWITCHES = re.compile(
    r"\\(?:displaystyle|textstyle|scriptstyle|scriptscriptstyle|limits|nolimits|tiny|scriptsize|footnotesize|small"
    r"|normalsize|large|Large|LARGE|huge|Huge|rm|bf|it|sf|tt|bfseries|itshape|boldmath|nonumber|notag|hline|strut"
    r"|mathstrut|centering|noindent|allowbreak|relax)(?![a-zA-Z])"
)
_COLOR_SWITCH = re.compile(r"\\color\s*\{[^{}]*\}(?!\s*\{)")
_SIZES = re.compile(r"\\(?:[bB]igg?[lrm]?|middle)(?![a-zA-Z])|\\(?:left|right)\s*\.")
_ROW_SPACING = re.compile(r"(\\\\)\s*\*?\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in|mu|px)\s*\]")
_LAST_ROW_END = re.compile(r"\\\\\s*(?=\\end\{)")
_ALIGNED = re.compile(
    r"\\(?:begin|end)\s*\{(?:aligned|align\*?|gathered|gather\*?|split|equation\*?|displaymath|math)\}"
)
_ROW = re.compile(r"(?<!\\)&|\\\\")
_ROW_END = re.compile(r"(?<!\\)\\\\(?![a-zA-Z\\])")
_CASES = re.compile(r"(?:\\left\s*\\\{\s*)?\\begin\{(?:cases|dcases"
    r"|array)\}(?:\{[lcr|]*\})?((?:(?!\\begin).)*)\\end\{(?:cases|dcases|array)\}"
                    r"(?:\s*\\right\s*\.?)?", re.DOTALL)  # fmt: skip
_OVER = re.compile(
    r"\{([^{}]+?)\s*\\over(?![a-zA-Z])\s*([^{}]+)\}|\A([^{}]+?)\s*\\over(?![a-zA-Z])\s*([^{}]+)\Z"
)
_SYNONYMS = (
    (re.compile(r"\\(?:hbox|textup|textmd|textsf|texttt|textsc)\s*(?=\{)"), r"\\text"),
    (re.compile(r"\\(?:lbrace|lcurly)(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace|rcurly)(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"\\lbrack(?![a-zA-Z])"), "["),
    (re.compile(r"\\rbrack(?![a-zA-Z])"), "]"),
    (re.compile(r"\\[lr]?vert(?![a-zA-Z])"), "|"),
    (re.compile(r"\\(?:nicefrac|sfrac|flatfrac)(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\dbinom|\\tbinom"), r"\\binom"),
    (re.compile(r"\\cdotp(?![a-zA-Z])"), r"\\cdot "),
    (re.compile(r"\\(?:ast|star)(?![a-zA-Z])"), "*"),
    (re.compile(r"\\colon(?![a-zA-Z])"), ":"),
    (re.compile(r"\\lt(?![a-zA-Z])"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
    (re.compile(r"\\leqslant|\\leqq"), r"\\le"),
    (re.compile(r"\\geqslant|\\geqq"), r"\\ge"),
    (re.compile(r"\\(?:varnothing|void)(?![a-zA-Z])"), r"\\emptyset"),
    (re.compile(r"\\var(epsilon|theta|phi|rho|kappa)(?![a-zA-Z])"), r"\\\1"),
    (re.compile(r"\\lnot(?![a-zA-Z])"), r"\\neg"),
    (re.compile(r"\\wedge(?![a-zA-Z])"), r"\\land"),
    (re.compile(r"\\vee(?![a-zA-Z])"), r"\\lor"),
    (re.compile(r"\\q?quad(?=x_)"), r"\\quad "),
    (re.compile(r"\\log\s*_\s*(?:e(?![a-zA-Z])|\{\s*e\s*\})"), r"\\ln "),
    (re.compile(r"\\(d?dot)\s+(\\?[a-zA-Z])(?![a-zA-Z])"), r"\\\1{\2}"),
    (re.compile(r"\\(d?dot)\s*(\\(?:theta|phi|omega|alpha|beta|psi|rho))(?![a-zA-Z])"), r"\\\1{\2}"),
    (re.compile(r"\\mathrm\s*(?=\{\s*(?:\\[dt]?frac|\\sqrt|\d))"), ""),
    (re.compile(r"\\text\s*\{\s*(?:(?:positive|plus)\s)?[Ii]nfinity\s*\}"), r"\\infty"),
    (re.compile(r"\\uppi(?![a-zA-Z])"), r"\\pi"),
    (re.compile(r"\\textdollar(?![a-zA-Z])"), r"\\$"),
    (re.compile(r"\\langle(?![a-zA-Z])([^<>=|]*,[^<>=|]*)\\rangle(?![a-zA-Z])"), r"(\1)"),
)  # fmt: skip


def unwrap_commands(text: str) -> str:
    r"""Return `text` without layout commands, with synonyms of commands written alike."""
    if "\\" not in text or len(text) > _MAX_LENGTH:
        return text
    text = _without_wrappers(_COLOR_SWITCH.sub("", text))
    text = _SIZES.sub("", _SWITCHES.sub("", text))
    text = _LAST_ROW_END.sub("", _ROW_SPACING.sub(r"\1", text))
    for pattern, plain in _SYNONYMS:
        text = pattern.sub(plain, text)
    if "\\over" in text:
        text = _OVER.sub(_fraction, text)
    if r"\begin" in text:
        return _system(text)
    return (_system_of(text) or text) if _ROW_END.search(text) else text


def _fraction(match: "re.Match[str]") -> str:
    return rf"\frac{{{match[1] or match[3]}}}{{{match[2] or match[4]}}}"


def _without_wrappers(text: str) -> str:
    matches = list(_WRAPPER.finditer(text))
    if not matches:
        return text
    closing = _closings(text)
    deleted: list[tuple[int, int]] = []
    for match in matches:
        drop = match[1] in _DROP
        begin, arguments = match.end(), 1 if drop else _KEEP_LAST.get(match[1], 1)
        for _ in range(arguments - 1):
            begin = _skip_spaces(text, closing.get(begin, -1) + 1)
        if begin not in closing or (match[1] in _FONTS and "{" not in text[begin + 1 : closing[begin]]):
            continue
        if match[1] in _TEXTS and not _DOLLARS.fullmatch(text, begin + 1, closing[begin]):
            continue
        if drop:
            deleted.append((match.start(), closing[begin] + 1))
        elif match.start() and text[match.start() - 1] in "^_}":
            deleted.append((match.start(), begin))
        else:
            end = _behind_remark(text, closing, closing[begin] + 1) if _REMARK.match(match.group()) else 0
            deleted += [(match.start(), begin + 1), (closing[begin], end or closing[begin] + 1)]
    return _without(text, deleted)


def _behind_remark(text: str, closing: dict[int, int], index: int) -> int:
    """Return the index behind the script of a brace at `index`."""
    if text[index : index + 1] in ("_", "^"):
        start = _skip_spaces(text, index + 1)
        return closing.get(start, start) + 1
    return index


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    kept, position = [], 0
    for begin, end in sorted(spans):
        kept.append(text[position:begin])
        position = max(position, end)
    return "".join([*kept, text[position:]])


def _skip_spaces(text: str, index: int) -> int:
    while index < len(text) and text[index].isspace():
        index += 1
    return index


def _closings(text: str) -> dict[int, int]:
    """Return the position of the closing brace of each opening one."""
    found, open_braces, index = {}, [], 0
    while index < len(text):
        character = text[index]
        if character == "\\":
            index += 1
        elif character == "{":
            open_braces.append(index)
        elif character == "}" and open_braces:
            found[open_braces.pop()] = index
        index += 1
    return found


def _system(text: str) -> str:
    """Return alignments without their marks, and a system of assignments in rows as a list."""
    if _ALIGNED.search(text):
        rest = _ALIGNED.sub(" ", text)
        text = rest if r"\begin" in rest else _system_of(rest.replace("&", "")) or _ROW.sub(" ", rest)
    return _CASES.sub(_rows, text)


def _system_of(rows: str) -> str | None:
    r"""Return rows that are an equation each as a list, or None ("x &= 3 + 4 \\ &= 7" is one chain)."""
    parts = [row.strip().rstrip(",;.") for row in rows.split(r"\\") if row.strip()]
    equations = all("&" not in row and row.count("=") == 1 and not row.startswith("=") for row in parts)
    return " " + ", ".join(parts) if equations else None


def _rows(match: "re.Match[str]") -> str:
    return _system_of(match[1]) or match.group()
