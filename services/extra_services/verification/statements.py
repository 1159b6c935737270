r"""Find the answer that prose states: on a marked line, as the whole text, or as the last value.

`marked_line` reads "#### x", "Answer: x" and "the answer is x". It takes what the sentence asserts: the
second part of "not 12 but 7", the value of "12 minus 5, which is 7", and nothing behind "because".
`last_value` takes the last formula or number of the last sentence with one.
"""

import re

_MARKS = ("####", "answer", "result", "答案")
_A_LINE = re.compile(r"[\s>*#_-]*a[*_]*\s*:", re.IGNORECASE)
_EMPHASIS = r"[*_`\s]*"
_PHRASE = re.compile(
    r".*(?:####|\b(?:answers?|result)\s+(?:is|are|equals|would\s+be|=)(?:\s+therefore)?\b|\banswer[*_]*\s*(?=:)"
    rf"|答案(?:是|为|為|:|应为|應為))\s*:?{_EMPHASIS}",
    re.IGNORECASE,
)
_HEADING = re.compile(r"[\s>*#_-]*final\s+answer[*_]*\s*:?\s*\Z", re.IGNORECASE)
_FORMULA = r"(?:\$\$?[^$\n]+\$\$?|\\\(.+?\\\)|\\\[.+?\\\])"
_FORMULA_PATTERN = re.compile(_FORMULA, re.DOTALL)
_FORMULAS_FIRST = re.compile(rf"{_FORMULA}(?:\s*(?:,|;|and|or|,\s*and|,\s*or)\s*{_FORMULA})*\s*(?:\\?%)?")
_NUMBER = re.compile(
    r"(?<![\w.\\:])[+-]?(?:\d{1,2}:\d{2}(?:\s*[ap]\.?m\b\.?)?|\d{1,3}(?:,\d{3})+(?!\d)|\d+,\d{1,2}(?![\d,])|\d+\s+\d+/\d+|\d+)"
    r"(?:\.\d+)?(?:/\d+)?(?:\s?\\?%)?",
    re.IGNORECASE,
)
#: Words before a formula that change its value.
_CHANGED = re.compile(r"(?:not|minus|negative|half|twice)\b", re.IGNORECASE)
_BOLD = re.compile(r"\*\*(.+?)\*\*")
#: What may stand behind an answer in its sentence: the next sentence, a reason, a remark, a special token.
_SENTENCE_END = re.compile(
    r"\.(?:\s+\D.*)?\Z|[。!?;].*\Z|\s*<\|.*\Z|,\s+not\b.*\Z|\s*[✅✓✔☑🎉].*\Z"
    r"|,?\s+(?:because|since|which\s+is\s+why|so\s+that|as\s+(?:required|desired)|i\.e\.).*\Z"
    r"|\s+\([^()]*[a-z]{4}[^()]*\)\.?\Z",
    re.DOTALL,
)
_REMARK = re.compile(r",\s+(?!and\b|or\b)[a-z]{2,}(?:\s+[a-z]+)*.*\Z", re.DOTALL)
_NOT_BUT = re.compile(
    r"\A\s*(?:neither\b.{0,80}\bbut|not\s.{1,80}?,?\s+but(?:\s+rather)?)\s+", re.IGNORECASE | re.DOTALL
)
_WHICH_IS = re.compile(
    r"\A[^.]*?,\s*(?:which|that)\s+(?:is|equals|gives|makes|simplifies\s+to|comes\s+to)\s+(?=[-\d$\\])",
    re.IGNORECASE,
)
_WHICH = re.compile(r",?\s+which\b.*\Z", re.DOTALL)
_REASON = re.compile(r",?\s+(?:because|since)\s.*\Z", re.DOTALL)
_LONGEST_BARE_ANSWER = 100
_LONGEST_HEADING = 200
#: Longest answer after a phrase, in characters; a box may be longer.
_LONGEST_ANSWER = 1000
#: Four letters that are no command and no name of a function.
_WORD = re.compile(r"(?<![\\a-zA-Z])(?!sqrt|sinh|cosh|tanh|arc|beta|theta|alpha|gamma)[a-zA-Z]{4}")
_VALUE = re.compile(
    rf"(?:{_FORMULA}|[-+]?[\d.,]*\d(?:\s*/\s*\d+|\s+\d+/\d+)?\s*(?:\\?%)?(?:\s+[a-z]{{1,12}}){{0,2}}|\(?[A-J]\)?)[\s.]*\Z",
    re.DOTALL,
)
#: Number of last characters in which an unmarked answer is sought.
_TAIL = 1000


def marked_line(response: str) -> tuple[str, str] | None:
    """Return the answer on the last line with a marker, and "hash" or "phrase".

    If nothing follows the marker, the answer is on the next line.
    """
    following = ""
    for line in reversed(response.split("\n")):
        lower = line.lower()
        marked = any(mark in lower for mark in _MARKS)
        match = _PHRASE.match(line) if marked else None
        if match is None and len(line) <= _LONGEST_HEADING:
            match = (_HEADING if marked else _A_LINE).match(line)
        if match and (text := _answer_of_line(line[match.end() :]) or _answer_of_line(following)):
            return text, "hash" if "####" in match.group() else "phrase"
        if line.strip():
            following = line
    return None


def states_a_value(text: str) -> bool:
    """Return whether `text` is a number, a formula or a choice, and no prose."""
    return bool(_VALUE.match(text.strip()))


def whole(response: str) -> str | None:
    """Return a response that consists of its answer alone ("-1 + exp(16)")."""
    line = response.strip()
    bare = len(line) <= _LONGEST_BARE_ANSWER and "\n" not in line and not _WORD.search(line)
    sentence = bool(re.match(r"[A-Z][a-z]+\s", line)) or " :" in line
    return line if bare and not sentence and any(map(str.isalnum, line)) else None


def last_value(response: str) -> str | None:
    """Return the last formula or number of `response`, without regard to reasons given behind it."""
    tail = response[-_TAIL:]
    asserted = _REASON.sub("", tail)
    return _last_value(asserted) or _last_value(tail)


def _answer_of_line(line: str) -> str:
    line = line.strip()[:_LONGEST_ANSWER]
    line = _NOT_BUT.sub("", line)
    if line.count("**") % 2:  # the answer is in bold, which begins before the marker ends
        line = line.partition("**")[0]
    elif bold := _BOLD.match(line):
        line = bold[1]
    line = line.strip()
    if which := _WHICH_IS.match(line):
        line = line[which.end() :]
    if first := _FORMULAS_FIRST.match(line):
        return first.group()
    formulas = _FORMULA_PATTERN.findall(line)
    around = _FORMULA_PATTERN.sub("", line)
    if len(formulas) == 1 and not any(map(str.isdigit, around)) and not _CHANGED.match(line):
        return str(formulas[0])
    line = _WHICH.sub("", _SENTENCE_END.sub("", line))
    return _REMARK.sub("", line).strip(" *_`")


def _last_value(tail: str) -> str | None:
    last: re.Match[str] | None = None
    for match in _FORMULA_PATTERN.finditer(tail):
        last = match
    for match in _NUMBER.finditer(tail, last.end() if last else 0):
        last = match
    return last.group() if last else None
