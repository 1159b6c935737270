r"""Letters of multiple-choice questions: those that an answer consists of, and those that a response states.

A response states a choice with a phrase ("the answer is C", "I would pick B", "应选A"); the last one counts.
Without a phrase, its last letter in parentheses, in bold or before a full stop counts. A letter that is
denied ("it is not B", "A fails") is no choice. Several letters are several choices, and equal no single
one.
"""

import re

from extra_services.verification.normalization import unwrapped, without_text_commands
from extra_services.verification.symbols import plain_punctuation
from extra_services.verification.wrappers import unwrap_commands

_LABELLED = re.compile(
    r"(?:option|choice|选项)?\s*[(\[]?([a-z])(?:[)\]]|[.:](?=\s|\Z)|\Z)(.*)", re.IGNORECASE | re.DOTALL
)
_SEVERAL = re.compile(r"\(?([A-J])\)?(?:(?:[\s,;/&和或与]|and|or)*\(?[A-J]\)?)+\Z")
_JOINED = re.compile(r"\A[A-H]{2,8}\Z")
_ONE = r"(?:\([A-Ja-j]\)|[A-HJ](?![a-zA-Z'])|I(?=[.)]|\s*\Z)|[b-hj](?=[.),;:]|\s*\Z))"
_LETTERS = (
    rf"(?P<letters>{_ONE}(?:\s*(?:,|/|&|\bor\b|\band\b|或|和|,\s*or|,\s*and)\s*{_ONE})*"
    rf"|[A-H]{{2,6}}(?![a-zA-Z]))"
)
_BETWEEN = (
    r"(?:[\s:=*_\"'$]|\\boxed\s*\{|\\text(?:bf)?\s*\{|\{|\b(?:is|are|be|the|option|choice|letter"
    r"|answer|probably|clearly|therefore|thus|then|I|think|believe|say|it|it's|that|would|should|must|most|likely|definitely|indeed)\b|[是为為应應该該选選项項])*?"
)
_CUE = (
    r"\b(?:answer|choice|option)s?\b\s*(?:is|are|:|=|would\s+be|must\s+be|should\s+be)"
    r"|\b(?:choose|pick|select|chose|picked|selected|go\s+with|going\s+with)\b"
    r"|答案|应选|應選|应该选|應該選|故选|所以选|因此选|选择|選擇|选|選"
)
_STATED = re.compile(rf"(?i:(?:{_CUE}){_BETWEEN}){_LETTERS}")
_IS_CORRECT = re.compile(
    rf"\b(?:[oO]ption|[cC]hoice|[sS]tatement)?\s*{_LETTERS}\s*(?:is|are)\s+(?:the\s+)?(?:correct|right|best|true|answer)"
)
_LONE = re.compile(r"(?<![\w\\])(?:\(([A-J])\)|\*\*\(?([A-J])\)?\*\*|([A-HJ])(?=[.,:)]|\s*\Z))")
_LETTER_JOINED = re.compile(r"(?<![\w\\])\(?([A-J])\)?\s*(?:,|/|&|\bor\b|\band\b|或|和)\s*\(?(?=[A-J](?!\w))")
_DENIED_BEFORE = re.compile(
    r"(?:\bnot|n't|\bexcept|\beliminate[ds]?|\breject(?:ed|s)?|\brule[ds]?\s+out|\bexclude[ds]?|\bneither|\bnor|不是|不选|排除|considered)\s+"
    r"(?:(?:option|choice|be|the|answer|is)\s+)*[\"'(*]*\Z",
    re.IGNORECASE,
)
_DENIED_BEHIND = re.compile(
    r"[)\"'*]*,?\s*+(?:(?:is|are|was|but\s+it|which|it)\s*+)?(?:wrong|incorrect|false|not\b|out\b|fails?\b|impossible|eliminated|a\s+(?:common\s+)?distractor|错|不对)"
)
_ARTICLE = re.compile(r"A\s+(?!because|since|as\b|for\b|and\b|or\b|with|which|by\b|is\b|\()[a-z]")
_TAIL = 3000


def choices(text: str) -> frozenset[str] | None:
    """Return the letters that an answer consists of ("(B)", "B. 12", "A, C", "ABD"), or None."""
    plain = _plain(text)
    if _JOINED.match(plain) and list(plain) == sorted(set(plain)):
        return frozenset(plain)
    if _SEVERAL.match(plain) and not plain.isalpha():
        return frozenset(re.findall(r"(?<![a-zA-Z])[A-J](?![a-zA-Z])", plain))
    match = _LABELLED.match(plain)
    if not match:
        return None
    more = re.findall(r"(?<![\w\\])\(([A-J])\)|(?<![\w\\])([A-J])(?=[.:]\s)", match[2])
    return frozenset([match[1].upper(), *("".join(pair) for pair in more)])


def content(text: str) -> str | None:
    r"""Return what stands behind the letter in "C. 1-i", or None."""
    match = _LABELLED.match(_plain(text))
    return match[2].strip() or None if match else None


def stated(response: str) -> frozenset[str] | None:
    """Return the choice that a response states last, or None."""
    tail = plain_punctuation(response[-_TAIL:])
    found: dict[int, frozenset[str]] = {}
    for pattern in (_STATED, _IS_CORRECT):
        for match in pattern.finditer(tail):
            if not _denied(tail, match.start("letters"), match.end("letters")) and not _ARTICLE.match(
                tail, match.start("letters")
            ):
                found[match.start("letters")] = _set_of(match["letters"])
    if found:
        return found[max(found)]
    lone = [match for match in _LONE.finditer(tail) if not _denied(tail, match.start(), match.end())]
    if not lone:
        return None
    # Letters between the same two full stops are alternatives.
    start = max(tail.rfind(end, 0, lone[-1].start()) for end in (". ", "\n", "? ", "! "))
    letters = [next(filter(None, match.groups())) for match in lone if match.start() > start]
    return frozenset(letters + _LETTER_JOINED.findall(tail, start + 1))


def _denied(text: str, start: int, end: int) -> bool:
    return bool(_DENIED_BEFORE.search(text, max(0, start - 60), start) or _DENIED_BEHIND.match(text, end))


def _set_of(letters: str) -> frozenset[str]:
    if letters.isalpha() and len(letters) > 1 and letters.isupper():
        return frozenset(letters)
    return frozenset(letter.upper() for letter in re.findall(r"(?<![a-zA-Z])[A-Ja-j](?![a-zA-Z])", letters))


def _plain(text: str) -> str:
    text = unwrap_commands(plain_punctuation(text))
    return " ".join(unwrapped(without_text_commands(text)).split()).strip()
