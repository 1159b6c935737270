r"""Find the final answer in the text of a model: what the response commits to last.

The text behind a finished `<think>` block is the response; the block itself counts only if nothing behind
it answers. A `<think>` that never ends was cut off and answers nothing. In what is left, the most explicit
marker wins: `<answer>...</answer>`, the last `\boxed{...}` (a BoxChoice selects one of several), a line
marked `#### x`, `A: x`, `Answer: x` or "the answer is x", the last formula or number. A marked line behind
the box that states another value corrects the box. Boxes of one sentence ("\boxed{1} and \boxed{2}") are
one list if the reference lists several values; if "or" joins them, they are alternatives in any case. All
passes are linear in the length of the text, so that a megabyte of braces takes a second.
"""

import html
import re
from itertools import islice, pairwise
from typing import NamedTuple

from extra_rl.vocabulary import BoxChoice
from extra_services.verification.commitment import (
    alternative_behind,
    denied_behind,
    last_withdrawal,
    meant,
    only_supposed,
    value_gone_on_to,
    with_words,
    withdrawn_behind,
)
from extra_services.verification.forms import LABEL, in_series
from extra_services.verification.json_answers import stated_in_json
from extra_services.verification.statements import (
    answering,
    last_row,
    last_value,
    marked_line,
    states_a_value,
    whole,
    without_suppositions,
)
from extra_services.verification.symbols import plain_punctuation


class Extracted(NamedTuple):
    """A final answer as written."""

    text: str
    #: "tag", "box", "hash", "phrase", or "last" if there was no marker.
    marker: str
    #: Beginning of the text behind the last box, where a unit may stand.
    behind: str = ""


class _Box(NamedTuple):
    content: str
    start: int
    end: int


_BOX_TOKEN = re.compile(r"\\{1,2}(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\boxed\s*([^\s{}\\$]+|\\[dt]?frac\s*\{[^{}]*\}\s*\{[^{}]*\}|\\sqrt\s*\{[^{}]*\})")
_BLANK = re.compile(r"(?:\s|\\[,;:! ]|\\q?quad(?![a-zA-Z])|\\(?:text|mathrm|mbox)\s*\{\s*\}|[~$.])*\Z")
_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)
#: "&" begins no column of a matrix where a name and a semicolon follow it.
_ENTITY = re.compile("&(?:lt|gt|le|ge|leq|geq|ne|nbsp|minus|times|divide|plusmn|radic|pi|infin);")
_HTML_FONT = re.compile(r"</?(?:b|strong|i|em|u)>", re.IGNORECASE)
#: The begin of a part, at the begin of a line.
_PART = re.compile(rf"^[ \t>*#-]{{0,8}}(?:[Pp]art[ ])?(?:\(({LABEL})\)|([a-h])\))", re.MULTILINE)
_TAG_BEGIN = re.compile("<answer>", re.IGNORECASE)
_JOINED_TAG = re.compile(
    r"<answer>([^<>]{1,200})</answer>\s*(?:,|/|or|and)\s*(?:maybe|perhaps|possibly)?\s*\Z", re.IGNORECASE
)
#: Another speaker, whom a model makes up behind its answer.
_TURN = re.compile(
    r"<\|(?!\s)[a-z_]{2,20}\|>|</s>|\n[ \t#*]*(?:Human|User|Assistant)\**:",
    re.IGNORECASE,
)
_SIGNS_OF_A_TURN = ("<|", "</s>", "Human", "User", "Assistant")
_THINK, _THINK_END = "<think>", "</think>"
_GIVES_UP = re.compile(
    r"\b(?:cannot|can['’]t|could\s+not|couldn['’]t|unable|(?:do\s+not|don['’]t)\s+know|sorry|failed\s+to|give\s+up"
    r"|no\s+idea)\b",
    re.IGNORECASE,
)
_MARKED_NUMBER = re.compile(r"\s*(####|A:|(?:Final )?[Aa]nswer:)\s*(-?[0-9][0-9,]*(?:\.[0-9]+)?)")
#: What may stand between two boxes of one sentence or display.
_SAME_SENTENCE = re.compile(
    r"""(?:
        \s | [,;/$和或与及、，–—~]
        | \\[,;:!\ ] | \\[\[\]()] | \\\\(?=\s) | \\q?quad(?![a-zA-Z])  # spaces, delimiters, ends of rows
        | \\text\s*\{[^{}]{0,60}\}
        | [a-zA-Z]+ (?:_\{?\w{1,3}\}?|\(\w\))? \s* =                # the name of the next value
        | \b[a-z()]{1,13}\b | \(?(?:[a-h1-9]|i{1,3}|iv)\)         # a label of the next part
    ){0,14}\Z""",
    re.VERBOSE,
)
#: Words between two boxes need a joint among them.
_JOINT = re.compile(
    r"[,;&/–—~]|(?<![a-zA-Z])(?:vs|versus)(?![a-zA-Z])|(?<![a-zA-Z])(?:and|or)(?![a-zA-Z])|[和或、，]|\\quad"
)
#: Between boxes that are a list even where the reference has one value.
_LISTED = re.compile(r"(?:[\s$,;]|\\[()\[\],; ]|\\q?quad(?![a-zA-Z])|\band\b|(?<![a-zA-Z\\])[a-zA-Z]\s*=)*\Z")
_ALTERNATIVE = re.compile(
    r"(?<![a-zA-Z])(?:or|vs|versus|also|otherwise|for\s+(?:even|odd)|if|in\s+the\s+first\s+case|maybe|perhaps"
    r"|possibly|alternatively)(?![a-zA-Z])|[或/–—~]"
)
_CONDITIONAL = r"(if|when|under|assuming|case)\b"
#: The clause behind a box sets a condition, and the last clause of the text before it.
_CONDITION = re.compile(rf"[\s$)\]\\]*(?:[.;,]\s+|\n\s*)(?:and\s+|but\s+)?{_CONDITIONAL}", re.IGNORECASE)
_LAST_CONDITION = re.compile(rf"(?:.*[.;,\n]\s*)?{_CONDITIONAL}[^.;\n]*\Z", re.IGNORECASE | re.DOTALL)
_CANDIDATE = r"(answer|option|candidate|guess|attempt|try|trial|version|possibility|alternative)"
#: What introduces one of several candidates, by its number or letter.
_NUMBERED = re.compile(
    rf"\b{_CANDIDATE}\s*\(?(?:\d|[A-J](?![a-z])|one|two|three)\)?\s*(?:is\b)?[\s:.=$(*_]*\Z", re.IGNORECASE
)
#: What introduces a value beside the one before.
_ANOTHER = re.compile(
    rf"""
    (?: \b (?:it|this|which|that)? \s* (?:could|might|may) \s+ (?:also\s+|well\s+)? be
      | \b (?:another|second|backup|other|alternate|alternative) \s+ (?:possible\s+)?
        {_CANDIDATE} \s* (?:is\b|:)
      | (?:\A|[\n.]) \s* (?:or|alternatively) \s* [,:]?
    ) [\s$(*_:]* \Z
    """,
    re.IGNORECASE | re.VERBOSE,
)
_NAME_BEFORE_BOX = re.compile(r"(?<![\w\\])([a-zA-Z](?:_\{?\w{1,3}\}?)?)\s*=\s*\Z")
#: What begins and ends a member of a formula, inside or at the ends of the formula.
_MEMBER_ENDS = re.compile(
    r"""
    \$\$? | \\\\ (?:\[[^\]]{0,9}\])? | \\[()\[\]] | [\n=,;:&<>≈→⇒]
    | \\(?:q?quad|text|mbox|[a-zA-Z]*arrow|to|implies|iff|therefore|[lg]eq?|ne|neq|[lg]t|approx|equiv|sim|in
        |begin|end|color|tag|displaystyle) (?![a-zA-Z])
    """,
    re.VERBOSE,
)
_FORMULA_MARK = re.compile(r"(?<!\\)\$\$?|(?<!\\)\\[()\[\]]")
#: What stands around most boxes: then a box fills its formula.
_OPENING, _CLOSING = ("\\(", "\\[", "$"), ("\\)", "\\]", "$")
#: What stands directly before most boxes, so that nothing of an expression does; "" is the start of the text.
_NO_PART = ("$", "(", "[", ":", "=", "")
#: Text beside a box that makes the box a part of a larger expression.
_PART_BEFORE = re.compile(
    r"""
    (?: [-+*/^_·×÷−\d] | [_^]\{ | \\(?:cdot|times|div|pm|mp|sqrt|pi)
      | \\(?:[dt]?frac\s*(?:\{[^{}]*\}\s*)?|sqrt\s*(?:\[[^\]]*\]\s*)?)\{ ) \s* \Z
    """,
    re.VERBOSE,
)
_PART_BEHIND = re.compile(
    r"""
    \s*+ (?: [-+*/·×÷−\d] | [xyznk](?![a-zA-Z]) | !(?!=) | \^(?!\s*\{?\s*\\circ)
      | \\(?:cdot|times|div|pi|pm|mp|sqrt|[dt]?frac)(?![a-zA-Z]) )
    """,
    re.VERBOSE,
)
#: A command or a power that touches a box, to the end of its term.
_FACTOR_BEHIND = re.compile(
    r"""
    (?: \\(?:cdot|times|div|pi|pm|sqrt|[dt]?frac)(?![a-zA-Z]) \s?+ | \^(?!\s*\{?\s*\\circ) )
    (?: \\(?:cdot|times|pi|sqrt|[dt]?frac)(?![a-zA-Z]) \s?+ | \{[^{}\n]{0,40}\} | [\w^()+*/-] )*+
    """,
    re.VERBOSE,
)
#: Signs beside a box that make it a part of its formula: of a bound, a denial, an equation of two numbers, a
#: set, a ratio.
_RELATION = r"[<>≤≥≠]|\\(?:ne|neq|[lg]e|[lg]eq|[lg]eqq|[lg]eqslant|[lg]t|n?mid)(?![a-zA-Z])"
_RELATION_BEFORE = re.compile(rf"(?:(?:{_RELATION})|(?<!\\)[\[(]|\\\{{|(?:\$|\\[(\[])\s*-?[\d.,]+\s*=)\s*\Z")
_RELATION_BEHIND = re.compile(
    rf"\s*+(?:{_RELATION}|:|\\text\s*\{{\s*(?:or|and|to)\b|\\[bp]?mod|(?:\\[,;! ])+[ik](?![a-zA-Z])"
    r"|=\s*-?[\d.,]+\s*(?:\$|\\[)\]]))"
)
#: "17 \\equiv \\boxed{2} \\pmod 5": the remainder is what was asked for.
_RESIDUE_BEFORE = re.compile(r"(?<!\\not)(?<!\\not\s)(?:\\equiv(?![a-zA-Z])|≡)\s*\Z")
#: The side of an equation that is a number, before and behind the box.
_NUMBER_EQUALS = re.compile(r"\s*-?\d[\d.,]*\s*=(?=[^=<>]*\Z)")
_EQUALS_NUMBER = re.compile(r"=\s*-?\d[\d.,]*\s*\Z")
#: Longest member on either side of a box, and longest paragraph before it, in characters.
_MEMBER_LENGTH, _PARAGRAPH_LENGTH = 80, 2000
#: Longest text behind a box that is read as a unit, in characters.
_UNIT_LENGTH = 60
#: Last boxes whose sentences are read, and turns behind which an answer is sought.
_MOST_EXAMINED = 20
#: Longest text between two boxes of one sentence, in characters.
_LONGEST_GAP = 100


def final_answer(response: str, which: BoxChoice = BoxChoice.LAST, several: bool = False) -> Extracted | None:
    """Return the final answer in `response`, or None.

    Args:
        response: The whole text of the model.
        which: Selects one of several boxes.
        several: The reference lists several values, so that boxes of one sentence are one list.
    """
    response = _first_turn(_without_entities(response))
    if (stated := stated_in_json(response)) is not None:
        return Extracted(stated, "phrase")
    thought, end, answer = response.rpartition(_THINK_END)
    if end and any(map(str.isalnum, answer)) and (found := _answer(answer, which, several)):
        return found
    if end and not _TAG.search(answer) and not _GIVES_UP.search(answer):
        return _answer(thought, which, several) if boxes(thought) else None
    return None if end or _unfinished_thought(response) else _answer(response, which, several)


def _without_entities(response: str) -> str:
    """Return a response with the signs that HTML writes in letters ("&le;"), without bold, boxes as one."""
    if "</" in response:
        response = _HTML_FONT.sub("", response)
    if "\\framebox" in response:
        response = response.replace("\\framebox{", "\\boxed{")
    return (
        _ENTITY.sub(lambda entity: html.unescape(entity.group()), response) if "&" in response else response
    )


def _first_turn(response: str) -> str:
    """Return a response up to where it goes on with an invented turn of another speaker, behind an answer."""
    if not any(sign in response for sign in _SIGNS_OF_A_TURN):
        return response
    for turn in islice(_TURN.finditer(response), _MOST_EXAMINED):
        before = response[: turn.start()]
        if "\\boxed" in before or _marked(before):
            return before
    return response


def _unfinished_thought(response: str) -> bool:
    return response.lstrip().startswith(_THINK)


def _answer(response: str, which: BoxChoice, several: bool) -> Extracted | None:
    written = _boxes(response)
    committed = _meant(response, written) if written else []
    boxed = _without_suppositions(response, committed)
    tag = _last_tag(response)
    if tag is not None and (not boxed or boxed[-1].start < tag.end()):
        return _tagged(response, tag, which, several)
    if boxed:
        if (start := withdrawn_behind(response, boxed[-1].end)) is not None:
            return _stated(response[start:])
        # A later box that does not count is no correction either.
        later = next((box.start for box in written if box.start > boxed[-1].start), len(response))
        if correction := _correction(response[:later], boxed[-1]):
            return correction
        behind = response[boxed[-1].end : boxed[-1].end + _UNIT_LENGTH]
        if which is BoxChoice.LAST and (beside := _beside(response, written, committed, boxed[-1])):
            contents = dict.fromkeys(_with_name(response, box) for box in beside)
            return Extracted((", " if several else " or ").join(contents), "box")
        if which is BoxChoice.LAST and several and (parts := _of_parts(response, boxed)):
            return Extracted(parts, "box")
        return Extracted(_chosen(response, boxed, which, several), "box", behind)
    if written:  # all of them are denied
        return _correction(response, written[-1])
    if "\\boxed" in response:
        # A box that is never closed belongs to a response that was cut off: its number may be incomplete.
        if bare := [box for box in _BARE_BOX.findall(response) if not _BLANK.match(box)]:
            return Extracted(bare[0 if which is BoxChoice.FIRST else -1], "box")
        return _marked(response) if _only_empty_boxes(response) else None
    return _last_line(response) or _stated(answering(response[last_withdrawal(response) :]))


def _meant(response: str, written: list[_Box]) -> list[_Box]:
    examined = written[-_MOST_EXAMINED:]
    return written[:-_MOST_EXAMINED] + [box for box in examined if meant(response, box.start, box.end)]


def _without_suppositions(response: str, boxed: list[_Box]) -> list[_Box]:
    """Return the boxes without those at the end that only hold if something else did."""
    while len(boxed) > 1 and only_supposed(response, *boxed[-2][1:], boxed[-1].start):
        boxed = boxed[:-1]
    return boxed


def _beside(response: str, written: list[_Box], committed: list[_Box], last: _Box) -> list[_Box]:
    r"""Return the last box that is meant with one beside it that only a doubt or a condition sets apart.

    "\boxed{7} or possibly \boxed{8}" commits to neither, nor "if n is even \boxed{2}, if odd \boxed{1}".
    """
    at = written.index(last)
    for left, right in pairwise(written[max(0, at - 1) : at + 2]):
        gap = response[left.end : right.start]
        other = right if left is last else left
        if denied_behind(response, other.end):
            continue
        doubted = other not in committed and _together(gap) and _ALTERNATIVE.search(gap)
        if doubted or _parallel(response, left, gap) or _candidates(response, left, right):
            return [left, right]
    return []


def _candidates(response: str, left: _Box, right: _Box) -> bool:
    """Return whether two boxes are candidates: "Option A: ... Option B: ...", "Another answer: ..."."""
    before = response[max(left.end, right.start - _LONGEST_GAP) : right.start]
    if _ANOTHER.search(before):
        return True
    if not (mine := _NUMBERED.search(before)):
        return False
    own = _NUMBERED.search(response[max(0, left.start - _LONGEST_GAP) : left.start])
    return own is not None and own[1].lower() == mine[1].lower()


def _parallel(response: str, left: _Box, gap: str) -> bool:
    """Return whether the clauses of two boxes set two conditions with one word ("if ..., if ...")."""
    if len(gap) > 2 * _LONGEST_GAP or not (condition := _CONDITION.match(gap)):
        return False
    before = response[max(0, left.start - 2 * _LONGEST_GAP) : left.start]
    own = _LAST_CONDITION.match(before)
    return own is not None and own[1].lower() == condition[1].lower()


def _last_line(response: str) -> Extracted | None:
    """Return the number of a marked last line ("#### 42", "Answer: 42"): no words can change it."""
    found = _MARKED_NUMBER.fullmatch(response.rstrip().rpartition("\n")[2])
    return Extracted(found[2], "hash" if found[1] == "####" else "phrase") if found else None


def _stated(text: str) -> Extracted | None:
    return _marked(text) or _unmarked(text)


def _tagged(response: str, tag: "re.Match[str]", which: BoxChoice, several: bool) -> Extracted | None:
    """Return what the last tag holds, with the one before it if "or" joins them."""
    if (start := withdrawn_behind(response, tag.end())) is not None:
        return _stated(response[start:])
    inner = tag[1].strip()
    if found := _answer(inner, which, several) if _boxes(inner) else None:
        return found
    if joined := _JOINED_TAG.search(response, 0, tag.start()):
        inner = f"{joined[1].strip()} or {inner}"
    return Extracted(inner, "tag") if not _BLANK.match(inner) else None


def _last_tag(response: str) -> "re.Match[str] | None":
    if "<" not in response:  # as in most, which need no slower look
        return None
    starts = [tag.start() for tag in _TAG_BEGIN.finditer(response)]
    return _TAG.search(response, starts[-1]) if starts else None


def _only_empty_boxes(response: str) -> bool:
    found = list(_box_spans(response))
    return bool(found) and len(found) == response.count("\\boxed")


def _marked(response: str) -> Extracted | None:
    plain = plain_punctuation(response)
    certain = without_suppositions(plain)
    found = marked_line(certain) or (marked_line(plain) if certain != plain else None)
    return Extracted(*found) if found else None


def _unmarked(response: str) -> Extracted | None:
    response = plain_punctuation(response)
    text = last_row(response) or whole(response) or last_value(response)
    return Extracted(text, "last") if text else None


def _correction(response: str, last_box: _Box) -> Extracted | None:
    """Return the answer that a marked line behind the last box states, if it states a value."""
    behind = response[last_box.end :]
    if not any(map(str.isalnum, behind)):
        return None
    found = marked_line(without_suppositions(plain_punctuation(behind)), behind_box=True)
    if found and states_a_value(found[0]):
        return Extracted(*found)
    value = value_gone_on_to(response, last_box.end)
    return Extracted(value, "phrase") if value else None


def reference_answer(answer: str) -> str:
    """Return the reference answer without its box, or without the solution before its `####`."""
    found = _boxes(answer)
    if found:
        return _chosen(answer, found, BoxChoice.LAST, several=True)
    return answer.rpartition("####")[2].strip()


def boxes(text: str) -> list[str]:
    r"""Return the contents of the complete `\boxed{...}` of `text` that are in no other box, in order."""
    return [box.content for box in _boxes(text)]


def _boxes(text: str) -> list[_Box]:
    found = []
    for start, begin, end in _box_spans(text):
        content = text[begin:end]
        if text.startswith("\\\\", start):  # the backslashes of a log were doubled
            content = content.replace("\\\\", "\\")
        if not _BLANK.match(content):
            found.append(_Box(content, start, end + 1))
    return found


def _box_spans(text: str) -> list[tuple[int, int, int]]:
    """Return the start of each outermost complete box, and start and end of its content."""
    if "box" not in text:
        return []
    if (first := text.find("\\boxed")) < 0 or "\\fbox" in text[:first]:
        first = text.find("\\fbox")
    if first < 0:
        return []
    complete: list[tuple[int, int, int]] = []
    open_braces: list[tuple[int, int]] = []  # start of a box and of its content, or -1 for a plain brace
    for token in _BOX_TOKEN.finditer(text, max(0, first - 1)):
        mark = token.group()
        if mark == "}":
            start, begin = open_braces.pop() if open_braces else (-1, -1)
            if begin >= 0:
                while complete and complete[-1][1] > begin:
                    complete.pop()
                complete.append((start, begin, token.start()))
        elif mark == "{":
            open_braces.append((-1, -1))
        elif len(mark) > 2:
            open_braces.append((token.start(), token.end()))
    return complete


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


def _chosen(response: str, found: list[_Box], which: BoxChoice, several: bool) -> str:
    contents = [unboxed(box.content).strip() for box in found]
    if which is BoxChoice.ALL:
        return ", ".join(dict.fromkeys(contents))
    if which is BoxChoice.FIRST:
        return contents[0]
    first = len(found) - 1
    alternatives = False
    while first and _together(gap := response[found[first - 1].end : found[first].start]):
        alternatives = alternatives or bool(_ALTERNATIVE.search(gap))
        first -= 1
    if first == len(found) - 1:
        if other := alternative_behind(response, found[-1].end):
            return contents[-1] + other
        alone = _fills_its_formula(response, found[-1]) or _fills_a_blank(response, found[-1])
        formula = None if alone else _formula_around(response, found[-1])
        return formula or with_words(response, found[-1].start, found[-1].end, contents[-1])
    if not (several or alternatives or _only_listed(response, found[first:])):
        return contents[-1]
    return (" or " if alternatives and not several else ", ").join(
        dict.fromkeys(_with_name(response, box) for box in found[first:])
    )


def _fills_its_formula(text: str, box: _Box) -> bool:
    before = text[max(0, box.start - _MEMBER_LENGTH) : box.start]
    behind = text[box.end : box.end + _MEMBER_LENGTH]
    return before.rstrip().endswith(_OPENING) and behind.lstrip().startswith(_CLOSING)


def _fills_a_blank(text: str, box: _Box) -> bool:
    r"""Return whether a box fills a blank, as in "3 + \\boxed{4} = 7", whose other side is a number.

    What begins with the box goes on from it: "\\boxed{4} + 3 = 7".
    """
    before = text[max(0, box.start - _MEMBER_LENGTH) : box.start]
    behind = text[box.end : box.end + _MEMBER_LENGTH]
    starts = [mark.end() for mark in _FORMULA_MARK.finditer(before)]
    end = _FORMULA_MARK.search(behind)
    if not starts or not end or not _in_formula(text, box.start):
        return False
    head, tail = before[starts[-1] :], behind[: end.start()]
    if _BLANK.match(tail) and (side := _NUMBER_EQUALS.match(head)):
        return not _BLANK.match(head[side.end() :])
    equals = _EQUALS_NUMBER.search(tail)
    return equals is not None and not _BLANK.match(head) and "=" not in head + tail[: equals.start()]


def _formula_around(text: str, box: _Box) -> str | None:
    """Return the formula, or the member of one, that a box is a part of; None if the box stands alone."""
    return _with_relation(text, box) or _with_member(text, box) or _with_factor(text, box)


def _with_relation(text: str, box: _Box) -> str | None:
    r"""Return the formula "x \ne 12" of "$x \ne \boxed{12}$", or None if the box is no part of a relation."""
    before = text[max(0, box.start - _MEMBER_LENGTH) : box.start]
    behind = text[box.end : box.end + _MEMBER_LENGTH]
    related = _RELATION_BEFORE.search(before) or _RELATION_BEHIND.match(behind)
    if not related or _RESIDUE_BEFORE.search(before) or not _in_formula(text, box.start):
        return None
    starts = [mark.end() for mark in _FORMULA_MARK.finditer(before)]
    end = _FORMULA_MARK.search(behind)
    if not starts or not end:
        return None
    return unboxed(f"{before[starts[-1] :]}{text[box.start : box.end]}{behind[: end.start()]}").strip(" .")


def _with_member(text: str, box: _Box) -> str | None:
    r"""Return "2 \\cdot 6" for "2 \\cdot \\boxed{6}" within a formula, or None if the box stands alone."""
    before = text[max(0, box.start - _MEMBER_LENGTH) : box.start]
    behind = text[box.end : box.end + _MEMBER_LENGTH]
    alone = before.rstrip()[-1:] in _NO_PART or not _PART_BEFORE.search(before)
    if (alone and not _PART_BEHIND.match(behind)) or not _in_formula(text, box.start):
        return None
    starts = [end.end() for end in _MEMBER_ENDS.finditer(before)]
    end = _MEMBER_ENDS.search(behind)
    if not starts or not end:
        return None
    head, tail = before[starts[-1] :], behind[: end.start()].rstrip(" .")
    if not (_PART_BEFORE.search(head) or _PART_BEHIND.match(tail)):
        return None
    return unboxed(f"{head}{text[box.start : box.end]}{tail}").strip()


def _with_factor(text: str, box: _Box) -> str | None:
    r"""Return "16\\pi" for "\\boxed{16}\\pi" outside of all delimiters, or None."""
    factor = _FACTOR_BEHIND.match(text, box.end)
    return unboxed(text[box.start : box.end] + factor.group()).strip() if factor else None


def _in_formula(text: str, position: int) -> bool:
    """Return whether a delimiter of a formula is open at `position`."""
    begin = max(text.rfind("\n\n", 0, position), position - _PARAGRAPH_LENGTH, 0)
    opened = False
    for mark in _FORMULA_MARK.finditer(text, begin, position):
        opened = not opened if "$" in mark.group() else mark.group()[-1] in "(["
    return opened


def _together(gap: str) -> bool:
    near = len(gap) <= _LONGEST_GAP and "\n\n" not in gap.strip()
    return (
        near
        and bool(_SAME_SENTENCE.match(gap))
        and (bool(_JOINT.search(gap)) or not re.search("[a-z]{2}", gap))
    )


def _of_parts(response: str, boxed: list[_Box]) -> str | None:
    """Return "(a) 4; (b) 9" for one box in each part of a response that begins with such a label, or None."""
    starts = list(_PART.finditer(response))[-len(boxed) :]
    labels = [start[1] or start[2] for start in starts]
    if len(boxed) < 2 or len(labels) < len(boxed) or not in_series(labels):
        return None
    ends = [start.start() for start in starts[1:]] + [len(response)]
    within = [start.end() <= box.start < end for start, box, end in zip(starts, boxed, ends, strict=True)]
    contents = [unboxed(box.content).strip() for box in boxed]
    parts = (f"({label}) {content}" for label, content in zip(labels, contents, strict=True))
    return "; ".join(parts) if all(within) else None


def _only_listed(response: str, found: list[_Box]) -> bool:
    """Return whether nothing but commas and "and" stands between these boxes: they are one list."""
    return all(_LISTED.match(response[left.end : right.start]) for left, right in pairwise(found))


def _with_name(response: str, box: _Box) -> str:
    content = unboxed(box.content).strip()
    name = _NAME_BEFORE_BOX.search(response, max(0, box.start - 20), box.start)
    return f"{name[1]} = {content}" if name and "=" not in content else content
