"""Tells what of a text belongs to the solution, and whether somebody should look at the rest.

What stands behind the final answer does not belong to it, nor do code, tables, runs of words without grammar,
repeated sentences, and sentences that restate the problem.
"""

import re

from extra_rl.final_answer import split_at_final_box
from extra_services.novelty.chains import FUNCTION_WORDS, features_of
from extra_services.novelty.problem import WORD, ProblemStatement

#: Words in a row without mathematics, of which fewer than this share are function words, are no English.
LEAST_RUN, LEAST_FUNCTION_WORDS = 12, 0.15
#: Numbers in a row without anything between them, from this length on, are no derivation.
LONG_LIST = 16
#: Reasons against a text that other metrics on texts have too.
BLANK = "the text is blank"
UNKNOWN_SCRIPT = "the script is unknown to the embedding model"
_MARKED = re.compile(r"^[\s>*#_]*(?:####|final answer|answer)[*_ ]*:?", re.IGNORECASE | re.MULTILINE)


def split_at_answer(text: str) -> tuple[str, str, str]:
    """Return what is before the final answer, what its box holds, and what is behind it.

    The final answer is the first of the boxes with the content of the last one. Without a box, it is the last
    line marked as the answer; without one, the whole text is before.
    """
    if parts := split_at_final_box(text):
        return parts
    marks = list(_MARKED.finditer(text))
    if marks:
        return text[: marks[-1].start()], "", text[marks[-1].end() :].partition("\n")[2]
    return text, "", ""


#: Words and what stands between them. One class of characters, so that the search is linear.
_WORD_RUN = re.compile(r"[A-Za-z'’\s,;:]+")


def grammatical(text: str) -> str:
    """Return the text with a space in the place of each run of words without grammar."""
    # Hardly any text has such a run, and finding runs is much faster than replacing them.
    if not any(len(run) >= 2 * LEAST_RUN and _gibberish(run) for run in _WORD_RUN.findall(text)):
        return text
    return _WORD_RUN.sub(lambda run: " " if _gibberish(run[0]) else run[0], text)


def _gibberish(run: str) -> bool:
    words = WORD.findall(run.lower())
    known = sum(map(FUNCTION_WORDS.__contains__, words))
    return len(words) >= LEAST_RUN and known < LEAST_FUNCTION_WORDS * len(words)


#: White space after the end of a sentence, or new lines. What has to stand before it is looked for behind the
#: first space, so that the search skips all other characters.
_SENTENCE = re.compile(r"\s(?:(?<=[.!?]\s)\s*|(?<=\n)\n*)")
#: Separates the sentences of a text in normal notation. No text holds it.
BREAK = "\0"
CODE_OR_TABLE = re.compile(r"^```.*?^```|^\s*\|[^\n]*\|[ \t]*$", re.MULTILINE | re.DOTALL)
_LEAST_SENTENCE = 20
_RESTATED = 0.8


def own_sentences(text: str, stated: ProblemStatement) -> tuple[list[str], int]:
    """Return the sentences that are not repeated or restated, and the number of characters repeated."""
    kept: list[str] = []
    seen: set[str] = set()
    repeated = 0
    for sentence in _SENTENCE.split(text.replace(BREAK, " ")):
        lower = sentence.lower()
        if len(sentence) >= _LEAST_SENTENCE:
            key = " ".join(lower.split())
            if key in seen:
                repeated += len(sentence)
                continue
            seen.add(key)
        if stated.words:
            if (restates := stated.restated.get(sentence)) is None:
                restates = stated.restated[sentence] = _restates(sentence, WORD.findall(lower), stated)
            if restates:
                continue
        kept.append(sentence.rstrip("\\"))
    return kept, repeated


def _restates(sentence: str, words: list[str], stated: ProblemStatement) -> bool:
    """Return whether a sentence says what the problem says, with hardly any other words, and no more."""
    if len(words) <= 5:
        if not words or not stated.words.issuperset(words):
            return False
    elif sum(map(stated.words.__contains__, words)) < _RESTATED * len(words):
        return False
    numbers, relations = features_of(sentence)
    return numbers <= stated.numbers and ("=" not in sentence or relations <= stated.relations)


_NUMBER_LIST = re.compile(rf"(?:\d++(?:\.\d++)?[\s,;]++){{{LONG_LIST - 1},}}+\d*")
#: What every list of numbers holds; a faster search.
_FEW_NUMBERS = re.compile(r"\d[\s,;]+\d[\d.]*[\s,;]+\d[\d.]*[\s,;]+\d")


def without_number_lists(text: str) -> str:
    """Return a text in normal notation with a space in the place of each long list of numbers."""
    return _NUMBER_LIST.sub(" ", text) if _FEW_NUMBERS.search(text) else text


_READABLE = re.compile(r"[A-Za-z\u0370-\u03ff\d]")
_UNREADABLE = re.compile(r"[^\W\d_A-Za-z\u0370-\u03ff]")


def suspicion_of(before: str, behind: str, gibberish: int, repeated: int, listed: int) -> str:
    """Return the first reason to look at a solution, or "". The numbers are characters that were left out."""
    length = len(before.strip())
    behind = behind.strip()
    if not (before + behind).strip():
        return BLANK
    unreadable = 0 if before.isascii() else len(_UNREADABLE.findall(before))
    if (length >= 20 and not _READABLE.search(before)) or unreadable > 0.5 * length:
        return UNKNOWN_SCRIPT
    if len(behind) > 200 + length / 2:
        return f"{len(behind)} characters behind the final answer, {length} before it"
    for share, reason in ((gibberish, "words without grammar"), (listed, "a long list of numbers")):
        if share > 0.2 * length:
            return reason
    return "repeated sentences" if repeated > 0.3 * length else ""
