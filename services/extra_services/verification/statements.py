r"""Find the answer that prose states: on a marked line, as the whole text, or as the last value.

`marked_line` reads "#### x", "Answer: x" and "the answer is x". It takes what the sentence asserts: the
second part of "not 12 but 7", the value of "12 minus 5, which is 7", and nothing behind "because".
`last_value` takes the last formula or number. A value in prose is taken with the words beside it that change
or deny it ("at least 7", "half of 7", "7 or more", "7 is wrong"): they make it another answer, or none.
"""

import re

from extra_services.verification.box_words import DENIED_BEHIND
from extra_services.verification.commitment import answers, disowned, meant
from extra_services.verification.symbols import any_of
from extra_services.verification.words import has_english

_MARK = re.compile(r"####|answer|result|答案|\bans\b", re.IGNORECASE)
_ARROW = re.compile(r"\A(?:=>|->|⇒|→|∴|\\(?:implies|Rightarrow|therefore)(?![a-zA-Z]))\s*")
_A_LINE = re.compile(r"[\s>*#_-]*a[*_]*\s*:", re.IGNORECASE)
_PHRASE = re.compile(
    r"""
    .* (?:
        \#{4}
        | \b (?:answers?|ans|result) \s+ (?:is|are|equals|would\s+be|=) (?:\s+therefore)? \b
        | \b (?: answer | ans\.? ) [*_]* \s* (?=:)
        | ^ [\s*_]* ans\.
        | 答案 (?:是|为|為|:|应为|應為)
    )
    \s* :? [*_`\s]*
    """,
    re.IGNORECASE | re.VERBOSE,
)
#: "17. Or 18.", "17, possibly 18", "17? 18?": the answer is followed by another one.
_HEDGED = re.compile(
    r"""
    [\s$(]* -?\d[\d.,]*? [\s$)]* (?: [.;,?!]+ \s* | \s+ )
    \(? (?: or | alternatively | possibly | maybe | perhaps | otherwise ) \b ,? \s+
    (?: (?:it|maybe|perhaps|possibly|even|could|might|may|be|is|also|the|answer) \s+ ){0,5} [$(]* -?\d .*
    | [\s$(]* -?\d[\d.,]* [\s$)]* \? \s* (?:or\s+)? [$(]* -?\d .*
    """,
    re.IGNORECASE | re.VERBOSE,
)
_HEADING = re.compile(r"[\s>*#_-]*final\s+answer[*_]*\s*:?\s*\Z", re.IGNORECASE)
_FORMULA = r"(?:\$\$?[^$\n]+\$\$?|\\\(.+?\\\)|\\\[.+?\\\])"
_FORMULA_PATTERN = re.compile(_FORMULA, re.DOTALL)
_FORMULAS_FIRST = re.compile(rf"{_FORMULA}(?:\s*(?:,|;|and|or|,\s*and|,\s*or)\s*{_FORMULA})*\s*(?:\\?%)?")
#: Characters and marks of Chinese and Japanese, which are written without spaces.
_HAN = r"\u3040-\u30ff\u3400-\u9fff"
_HAN_MARKS = "，。、；：！？（）“”"
_IN_HAN = re.compile(rf"[{_HAN}{_HAN_MARKS}]")
#: Words in a Chinese clause that make its number another answer, or none.
_HAN_CHANGED = re.compile(
    r"""
    [没無无非除或半错误假设若猜说] | 不(?!同) | 两[个個](?=\d) | 至[少多] | 最[少多] | [大小多少]于 | 超[过過]
    | 低于 | 高于 | 分之 | 可能 | 也许 | 如果 | 认为 | 的(?:平方|立方) | 以[上下内外] | 左右 | 之前 | 之后
    | \d\s*(?:[倍余餘万萬亿億百折成]|千(?![克米瓦]))
    """,
    re.VERBOSE,
)
_HAN_SENTENCE = re.compile(rf"[{_HAN}]{{2}}.*\d|[{_HAN}]\s*\$")
_BEHIND_HAN = re.compile(rf"[{_HAN}{_HAN_MARKS}][\s$({{]*\Z")
#: No comma, point or colon within a number.
_MARK_OF_CLAUSE = re.compile(rf"[\n{_HAN_MARKS};!?]|[,.:](?!\d)")
_NUMBER = re.compile(
    rf"""
    (?<![.\\]) (?<!\d:) (?<![^\W{_HAN}]) [+-]?
    (?: \d{{1,2}}:\d{{2}} (?:\s*[ap]\.?m\b\.?)?  # a time
      | \d{{1,3}} (?:,\d{{3}})+ (?!\d)           # marks for the thousands
      | \d+,\d{{1,2}} (?![\d,])                # a decimal comma
      | \d+\s+\d+/\d+                        # a mixed number
      | \d+ )
    (?:\.\d+)? (?:/\d+)? (?:\s?\\?%)?
    """,
    re.IGNORECASE | re.VERBOSE,
)

_DENYING = any_of(
    r"""
    not \w+n['’]t cannot never no neither nor none without except excluding besides unless maybe perhaps
    possibly beyond exceeds? exceeding least most under above below than up
    nicht kein keine pas non não не
    """
)
_TURNING = any_of(
    r"""
    minus negative half third quarter twice thrice double triple roots? square cube reciprocal opposite
    inverse factorial log multiples? divisors? factors digits plus times over mod modulo choose divided\s+by
    multiplied\s+by percent
    """
)
_SMALL = any_of("an? the of to be equal for exactly about any number value power root original initial")
#: "The answer has 12 digits" says something about the answer, and does not state it.
_DESCRIBING = any_of(
    """
    has have ends? starts? begins? contains? consists? includes? differs? depends? divides lies involves uses
    increases? decreases? grows? changes? drops? rises? falls? exceeds?
    """
)
_VALUE_BEFORE = (
    r"(?:[-+]?\d[\d.,/]*|\$[^$\n]{1,40}\$|\\\([^\n]{1,40}?\\\)|[-+]?\\[dt]?frac\{[^{}\n]{1,20}\}\{[^{}\n]{1,20}\}"
    r"|\([^()\n]{1,40}\))\s*%?"
)
#: Text before a value that changes it, with the number that belongs to it ("3 less than", "5 or", "x >").
_CHANGED_BEFORE = re.compile(
    rf"""
    (?: (?: {_VALUE_BEFORE} \s+ (?:[a-z]+\s+){{0,2}} )?
        \b (?:{_DENYING}|{_TURNING}) \b (?: \s+ (?:{_SMALL}) )*
      | {_VALUE_BEFORE} (?:\s+[a-z]+)? (?:\s+out)? \s+ of
      | {_VALUE_BEFORE} (?:\s+[a-z]+)? \s* ,? \s* \b or (?:\s+(?:about|approximately|roughly|around))?
      | {_VALUE_BEFORE} \s* (?:≈|\\approx(?![a-z]))
      | \b (?:none|neither|nobody|nothing) \b [^.,;:\d]{{0,40}} \b (?:is|are|equals)
      | \b (?:answer|result) \s+ (?:{_DESCRIBING}) \b (?! \s+ (?:the\s+|a\s+)? value) [^.;:\n\d$]{{0,40}}
      | \b (?:answer|result) \s+
        (?:squared|cubed|doubled|tripled|halved|plus|minus|times|mod(?:ulo)?|divided|multiplied) \b
        [^.;:\n]{{0,40}}
      | \b (?:before|after|following|preceding)
      | \b of \s+ the \s+ (?:first|last|next)
      | \b (?:every|all|any) \b [^.,;:\n\d$]{{0,30}} \b but
      | \b (?:could|might|may) \s+ (?:also\s+|well\s+)? be
      | \b (?:not\s+enough|insufficient|impossible\s+to|unable\s+to|cannot|can['’]t) \b [^.,;:\n\d$]{{0,40}}
      | \b no \s+ (?:solutions?|answers?|values?) \s+ (?:with|for|where|when|if|at)
      | \b between \s+ {_VALUE_BEFORE} (?:\s+[a-z]+)? \s+ and
      | [\w)}}\]]* \s* (?:[<>≤≥≠]|!=) =?
      | \d [\d\s.,+*/^()×÷·-]* [-+*/^×÷·]
    )
    [\s{{}}$(]* \Z
    """,
    re.IGNORECASE | re.VERBOSE,
)
#: Values before a value that are one list with it.
_LIST_BEFORE = re.compile(
    rf"(?: (?:{_VALUE_BEFORE},\s+){{0,20}} {_VALUE_BEFORE},?\s+and\s+ | (?:{_VALUE_BEFORE},\s+){{2,20}} ) \Z",
    re.VERBOSE,
)
_BUT = re.compile(
    r"(?: \bnot | n['’]t | \bcannot ) \b .{1,80} \b but (?:\s+rather)? (?: \s+ (?:is|it\s+is) )? \s* \Z",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)

_COMPARATIVES = any_of("more less fewer greater higher lower above below larger smaller")
_MULTIPLYING = any_of(
    """
    factorial squared cubed halved doubled tripled hundred thousand million billion trillion dozen percent
    """
)
_OPERATORS = any_of("plus minus times choose mod modulo over")
_REJECTED = any_of(
    r"""
    n['’]t not wrong incorrect false impossible invalid excluded rejected extraneous ruled\s+out too\s+[a-z]+
    """
)
_REJECTING = any_of(r"fails doesn['’]t does\s+not cannot can['’]t isn['’]t")
#: Text behind a value that changes or denies it.
_CHANGED_BEHIND = re.compile(
    rf"""
    \s*+ (?:
        \? \s* \Z
      | or \s+ (?:{_COMPARATIVES})
      | (?:more|less|fewer) \s+ than \b .{{0,40}}
      | (?:{_MULTIPLYING}) s?
      | (?:hundred|thousand|million|ten) ths
      | (?:{_OPERATORS}) \s+ \S+
      | divided \s+ by \s+ \S+
      | (?: (?:is|are|was|would\s+be) \s*+ )? (?:{_REJECTED})
      | (?:{_REJECTING}) \b
    ) (?![a-z])
    """,
    re.IGNORECASE | re.VERBOSE,
)
#: Longest text before a value that is examined for words that change it.
_CONTEXT = 120
_NEGATIONS = any_of(r"not \w+n['’]t cannot never no none neither nor without except maybe perhaps possibly")
_DENIED = re.compile(rf"\b(?:{_NEGATIONS})\b", re.IGNORECASE)
_STATING = any_of("is are was were be equals gives get gets have has")
_ASSERTED = re.compile(rf"\b(?:{_STATING})\s+[$\\(]*\Z|(?:\S+\s+){{4}}\Z", re.IGNORECASE)
_ALIGNMENT = r"\s*\{(?:align|aligned|gather|gathered|split|eqnarray|flalign)\*?\}"
_ALIGNMENT_BEGIN = re.compile(rf"\\begin{_ALIGNMENT}")
_ALIGNMENT_END = re.compile(rf"\\end{_ALIGNMENT}(?:[\s$.]|\\\])*+\Z")
_BEFORE_ROW = re.compile(
    r"\A(?:\s*+\[\d+\w+\])?(?:\s|\\[,;:! ]|⇒|→|∴"
    r"|\\(?:q?quad|implies|[rR]ightarrow|Longrightarrow|therefore|iff|to)(?![a-zA-Z]))*+"
)
_BOLD = re.compile(r"\*\*(.+?)\*\*")
_REASONS = any_of(
    r"""
    because since instead\s+of rather\s+than which\s+is\s+why so\s+that as\s+(?:required|desired) i\.e\.
    """
)
#: What may stand behind an answer in its sentence.
_SENTENCE_END = re.compile(
    rf"""
    \. (?:\s+\D.*)? \Z | [。?;] .* \Z                  # the next sentence
    | ,? \s+ (?:{_REASONS}) .* \Z | , \s+ not \b .* \Z  # a reason, or another answer that is denied
    | \s+ \( [^()]* [a-z]{{4}} [^()]* \) \.? \Z         # a remark
    | \s* <\| .* \Z | \s* [✅✓✔☑🎉] .* \Z               # a special token, or a mark
    """,
    re.DOTALL | re.VERBOSE,
)
#: "The answer is 42!" is glad and no factorial; "Answer: 5!" is one.
_EXCLAMATION = re.compile(r"!(?!\s*[.)=+*/^-]).*\Z", re.DOTALL)
_REMARK = re.compile(r",\s+(?!and\b|or\b)[a-z]{2,}(?:\s+[a-z]+)*.*\Z", re.DOTALL)
_NOT_BUT = re.compile(
    r"""
    \A \s* (?:
        neither \b .{0,80} \b but
      | not \s .{1,80}?
        (?: ,? \s+ but (?:\s+rather)? | [;,.] \s+ (?:rather|instead)? ,? \s* it (?:\s+is|['’]s) )
    ) \s+
    """,
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_RESULTING = any_of(r"is equals gives makes simplifies\s+to comes\s+to")
_WHICH_IS = re.compile(
    rf"\A [^.]*? , \s* (?:which|that) \s+ (?:{_RESULTING}) \s+ (?=[-\d$\\])", re.IGNORECASE | re.VERBOSE
)
#: "15% of the class" states a share.
_SHARE_OF = re.compile(
    r"""
    ( \d\s?\\?%\$? | \d\s+percent ) \s+ of
    \s+ (?:the|all|its|his|her|their|these|those) \b [^\d$]* \Z
    """,
    re.VERBOSE,
)
_WHICH = re.compile(r",?\s+which\b.*\Z", re.DOTALL)
#: To the end of the sentence.
_REASON = re.compile(r",?\s+(?:because|since)\s(?:[^.]|\.(?=\d))*")
_OPEN_WORDS = any_of(
    """
    and or but so because since then by of to with from the an is are was were be equals we you they if
    subtract multiply divide compute calculate determine
    when for on at as let next thus hence therefore which than plus minus times must can should will would our
    """
)
#: The end of a sentence that is not over: a word that another must follow, or a sign. "12 in" may be inches.
_UNFINISHED = re.compile(
    rf"(?:(?<![\w\\-])(?:{_OPEN_WORDS})|\d\s*[+/=]|\d\s+[-*×÷]|:)[\s,]*\Z", re.IGNORECASE
)
#: "The minimum is 4, attained at x = 2": the value, and what it is attained at.
_ATTAINED = re.compile(
    r"""
    ( \b (?:maximum|minimum|largest|smallest|greatest|least|highest|lowest|max|min|maximal|minimal) \b
      [^.!?\n]{0,60} (?:\b(?:is|of|equals)\b|=) [^.!?\n\d]{0,20} [-\d][^\s,;!?\n]{0,40} ) ,? \s+
    (?: which \s+ (?:occurs|happens|is\s+(?:attained|reached|achieved|obtained)) \s+ | (?:and\s+)? (?:it\s+)?
        (?:is\s+)? (?:attained|achieved|reached|occurring|obtained|occurs) \s+ )?
    (?:when|at|for|if) \s+ [\s$\\(]* [a-z](?:\s*=|\s*,\s*[a-z]\s*=) [^.!?\n]{0,60}
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SUPPOSED_SENTENCE = re.compile(
    r"""
    (?: (?<=[.!?]) \s | (?<=\n) | \A ) [\s(*_]{0,5}
    (?: note | remark | if | under | with | had | were | in\s+the\s+other | assuming
      | alternatively,?\s+if ) \b
    [^.!?\n]{0,200} \b would \b [^\n]{0,200}? (?: [.!?] (?=[\s)*]|\Z) [)*]{0,3} | (?=\n|\Z) )
    """,
    re.IGNORECASE | re.VERBOSE,
)
#: The response says that there is no answer.
_NO_ANSWER = re.compile(
    r"""
    \b (?: not \s+ (?: (?:give|provide|contain|have) \b [^.\n]{0,20} )? enough \s+
            (?:information|data|details)
      | insufficient \s+ (?:information|data) | no \s+ (?:valid|correct|consistent) \s+ (?:answer|solution)
      | (?:problem|question) \s+ is \s+ (?:inconsistent|ill-?posed|flawed|contradictory|incomplete)
      | no \s+ \w+ \s+ (?:is|was|are|were) \s+ (?:given|provided|specified)
      | (?:cannot|can\s+not|can['’]t) \s+ be \s+ (?:determined|answered|solved) )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_LONGEST_BARE_ANSWER = 100
_LONGEST_HEADING = 200
#: Longest answer after a phrase, in characters; a box may be longer.
_LONGEST_ANSWER = 1000
#: Four letters that are no command and no name of a function.
_WORD = re.compile(r"(?<![\\a-zA-Z])(?!sqrt|sinh|cosh|tanh|arc|beta|theta|alpha|gamma)[a-zA-Z]{4}")
#: Letters side by side of a script other than Latin and Chinese ("Ответ: 15"), or with marks ("Đáp án: 15").
_OTHER_WORD = re.compile(rf"[^\W\d_a-zA-Z{_HAN}][^\W\d_{_HAN}]|[^\W\d_{_HAN}][^\W\d_a-zA-Z{_HAN}]")
_VALUE = re.compile(
    rf"""
    (?: {_FORMULA}
      | [-+]? [\d.,]* \d (?: \s*/\s*\d+ | \s+\d+/\d+ )? \s* (?:\\?%)? (?: \s+ [a-z]{{1,12}} ){{0,2}}
      | \(?[A-J]\)?
    ) [\s.]* \Z
    """,
    re.DOTALL | re.VERBOSE,
)
#: Chinese and Korean words stand beside a number without a space.
_TOKEN = re.compile(rf"[{_HAN}\uac00-\ud7af{_HAN_MARKS}]+|[^\s{_HAN}\uac00-\ud7af{_HAN_MARKS}]+")
_BRACE = re.compile(r"\\[{}]")
_MATHEMATICAL = re.compile(r"[\\{}^_=<>≤≥≠≈+*/|√π²³×·÷%\d]|\A[-−–]\Z")
_LEADING_OPERATOR = re.compile(r"(?:[-+*/=≈•]|\\approx)\s+")
#: The end of a clause before an equation: "Dividing by 2, 24 / 2 = 12".
_CLAUSE_BEFORE = re.compile(r"-?\d[\d.]*,\s+(?=[^,=]*=[^,=]*\Z)")
#: The calculations in the solutions of GSM8K ("9*2 = <<9*2=18>>18").
_CALCULATOR = re.compile(r"<<[^<>\n]*(?:>>|\Z)")
#: Number of last characters in which an unmarked answer is sought.
_TAIL = 1000


def marked_line(response: str, behind_box: bool = False) -> tuple[str, str] | None:
    """Return the answer on the last line with a marker, and "hash" or "phrase".

    If nothing follows the marker, the answer is on the next line. A line that disowns it is passed over.

    Args:
        response: The text.
        behind_box: A box before it answers already.
    """
    following = ""
    for line in reversed(response.split("\n")):
        marked = _MARK.search(line) is not None
        match = _PHRASE.match(line) if marked else None
        if match is None and len(line) <= _LONGEST_HEADING:
            match = (_HEADING if marked else _A_LINE).match(line)
        sentence = match is not None and match.group().rstrip("*_` ")[-1:] not in (":", "#")
        if match and _IN_HAN.search(match.group()):
            start = match.end()
            if not meant(line, start, _end_of_clause(line, start)):
                return line, "phrase"
        if match and disowned(match.group(), behind_box):
            match = None
        if match and (hedged := _HEDGED.match(line, match.end())):
            return hedged.group().strip(), "phrase"
        if match and (text := _answer_of_line(line[match.end() :], sentence) or _answer_of_line(following)):
            return text, "hash" if "####" in match.group() else "phrase"
        if line.strip():
            following = line
    return None


def states_a_value(text: str) -> bool:
    """Return whether `text` is a number, a formula or a choice, and no prose."""
    plain = text.strip()
    raw = len(plain) <= _LONGEST_BARE_ANSWER and bool(re.search(r"\d|\\", plain)) and not has_english(plain)
    return raw or bool(_VALUE.match(plain))


def whole(response: str) -> str | None:
    """Return a response that consists of its answer alone ("-1 + exp(16)")."""
    line = _ARROW.sub("", response.strip())
    if len(line) > _LONGEST_BARE_ANSWER or "\n" in line or _WORD.search(line):
        return None
    labelled = _OTHER_WORD.search(line) is not None and any(map(str.isdigit, line))
    sentence = re.match(r"[A-Z][a-z]+\s", line) or _HAN_SENTENCE.search(line) or " :" in line
    return line if not (sentence or labelled) and any(map(str.isalnum, line)) else None


def last_row(response: str) -> str | None:
    r"""Return the last row of an alignment that ends a response ("x &= 3 + 4 \\ &= 7"), or None.

    Rows that give several unknowns their values ("x &= 1 \\ y &= 2") are one answer together.
    """
    if not (end := _ALIGNMENT_END.search(response)):
        return None
    rows = response[response.rfind("\\begin", 0, end.start()) : end.start()]
    rows = _ALIGNMENT_BEGIN.sub("", rows).replace("&", "")
    every = [row for row in map(_row, rows.split(r"\\")) if row]
    *_, before, last = ["", "", *every]
    named = {row.partition("=")[0].strip() for row in every if "=" in row}
    if len(every) > 1 and len(named) == len(every) and all(map(str.isalpha, named)):
        return None
    if last.startswith((r"\approx", "≈")):
        return f"{before.rpartition('=')[2]} {last}"
    return last.removeprefix("=").strip() if "=" in last else None


def _row(text: str) -> str:
    """Return a row without its spacing and without an arrow before it."""
    return _BEFORE_ROW.sub("", text).strip(" \n\t.,;")


def without_suppositions(text: str) -> str:
    """Return `text` without sentences about what would be if something else were so, if it has others."""
    return _SUPPOSED_SENTENCE.sub(" ", text) if "would" in text else text


def answering(text: str) -> str:
    """Return `text`, or what follows where it last says that there is no answer, without suppositions."""
    refusals = list(_NO_ANSWER.finditer(text, max(0, len(text) - _TAIL)))
    if not refusals or any("####" in line for line in text.split("\n")[-3:]):
        return text
    behind = without_suppositions(text[refusals[-1].end() :])
    return "" if re.search(r"\b(?:would|guess|if)\b", behind) else behind


def last_value(response: str) -> str | None:
    """Return the last formula or number of `response`, without regard to reasons given behind it.

    A response that ends in the middle of a sentence was cut off, and its last number is no answer.
    """
    tail = response[-_TAIL:]
    if _UNFINISHED.search(tail):
        return None
    if bold := _bold_value(tail):
        return bold
    asserted = _ATTAINED.sub(r"\1", _REASON.sub("", tail))
    return _last_value(asserted) or _last_value(tail)


def _bold_value(tail: str) -> str | None:
    """Return the only value in bold of the last line, if there is one."""
    line = tail.rstrip().rpartition("\n")[2]
    bold = [inner.strip(" .") for inner in _BOLD.findall(line)] if "**" in line else []
    start = line.find(f"**{bold[0]}") if len(bold) == 1 else -1
    if start < 0 or not any(map(str.isdigit, bold[0])) or not states_a_value(bold[0]):
        return None
    return None if _CHANGED_BEFORE.search(line, 0, start) else bold[0]


def _answer_of_line(line: str, sentence: bool = False) -> str:
    line = line.strip()[:_LONGEST_ANSWER]
    if line.isascii() and line.isdigit():  # nothing beside it could change it
        return line
    line = _SHARE_OF.sub(r"\1", line)
    line = _NOT_BUT.sub("", line)
    if line.count("**") % 2:  # the answer is in bold, which begins before the marker ends
        line = line.partition("**")[0]
    elif bold := _BOLD.match(line):
        line = bold[1]
    line = line.strip()
    if which := _WHICH_IS.match(line):
        line = line[which.end() :]
    if first := _FORMULAS_FIRST.match(line):
        return _in_context(line, *first.span())
    formulas = list(_FORMULA_PATTERN.finditer(line))
    around = _FORMULA_PATTERN.sub("", line)
    if len(formulas) == 1 and not any(map(str.isdigit, around)):
        return _in_context(line, *formulas[0].span())
    line = _without_remarks(_EXCLAMATION.sub("", line) if sentence else line).strip(" *_`")
    return _asserted(line) or line


def _without_remarks(line: str) -> str:
    """Return a line without what follows the answer in its sentence, unless that takes it back."""
    for remark in (_SENTENCE_END, _WHICH, _REMARK):
        found = remark.search(line)
        if found and not DENIED_BEHIND.match(line, found.start()):
            line = remark.sub("", line)
    return line


def _asserted(line: str) -> str | None:
    """Return the value of a sentence that states one ("The largest n is 34"), or None."""
    if "\\text" in line or not _WORD.search(line) or not (value := _last_span(line)):
        return None
    before = _FORMULA_PATTERN.sub("", line[: value[0]])
    alone = not any(map(str.isdigit, before)) and not _DENIED.search(before)
    return _in_context(line, *value) if alone and _ASSERTED.search(line, 0, value[0]) else None


def _in_context(text: str, start: int, end: int) -> str:
    """Return the value text[start:end] with the words beside it that change or deny it."""
    low = max(0, start - _CONTEXT)
    if _BEHIND_HAN.search(text, low, start):
        return _in_clause(text, low, start, end)
    if (before := _CHANGED_BEFORE.search(text, low, start)) and not _BUT.search(text, low, start):
        start = before.start()
    elif text[low:start].rstrip().endswith(("and", ",")) and (
        listed := _LIST_BEFORE.search(text, low, start)
    ):
        start = listed.start()
    if behind := DENIED_BEHIND.match(text, end) or _CHANGED_BEHIND.match(text, end):
        end = behind.end()
    return text[start:end].strip()


def _in_clause(text: str, low: int, start: int, end: int) -> str:
    """Return the value text[start:end], or the sentence around it in Chinese if that changes or denies it.

    The sentence is sought from `low` on.
    """
    begin = max((mark.end() for mark in _MARK_OF_CLAUSE.finditer(text, low, start)), default=low)
    stop = _end_of_clause(text, end)
    if _HAN_CHANGED.search(text, begin, stop) or not meant(text, start, stop):
        return text[begin:].partition("\n")[0]
    return text[start:end]


def _end_of_clause(text: str, start: int) -> int:
    mark = _MARK_OF_CLAUSE.search(text, start)
    return mark.start() if mark else len(text)


def _last_value(tail: str) -> str | None:
    tail = _CALCULATOR.sub("", tail)
    if not (span := _last_span(tail)) or not answers(tail, *span):
        return None
    return _in_context(
        tail, *(span if _FORMULA_PATTERN.match(tail, span[0]) else _formula_around(tail, *span))
    )


def _formula_around(text: str, start: int, end: int) -> tuple[int, int]:
    """Return where the formula is that the number text[start:end] belongs to, as in "x + 1 = 7".

    A formula without delimiters is a run of mathematical tokens, and of all tokens in braces.
    """
    first = max(text.rfind("\n", 0, start) + 1, start - _CONTEXT)
    line_end = text.find("\n", end)
    begin, stop, depth = -1, end, 0
    for token in _TOKEN.finditer(text, first, line_end if line_end >= 0 else len(text)):
        word = token.group()
        if depth == 0 and not _is_mathematical(word):
            if token.start() >= end:
                break
            begin = -1
            continue
        begin, stop = (begin if begin >= 0 else token.start()), token.end()
        depth = max(0, depth + _BRACE.sub("", word).count("{") - _BRACE.sub("", word).count("}"))
        if depth == 0 and word[-1] in ".;:?":
            if stop >= end:
                break
            begin = -1
    if not 0 <= begin <= start or stop < end or stop - begin > 2 * _CONTEXT:
        return start, end
    return _trimmed(text, begin, stop, start, end)


def _trimmed(text: str, begin: int, stop: int, start: int, end: int) -> tuple[int, int]:
    """Return the run text[begin:stop] without bullets, a sign that joins it to words, and marks around it."""
    if before := _LEADING_OPERATOR.match(text, begin, start) or _CLAUSE_BEFORE.match(text, begin, stop):
        begin = before.end()
    while begin < start and (text[begin] in "*_`,;:" or (text[begin] == "(" and ")" not in text[begin:stop])):
        begin += 1
    while stop > end and (
        text[stop - 1] in ".,;:?*_`=+-/$ " or (text[stop - 1] in ")]" and text[begin:stop].count("(") == 0)
    ):
        stop -= 1
    return begin, stop


def _is_mathematical(word: str) -> bool:
    name = len(word) == 1 and word.isalpha() and word not in "aAI" and not _IN_HAN.match(word)
    return name or bool(_MATHEMATICAL.search(word))


def _last_span(text: str) -> tuple[int, int] | None:
    """Return where the last formula or number is."""
    last: re.Match[str] | None = None
    for match in _FORMULA_PATTERN.finditer(text):
        last = match
    for match in _NUMBER.finditer(text, last.end() if last else 0):
        last = match
    return last.span() if last else None
