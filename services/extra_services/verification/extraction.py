r"""Find the final answer in the text of a model.

The most explicit marker wins: the last `\boxed{...}` (a box inside a box is unwrapped; a BoxChoice selects
one of several), else the last line marked `#### x`, `A: x`, `Answer: x` or "the answer is x", else the last
formula or number of the text. All passes are linear in the length of the text, so that a megabyte of braces
takes a second.
"""

import re
from dataclasses import dataclass

from extra_rl.vocabulary import BoxChoice
from extra_services.verification.normalization import plain_punctuation


@dataclass(frozen=True)
class Extracted:
    """A final answer as written."""

    text: str
    #: "box", "hash", "phrase", or "last" if there was no marker.
    marker: str


_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\boxed\s*([^\s{}\\$]+)")
_MARKS = ("####", "answer", "result", "答案")
_A_LINE = re.compile(r"[\s>*#_-]*a[*_]*\s*:", re.IGNORECASE)
_EMPHASIS = r"[*_`\s]*"
_PHRASE = re.compile(
    r".*(?:####|\b(?:answers?|result)\s+(?:is|are|equals|would\s+be|=)(?:\s+therefore)?\b|\banswer[*_]*\s*(?=:)"
    rf"|答案(?:是|为|:))\s*:?{_EMPHASIS}",
    re.IGNORECASE,
)
_HEADING = re.compile(r"[\s>*#_-]*final\s+answer[*_]*\s*:?\s*\Z", re.IGNORECASE)
_FORMULA = r"(?:\$\$?[^$\n]+\$\$?|\\\(.+?\\\)|\\\[.+?\\\])"
_FORMULA_PATTERN = re.compile(_FORMULA, re.DOTALL)
_FORMULAS_FIRST = re.compile(rf"{_FORMULA}(?:\s*(?:,|;|and|or|,\s*and|,\s*or)\s*{_FORMULA})*\s*(?:\\?%)?")
_NUMBER = re.compile(r"(?<![\w.\\])[+-]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/\d+)?(?:\s?\\?%)?")
_BOLD = re.compile(r"\*\*(.+?)\*\*")
_SENTENCE_END = re.compile(
    r"\.(?:\s+\D.*)?\Z|[。!?;].*\Z|,?\s+(?:because|since|which|so\s+that|as\s+(?:required|desired)|i\.e\.|not).*\Z"
    r"|\s+\([^()]*[a-z]{4}[^()]*\)\Z",
    re.DOTALL,
)
_LONGEST_BARE_ANSWER = 100
_LONGEST_HEADING = 200
#: Longest answer after a phrase, in characters; a box may be longer.
_LONGEST_ANSWER = 1000
#: Four letters that are no command and no name of a function.
_WORD = re.compile(r"(?<![\\a-zA-Z])(?!sqrt|sinh|cosh|tanh|arc|beta|theta|alpha|gamma)[a-zA-Z]{4}")
#: Number of last characters in which an unmarked answer is sought.
_TAIL = 1000


def final_answer(response: str, which: BoxChoice = BoxChoice.LAST) -> Extracted | None:
    """Return the final answer in `response`, or None; `which` selects one of several boxes."""
    found = boxes(response)
    if found:
        return Extracted(_chosen([unboxed(content).strip() for content in found], which), "box")
    if "\\boxed" in response:
        # A box that is never closed belongs to a response that was cut off: its number may be incomplete.
        bare = _BARE_BOX.findall(response)
        return Extracted(_chosen(bare, which), "box") if bare else None
    response = plain_punctuation(response)
    return _marked_line(response) or _whole(response) or _last_value(response[-_TAIL:])


def reference_answer(answer: str) -> str:
    """Return the reference answer without its box, or without the solution before its `####`."""
    found = boxes(answer)
    if found:
        return unboxed(found[-1]).strip()
    return answer.rpartition("####")[2].strip()


def boxes(text: str) -> list[str]:
    r"""Return the contents of the complete `\boxed{...}` of `text` that are in no other box, in order."""
    start = min((at for command in ("\\boxed", "\\fbox") if (at := text.find(command)) >= 0), default=-1)
    if start < 0:
        return []
    complete: list[tuple[int, int]] = []
    open_braces: list[int] = []  # start of a box's content, or -1 for a plain brace
    for token in _BOX_TOKEN.finditer(text, start):
        mark = token.group()
        if mark == "}":
            begin = open_braces.pop() if open_braces else -1
            if begin >= 0:
                while complete and complete[-1][0] > begin:
                    complete.pop()
                complete.append((begin, token.start()))
        elif mark == "{":
            open_braces.append(-1)
        elif len(mark) > 2:
            open_braces.append(token.end())
    return [text[begin:end] for begin, end in complete if text[begin:end].strip()]


def unboxed(content: str) -> str:
    r"""Return `content` with every `\boxed{x}` in it replaced by x."""
    if "box" not in content:
        return content
    kept: list[str] = []
    open_braces: list[bool] = []
    position = 0
    for token in _BOX_TOKEN.finditer(content):
        mark = token.group()
        if mark == "{":
            open_braces.append(False)
        elif mark == "}":
            if open_braces and open_braces.pop():
                kept.append(content[position : token.start()])
                position = token.end()
        elif len(mark) > 2:
            open_braces.append(True)
            kept.append(content[position : token.start()])
            position = token.end()
    return "".join([*kept, content[position:]])


def _chosen(contents: list[str], which: BoxChoice) -> str:
    if which is BoxChoice.ALL:
        return ", ".join(dict.fromkeys(contents))
    return contents[0 if which is BoxChoice.FIRST else -1]


def _marked_line(response: str) -> Extracted | None:
    """Return the answer on the last line with a marker; if nothing follows the marker, the next line."""
    following = ""
    for line in reversed(response.split("\n")):
        lower = line.lower()
        marked = any(mark in lower for mark in _MARKS)
        match = _PHRASE.match(line) if marked else None
        if match is None and len(line) <= _LONGEST_HEADING:
            match = (_HEADING if marked else _A_LINE).match(line)
        if match and (text := _answer_of_line(line[match.end() :]) or _answer_of_line(following)):
            return Extracted(text, "hash" if "####" in match.group() else "phrase")
        if line.strip():
            following = line
    return None


def _answer_of_line(line: str) -> str:
    line = line.strip()[:_LONGEST_ANSWER]
    if line.count("**") % 2:  # the answer is in bold, which begins before the marker ends
        line = line.partition("**")[0]
    elif bold := _BOLD.match(line):
        line = bold[1]
    line = line.strip()
    if first := _FORMULAS_FIRST.match(line):
        return first.group()
    formulas = _FORMULA_PATTERN.findall(line)
    if len(formulas) == 1 and not any(character.isdigit() for character in _FORMULA_PATTERN.sub("", line)):
        return str(formulas[0])
    return _SENTENCE_END.sub("", line).strip(" *_`")


def _whole(response: str) -> Extracted | None:
    """Return a response that consists of its answer alone ("-1 + exp(16)")."""
    line = response.strip()
    bare = len(line) <= _LONGEST_BARE_ANSWER and "\n" not in line and not _WORD.search(line)
    return Extracted(line, "last") if bare and any(map(str.isalnum, line)) else None


def _last_value(tail: str) -> Extracted | None:
    last: re.Match[str] | None = None
    for match in _FORMULA_PATTERN.finditer(tail):
        last = match
    for match in _NUMBER.finditer(tail, last.end() if last else 0):
        last = match
    return Extracted(last.group(), "last") if last else None
