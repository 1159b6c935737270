r"""Finds the final answer in what a model wrote.

The order is that of how deliberate a marker is: the last `\boxed{...}` (a box inside a box is unwrapped),
else the last line marked `#### x`, `A: x`, `Answer: x` or "the answer is x". A response without any marker
has no final answer of its own; the caller may then fall back on its last number or formula. Everything here
is one linear pass: a megabyte of braces costs a second, not a day.
"""

import re
from dataclasses import dataclass

from extra_services.verification.normalization import plain_punctuation


@dataclass(frozen=True)
class Extracted:
    """A final answer as written, and what marked it: "box", "hash" or "phrase"."""

    text: str
    marker: str


_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\boxed\s*([^\s{}\\$]+)")
_HASH = re.compile(r"####[ \t]*([^\n]+)")
_PHRASE = re.compile(
    r"(?:(?:final\s+|correct\s+)?answer\s+(?:is|equals|=)(?:\s*:)?|(?:^|\n)[\s>*#_-]*(?:final\s+answer|answer|a)[*_]*\s*:)"
    r"[ \t*_]*\n?[ \t*_]*([^\n]+)",
    re.IGNORECASE,
)
_CHINESE_PHRASE = re.compile(r"(?:最终)?答案(?:是|为|:)+\s*([^\n]+)")
_MATH = re.compile(r"\$\$?([^$\n]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]")
_SENTENCE_END = re.compile(r"\.(?:\s+[A-Z].*)?$|[。!?;].*$", re.DOTALL)


def final_answer(response: str) -> Extracted | None:
    """The final answer marked in `response`, or None if nothing marks one."""
    found = boxes(response)
    if found:
        return Extracted(unboxed(found[-1]).strip(), "box")
    bare = _BARE_BOX.findall(response)
    if bare:
        return Extracted(bare[-1], "box")
    return _marked_line(plain_punctuation(response))


def reference_answer(answer: str) -> str:
    """The reference answer without its box, or without the solution before its `####`."""
    found = boxes(answer)
    if found:
        return unboxed(found[-1]).strip()
    return answer.rpartition("####")[2].strip()


def boxes(text: str) -> list[str]:
    r"""Contents of the complete `\boxed{...}` of `text` that are in no other box, in order."""
    start = text.find("\\boxed{") if "\\fbox" not in text and "\\boxed " not in text else 0
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
    return [text[begin:end] for begin, end in complete]


def unboxed(content: str) -> str:
    r"""`content` with every `\boxed{x}` inside it replaced by x."""
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


def _marked_line(response: str) -> Extracted | None:
    last: tuple[int, Extracted] | None = None
    for pattern, marker in ((_HASH, "hash"), (_PHRASE, "phrase"), (_CHINESE_PHRASE, "phrase")):
        for match in pattern.finditer(response):
            text = _answer_of_line(match.group(1))
            if text and (last is None or match.start() > last[0]):
                last = match.start(), Extracted(text, marker)
    return last[1] if last else None


def _answer_of_line(line: str) -> str:
    formulas = list(_MATH.finditer(line))
    if len(formulas) == 1:
        return next(group for group in formulas[0].groups() if group is not None).strip()
    return _SENTENCE_END.sub("", line.strip()).strip(" *_")
