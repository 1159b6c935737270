r"""Whether the sentences around a box commit to it, and to what.

A box is no answer where its sentence takes it back ("it is false that n = \boxed{7}", "\boxed{7} is only a
bound"), where somebody else says it, where it is supposed or an example, or asked about. What comes behind it
may withdraw it ("Wait, I forgot to double it"), go on from it to another value ("subtract 5 to get 45"), or
add another value ("or maybe 14"): then the box alone is not what the response commits to. Words that change
the value ("less than \boxed{12}", "\boxed{60} million") become a part of it.

The words are sought near the box, so that the time does not depend on the length of the text.
"""

import re

from extra_services.runtime.memo import kept
from extra_services.verification import box_words

#: Longest text before a box, and behind it, in which words about it are sought, in characters.
_BEFORE, _BEHIND = 160, 600
#: Length of the end of a text without boxes in which it may withdraw what it said, in characters.
_TAIL = 2000
#: Longest text before a box in which words that change it are sought, in characters.
_WORDS_LENGTH = 60


def meant(text: str, start: int, end: int) -> bool:
    r"""Return whether the words beside the box text[start:end] leave it an answer, unlike "not \boxed{7}"."""
    before = _sentence_before(text, 0, start)
    return not (_refused_before(before) or (_says_more(text, end) and _refused_behind(text, end)))


def _sentence_before(text: str, low: int, start: int) -> str:
    """Return the beginning of the sentence of a box that starts at `start`, from `low` on."""
    before = text[max(low, start - _BEFORE) : start]
    earlier = box_words.EARLIER_SENTENCES.match(before)
    return before[earlier.end() :] if earlier else before


@kept()
def _refused_before(sentence: str) -> bool:
    """Return whether the beginning of a sentence refuses the box that follows."""
    sentence = sentence.lower()
    if sentence.count("~~") % 2:
        return True
    if not (refused := box_words.NOT_MEANT_BEFORE.search(sentence)):
        return False
    excepted = re.search(r"\bbut\b[\s$({]*\Z", refused.group())
    return bool(excepted) or not box_words.BUT.search(sentence, refused.start() + len("rather"))


def _refused_behind(text: str, end: int) -> bool:
    if box_words.VERB_BEHIND.match(text, end) and not box_words.CONFIRMED_BEHIND.match(text, end):
        return True
    refusals = (box_words.NO_BEHIND, box_words.ASKED, box_words.OPEN_BEHIND, box_words.REVISED_BEHIND)
    return denied_behind(text, end) or any(pattern.match(text, end) for pattern in refusals)


def only_supposed(text: str, earlier_start: int, earlier_end: int, start: int) -> bool:
    """Return whether a box holds only if something else did, unlike the box before it ("If 0 counts, ...").

    Args:
        text: The response.
        earlier_start: Start of the box before it.
        earlier_end: End of the box before it.
        start: Start of the box.
    """
    if not box_words.SUPPOSITION.search(_sentence_before(text, earlier_end, start)):
        return False
    own = _sentence_before(text, 0, earlier_start)
    return not box_words.CONDITION.search(own) and bool(box_words.CONCLUDES.search(own))


def disowned(sentence: str, behind_box: bool = False) -> bool:
    """Return whether a sentence up to "the answer is" disowns it ("a common wrong answer is").

    Args:
        sentence: The text of a line up to the value.
        behind_box: A box before it answers already, so that "for n = 5 the answer is" is another question's.
    """
    patterns = (box_words.DISOWNED, *((box_words.FOR_ANOTHER_CASE,) if behind_box else ()))
    return any(pattern.search(sentence, max(0, len(sentence) - _BEFORE)) for pattern in patterns)


def answers(text: str, start: int, end: int) -> bool:
    """Return whether the words beside text[start:end], the last value of a text, leave it an answer.

    "Let n = 5.", "By Lemma 5", "I doubt that the answer is 5" and "it is not 5" give none.
    """
    before = _sentence_before(text, 0, start)
    if box_words.NO_ANSWER_BEFORE.search(before) or disowned(before.rstrip(" $\\([{")):
        return False
    return not (_refused_before(before) or denied_behind(text, end))


def denied_behind(text: str, end: int) -> bool:
    """Return whether the words behind a box that ends at `end` call it wrong or rejected."""
    denials = (
        box_words.DENIED_BEHIND,
        box_words.DENIED_BEHIND_IN_CHINESE,
        box_words.DENIED_BEHIND_ELSEWHERE,
        box_words.IS_NOT,
    )
    return any(pattern.match(text, end) for pattern in denials)


def _says_more(text: str, end: int) -> bool:
    """Return whether anything but the end of a formula stands behind a box; behind most nothing does."""
    return not box_words.NOTHING_BEHIND.match(text, end)


def withdrawn_behind(text: str, end: int) -> int | None:
    """Return where the text behind a box that ends at `end` withdraws it, or None."""
    if not _says_more(text, end):
        return None
    stop = _end_of_context(text, end)
    if not _may_withdraw(text[end:stop]):
        return None
    withdrawals = box_words.WITHDRAWN.finditer(text, end, stop)
    return next((each.start() for each in withdrawals if not _of_another(text, end, each)), None)


def _of_another(text: str, end: int, withdrawal: "re.Match[str]") -> bool:
    """Return whether "but that was wrong" is about a value of its sentence ("I first got 13, but ...")."""
    before = re.split(r"[.!?\n]", text[end : withdrawal.start()])[-1]
    return withdrawal.group().startswith("but") and any(map(str.isdigit, before))


def last_withdrawal(text: str) -> int:
    """Return where the text withdraws what it said before, for the last time, or 0."""
    first = max(0, len(text) - _TAIL)
    if not _may_withdraw(text[first:]):
        return 0
    return max((found.start() for found in box_words.WITHDRAWN.finditer(text, first)), default=0)


def _may_withdraw(text: str) -> bool:
    text = text.lower()
    return any(sign in text for sign in box_words.SIGNS_OF_WITHDRAWAL)


def value_gone_on_to(text: str, end: int) -> str | None:
    """Return the value that the sentences behind a box go on to from it, or None."""
    stop = _end_of_context(text, end)
    if found := box_words.GOES_ON_IN_CHINESE.search(text, end, stop):
        return found["value"].rstrip(".")
    if found := box_words.IS_THE_ANSWER.search(text, end, stop):
        return found["value"].rstrip(".,")
    found = box_words.GOES_ON.search(text, end, stop)
    concluded = found is not None and re.match(r"so\s+(?:it|the\s+answer)\b", found.group(), re.IGNORECASE)
    if found is None or (box_words.CHECKING.search(text, end, found.start()) and not concluded):
        return None
    if disowned(text[end : found.start("value")], behind_box=True):
        return None
    return found["value"].rstrip(".,")


def alternative_behind(text: str, end: int) -> str | None:
    r"""Return what the text adds to a box: " or 14" of "\boxed{12} or 14", ", 14" of "\boxed{12} and 14"."""
    if found := box_words.LISTED.match(text, end):
        return f", {found['value'].rstrip('.,')}"
    found = box_words.ALTERNATIVE.match(text, end) or box_words.OTHER_BEHIND.match(text, end)
    return f" or {found['value'].rstrip('.,')}" if found else None


def with_words(text: str, start: int, end: int, content: str) -> str:
    """Return the content of a box with the words beside it that change it ("less than 12", "60 million")."""
    before = _change_before(text, max(0, start - _WORDS_LENGTH), start)
    if before and box_words.NONE_HAS_MORE.search(
        text, max(0, before.start() - _WORDS_LENGTH), before.start()
    ):
        before = None
    behind = box_words.CHANGED_BEHIND.match(text, end)
    return " ".join(part for part in (before and before.group(), content, behind and behind[1]) if part)


def _change_before(text: str, low: int, start: int) -> "re.Match[str] | None":
    last = text[low:start].rstrip(" \t\r\n$({[\\").rsplit(None, 1)[-1:]
    if not last or re.sub(r"[^a-z]", "", last[0].lower()) not in box_words.ENDS_OF_CHANGES:
        return None  # as before most boxes, which need no slower look
    return box_words.CHANGED_BEFORE.search(text, low, start)


def _end_of_context(text: str, end: int) -> int:
    stop = min(len(text), end + _BEHIND)
    elsewhere = box_words.ELSEWHERE.search(text, end, stop)
    return elsewhere.start() if elsewhere else stop
