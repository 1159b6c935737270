r"""The derivation in a solution, and how novel it is beside the solutions already known.

A solution is reduced to two sets: its numbers, and its relations ("6*7", "2=v", with every variable written
v). The numbers of the problem and of the answer are left out, and so is what does not belong to the
solution: text from the final answer on, repeated sentences, sentences that restate the problem, runs of
words without grammar, long lists of numbers, code, tables, and equations between plain numbers whose result
nothing uses or that is known already: "Note that 3 + 4 = 7." adds no step. Nor does a false one, and what
only it leads to. Each set is kept as a bitmap: 512 bytes a solution. The bitmaps of a whole batch are
compared with numpy at once.

Two solutions are compared by how much their sets differ, and by the cosine distance of embeddings of the
remaining text, without what both have in common with the problem. A logistic regression turns these numbers
into the probability that the two solutions take different ways. It counts as 0 if the new solution has almost
all steps of the known one, so that it only adds to it. Novelty is the smallest such probability over the
known solutions, without its lower part, and less for a text that has little to do with the problem. The
weights were fitted on the problems marked `choose` (docs/novelty-quality.md has the data and the figures).

This module knows neither gRPC nor the store. Embeddings of the parts of a derivation come from the caller.
"""

import itertools
import math
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from extra_rl.final_answer import split_at_final_box
from extra_services.novelty.arithmetic import calculated, false_equations
from extra_services.number_words import SMALL, words_in_figures
from extra_services.runtime.memo import kept

Vectors = NDArray[np.float32]
#: Bitmaps of the families, uint64 [..., FAMILIES, WORDS].
Sketches = NDArray[np.uint64]

#: Numbers, relations.
FAMILIES = 2
#: Bits of one bitmap, and the 64-bit words that hold them.
BITS = 2048
WORDS = BITS // 64

#: A derivation with fewer numbers and relations than this is hardly one: no novelty, not stored.
LEAST_STEPS = 3
#: A derivation with fewer bits than this share of the smallest known one is hardly one either.
LEAST_SHARE = 0.05
#: A solution with this share of the bits of a known one takes the same way, whatever it adds.
CONTAINED = 0.9
#: A text whose embedding is less similar to the problem than UNRELATED is about something else: no novelty,
#: not stored. From RELATED on its novelty is paid in full, between them in part.
UNRELATED, RELATED = 0.3, 0.48
#: A text whose steps do not lead to the answer, or that has no number of its own, has to be more similar to
#: the problem by this; one of which both hold, by twice as much.
ASTRAY = 0.15
#: The same of its sentences with steps of its own alone. Of the real texts for choosing 1 % lie below 0.27,
#: 5 % below 0.36; restatements with equations that lead to the answer have 0.2 in the median.
UNRELATED_STEPS, RELATED_STEPS = 0.25, 0.36
#: Where these sentences are hardly a part of the text, they need so much more; less, up to a half of it.
FEW_STEPS = 0.15
#: Numbers of its own that a text needs whose steps lead to the answer, and one whose steps do not.
OWN_NUMBERS, OWN_NUMBERS_ASTRAY = 1, 2
#: A step may lead to the answer with numbers up to this that stand nowhere before it.
SMALL_NUMBER = 10
#: Numbers at the end of a text from which one step may lead to the answer, and the characters that hold them.
LAST_NUMBERS, LAST_CHARACTERS = 8, 400
#: A part of a text that is less similar to the problem than this counts for nothing; nor does one with less
#: than this share of the similarity of the text's most similar part, since it belongs to something else.
UNRELATED_PART, UNRELATED_SHARE = 0.2, 0.45
#: The same where the problem is not known: a text less similar than this to every known solution.
LEAST_SIMILARITY = 0.3
#: Probabilities of a different way up to this one are no novelty. Above, novelty rises linearly to 1.
THRESHOLD = 0.15
#: Bits that two sets have in common, and bits of each, that are added to what was counted: little is known of
#: small sets.
COMMON_BITS, OWN_BITS = 2, 4
#: Weights of the cosine distance, and of the distances of numbers and relations; and the intercept.
WEIGHTS = np.array([7.34, 8.16, 5.64], dtype=np.float32)
INTERCEPT = -11.75
#: The same where the problem is not known: then all solutions have its numbers and words in common.
UNSTATED_WEIGHTS = np.array([5.06, 8.55, 5.9], dtype=np.float32)
UNSTATED_INTERCEPT = -8.83

#: Words in a row without mathematics, of which fewer than this share are function words, are no English.
LEAST_RUN, LEAST_FUNCTION_WORDS = 12, 0.15
#: Numbers in a row without anything between them, from this length on, are no derivation.
LONG_LIST = 16
#: From so many false equations on, if they are more than half of all, a solution is suspicious.
LEAST_FALSE = 3
#: Reasons against a text that other metrics on texts have too.
BLANK = "the text is blank"
UNKNOWN_SCRIPT = "the script is unknown to the embedding model"
#: Longest part of a text that is read, in characters.
LONGEST_TEXT = 100_000
#: Characters of the longest sentence, and operands of the longest chain, whose reading is kept.
LONGEST_KEPT, LONGEST_CHAIN_KEPT = 300, 32
#: Characters of the longest number that may be k times another, numbers of a text that are looked at, the
#: largest such k, and the least one that is hardly met by chance.
LONGEST_SCALED, MOST_SCALED, LARGEST_SCALE, CERTAIN_SCALE = 12, 200, 1e4, 2.5
#: Operands of the longest side of an equation whose parts are calculated.
LONGEST_SIDE = 12
#: Characters of a part at least, except for the last one.
PART_CHARACTERS = 300


@dataclass(frozen=True)
class Part:
    """A few sentences of a solution that belong to it, to be embedded together."""

    text: str
    #: Those of the problem and of the answer included.
    numbers: frozenset[str]
    relations: frozenset[str]


@dataclass(frozen=True)
class Derivation:
    """What a solution passes through, and the text that belongs to it."""

    parts: tuple[Part, ...]
    #: Reason why somebody should look at this solution, or "".
    suspicious: str
    #: Numbers of the problem and of the answer.
    given: frozenset[str] = frozenset()
    #: How often ASTRAY is to be added to what the text needs, 0 to 2.
    astray: int = 0
    #: The sentences with steps of its own, where there are others; "" if the problem is not known.
    own_steps: str = ""
    #: Its numbers and relations in the units of the problem, if it calculates in others.
    rescaled: tuple[frozenset[str], frozenset[str]] | None = None

    @cached_property
    def numbers(self) -> frozenset[str]:
        """Return the numbers, without those of problem and answer."""
        return frozenset().union(*(part.numbers for part in self.parts)) - self.given

    @cached_property
    def relations(self) -> frozenset[str]:
        """Return the relations."""
        return frozenset().union(*(part.relations for part in self.parts))

    @property
    def to_embed(self) -> list[str]:
        """Return the texts whose vectors `related` needs: the parts, and the sentences with own steps."""
        parts = [part.text for part in self.parts]
        return [*parts, self.own_steps] if self.own_steps else parts

    @property
    def text(self) -> str:
        """Return the text that belongs to the solution."""
        return "\n".join(part.text for part in self.parts)

    @cached_property
    def steps(self) -> int:
        """Return the number of different numbers and relations, those of the problem included."""
        return len(frozenset().union(*(part.numbers for part in self.parts))) + len(self.relations)

    @property
    def empty(self) -> bool:
        """Return whether there is hardly any derivation: no novelty is paid, and it should not be stored."""
        return self.steps < LEAST_STEPS


@dataclass(frozen=True)
class ProblemStatement:
    """What every solution of a problem may use without being novel. Made by `statement`."""

    numbers: frozenset[str]
    words: frozenset[str]
    #: Numbers of the answer, which are among `numbers` too.
    answer: frozenset[str] = frozenset()
    relations: frozenset[str] = frozenset()

    @cached_property
    def restated(self) -> dict[str, bool]:
        """Return whether sentences restate this problem, as far as they were looked at.

        The solutions of a group have many sentences in common.
        """
        return {}


def statement(problem: str, answer: str = "") -> ProblemStatement:
    """Return the numbers, relations and words of a problem, and the numbers of its answer."""
    numbers, relations = _features(f"{problem} ; {answer}")
    answered, _ = _features(answer)
    return ProblemStatement(numbers, frozenset(_words(problem)), answered, relations)


NO_STATEMENT = ProblemStatement(frozenset(), frozenset())


def derivation(solution: str, stated: ProblemStatement = NO_STATEMENT) -> Derivation:
    """Return the derivation in the text of a solution.

    Args:
        solution: Text of a rollout.
        stated: What the problem states; without it, the numbers of problem and answer count as steps.
    """
    solution = solution[:LONGEST_TEXT]
    before, boxed, behind = _split_at_answer(solution)
    own = _CODE_OR_TABLE.sub("\n", before)
    grammatical = _grammatical(own)
    sentences, repeated = _own_sentences(grammatical, stated)
    normal = _normal(_BREAK.join(sentences))
    listed = _NUMBER_LIST.sub(" ", normal) if _FEW_NUMBERS.search(normal) else normal
    chains = _chains(listed.split(_BREAK))
    honest, false = _without_false(chains, sentences, stated)
    kept = _used(honest, stated, _features(boxed)[0])
    # A sentence without any chain, or with one that counts, belongs to the solution.
    idle = {chain.sentence for chain in chains} - {chain.sentence for chain in kept}
    own_steps = _with_own_steps(kept, stated) if stated.words else set(range(len(sentences))) - idle
    # A text in which nothing is its own restates the problem and says the answer.
    parts = _parts(sentences, idle, kept) if own_steps else ()
    rest = len(own_steps) < len(sentences) - len(idle)
    return Derivation(
        parts,
        _suspicion(before, behind, len(own) - len(grammatical), repeated, len(normal) - len(listed))
        or _falsehood(false, honest),
        stated.numbers,
        _astray(kept, parts[-1].text if parts else "", stated),
        "\n".join(sentences[place] for place in sorted(own_steps)) if rest else "",
        _rescaled(kept, scale) if (scale := _scale(chains, stated)) else None,
    )


def _scale(chains: list["_Chain"], stated: ProblemStatement) -> float:
    """Return k if a text calculates with k times the problem's quantities ("in cents"), or 0.

    Then it holds k times numbers of the problem, and k times the answer; of some it may be k squared. Small
    factors, and shares, meet such numbers by chance: more of them are needed.
    """
    own = frozenset().union(*(chain.numbers for chain in chains)) - stated.numbers
    values = {float(one) for one in own if len(one) <= LONGEST_SCALED}
    givens = [value for one in stated.numbers - stated.answer if (value := float(one)) > 1]
    answers = [value for one in stated.answer if (value := float(one)) > 0]
    if not (givens and answers) or len(values) > MOST_SCALED:
        return 0.0
    likeliest, most = 0.0, 0
    for k in sorted({one / answer for one in values for answer in answers}):
        for scale in (k, math.sqrt(k)):
            if scale == 1 or not any(round(one * scale, 4) in values for one in givens):
                continue
            met = sum(_scaled_in(one, scale, values) for one in (*givens, *answers))
            least = 4 if scale < 1 else 3 if scale < CERTAIN_SCALE else 2
            if met >= max(least, most + 1) and 1 / LARGEST_SCALE <= scale <= LARGEST_SCALE:
                likeliest, most = scale, met
    return likeliest


def _scaled_in(value: float, k: float, values: set[float]) -> bool:
    return round(value * k, 4) in values or round(value * k * k, 4) in values


def _rescaled(chains: list["_Chain"], k: float) -> tuple[frozenset[str], frozenset[str]]:
    """Return the numbers and relations of a text, with what they are if some or all are k times as much."""
    written = frozenset[str]().union(*(chain.numbers for chain in chains))
    units = {one: (one, _rounded(float(one) / k)) for one in written}
    numbers = written.union(*units.values())
    relations = set[str]().union(*(chain.relations for chain in chains))
    for found in [found for found in map(_RELATION.fullmatch, relations) if found]:
        left, operator, right = found.groups()
        ends = itertools.product(units.get(left, (left,)), units.get(right, (right,)))
        relations |= {_relation(one, operator, other) for one, other in ends}
    return numbers, frozenset(relations)


def _with_own_steps(chains: list["_Chain"], stated: ProblemStatement) -> set[int]:
    """Return the places of the sentences with a number or relation that is not the problem's."""
    return {
        chain.sentence
        for chain in chains
        if chain.numbers - stated.numbers or chain.relations - stated.relations
    }


def _parts(sentences: list[str], idle: set[int], chains: list["_Chain"]) -> tuple[Part, ...]:
    """Return consecutive sentences, without the idle ones, as parts of about PART_CHARACTERS."""
    ends = [0]
    length = 0
    for place, sentence in enumerate(sentences):
        length += 0 if place in idle else len(sentence)
        if length >= PART_CHARACTERS:
            ends.append(place + 1)
            length = 0
    # A short rest belongs to the part before it.
    if len(ends) > 1 and length < PART_CHARACTERS / 2:
        ends.pop()
    ends.append(len(sentences))
    own: list[list[_Chain]] = [[] for _ in ends[1:]]
    for chain in chains:
        own[bisect_right(ends, chain.sentence, 1, len(ends) - 1) - 1].append(chain)
    parts = (
        Part(
            "\n".join(sentences[place] for place in range(start, end) if place not in idle),
            frozenset().union(*(chain.numbers for chain in some)),
            frozenset().union(*(chain.relations for chain in some)),
        )
        for start, end, some in zip(ends, ends[1:], own, strict=False)
    )
    return tuple(part for part in parts if part.text.strip())


def related(found: Derivation, vectors: Vectors, problem: Vectors) -> tuple[Derivation, Vectors, float]:
    """Leave out the parts that have little to do with the problem, such as another problem's solution.

    They are judged by themselves, and beside the most similar of them. If no part has much to do with it, all
    stay: `derivation_novelty` judges the text as a whole.

    Args:
        found: A derivation with at least one part.
        vectors: Unit vectors of its texts `to_embed`, float32 [parts, or one more, d].
        problem: Unit vector of the problem, float32 [d]; NaN if it is not known.

    Returns:
        The derivation, the unit vector of its text, float32 [d], and how much the text with all its parts has
        to do with the problem: leaving out parts makes no text more related. This is their similarity, less
        ASTRAY as often as it is `astray`; but no more than that of the sentences with own steps, on the scale
        from UNRELATED to RELATED: a restatement is more similar to the problem than any solution.
    """
    vectors, of_own_steps = np.split(vectors, [len(found.parts)])
    lengths = np.array([len(part.text) for part in found.parts], dtype=np.float32)
    whole = _unit(lengths @ vectors)
    similarity = float(whole @ problem) - ASTRAY * found.astray
    if len(of_own_steps):
        lacking = max(0.0, 1 - 2 * len(found.own_steps) / float(lengths.sum()))
        beyond = float(of_own_steps[0] @ problem) - UNRELATED_STEPS - FEW_STEPS * lacking
        scale = (RELATED - UNRELATED) / (RELATED_STEPS - UNRELATED_STEPS)
        similarity = min(similarity, UNRELATED + scale * beyond)
    similarities = vectors @ problem
    # All NaN, and all kept, if the problem is not known.
    kept = ~(similarities < np.fmax(UNRELATED_PART, UNRELATED_SHARE * similarities.max()))
    if kept.all() or not kept.any():
        return found, whole, similarity
    parts = tuple(part for part, stays in zip(found.parts, kept.tolist(), strict=True) if stays)
    return replace(found, parts=parts), _unit((lengths * kept) @ vectors), similarity


def _unit(vector: Vectors) -> Vectors:
    unit: Vectors = vector / np.linalg.norm(vector)
    return unit


def apart_from_problem(similarity: Vectors, new: Vectors, known: Vectors) -> Vectors:
    """Return the similarities of texts without what they have in common with their problem.

    All solutions of a problem are similar in this, whatever their ways.

    Args:
        similarity: Cosine similarity of new and known texts, float32 of any shape.
        new: Cosine similarity of the new texts to the problem, broadcast with it; NaN if it is not known.
        known: The same of the known texts.
    """
    rest = np.sqrt(np.maximum((1 - new**2) * (1 - known**2), 1e-6))
    without = np.clip((similarity - new * known) / rest, -1, 1)
    # Texts that are equal but for rounding stay so.
    apart: Vectors = np.where(np.isnan(without) | (similarity > 1 - 1e-5), similarity, without)
    return apart


def sketch(found: Derivation) -> Sketches:
    """Return the bitmaps of a derivation, uint64 [FAMILIES, WORDS].

    A number of one digit and a relation of two variables set one bit, others two: they say more.
    """
    return _bitmaps(found.numbers, found.relations)


def reach(found: Derivation) -> Sketches:
    """Return the bitmaps in which the steps of known solutions are sought, uint64 [FAMILIES, WORDS].

    They are the sketch, and the same steps in the units of the problem where the text calculates in others.
    """
    if found.rescaled is None:
        return sketch(found)
    numbers, relations = found.rescaled
    return _bitmaps(numbers - found.given, relations)


def _bitmaps(*families: frozenset[str]) -> Sketches:
    bits = np.zeros((FAMILIES, BITS), dtype=np.uint8)
    for family, features in enumerate(families):
        bits[family, [place for feature in features for place in _places(family, feature)]] = 1
    return np.packbits(bits, axis=1, bitorder="little").view("<u8")


def different_way(
    similarity: Vectors,
    new: Sketches,
    known: Sketches,
    reaches: Sketches,
    stated: NDArray[np.bool_] | bool = True,
) -> Vectors:
    """Return the probability that two solutions take different ways, float32 of the shape of `similarity`.

    Args:
        similarity: Cosine similarity of the embeddings of both texts, apart from the problem if it is known.
        new: Sketches of the new solutions, whose leading dimensions broadcast with `similarity`.
        known: Sketches of the known solutions, likewise.
        reaches: `reach` of the new solutions, like `new`.
        stated: Whether the problem is known, broadcast likewise.
    """
    common = np.bitwise_count(reaches & known).sum(axis=-1, dtype=np.float32)
    sizes = _sizes(new), _sizes(known)
    distance = 1 - (common + COMMON_BITS) / (np.sqrt(sizes[0] * sizes[1]) + OWN_BITS)
    features = np.concatenate([(1 - similarity)[..., None], distance], axis=-1)
    unstated = features @ UNSTATED_WEIGHTS + np.float32(UNSTATED_INTERCEPT)
    exponents = np.where(stated, features @ WEIGHTS + np.float32(INTERCEPT), unstated)
    chance: Vectors = (1 / (1 + np.exp(-exponents))).astype(np.float32, copy=False)
    return chance


def derivation_novelty(
    similarity: Vectors,
    new: Sketches,
    known: Sketches,
    present: NDArray[np.bool_],
    to_problem: Vectors | None = None,
    reaches: Sketches | None = None,
) -> tuple[Vectors, NDArray[np.int64]]:
    """Return novelties in [0, 1], float32 [n], and the place of each nearest known solution, int64 [n].

    A solution with nothing to compare with has novelty 1 and place -1. Novelty is 0 if the solution is far
    shorter than all known ones. It is less, down to 0, for a text that has little in common with the problem;
    where the problem is not known, 0 for one that has hardly anything in common with any known solution.

    Args:
        similarity: Cosine similarity to each known solution, float32 [n, m]; apart from the problem if it is
            known.
        new: Sketches of the solutions, uint64 [n, FAMILIES, WORDS].
        known: Sketches of the known solutions of each one's prompt, uint64 [n, m, FAMILIES, WORDS].
        present: Whether there is a known solution in each place, bool [n, m].
        to_problem: Cosine similarity to the problem, float32 [n], NaN where it is not known; None: nowhere.
        reaches: `reach` of the solutions, like `new`; None: their sketches.
    """
    reaches = new if reaches is None else reaches
    if to_problem is None:
        to_problem = np.full(len(new), np.nan, dtype=np.float32)
    unknown = np.isnan(to_problem)
    related = np.where(unknown, 1, np.clip((to_problem - UNRELATED) / (RELATED - UNRELATED), 0, 1))
    if not similarity.shape[1]:
        return related.astype(np.float32), np.full(len(new), -1, dtype=np.int64)
    different = different_way(similarity, new[:, None], known, reaches[:, None], ~unknown[:, None])
    same = _contained(known, reaches[:, None]) | _contained(new[:, None], known)
    chance = np.where(same, 0, different)
    chance = np.where(present, chance, np.float32(np.inf))
    nearest = chance.argmin(axis=1)
    least = chance.min(axis=1)
    novelty = np.clip((least - THRESHOLD) / (1 - THRESHOLD), 0, 1)
    size = _sizes(new).sum(axis=-1)
    shortest = np.where(present, _sizes(known).sum(axis=-1), np.float32(np.inf)).min(axis=1)
    alone = ~present.any(axis=1)
    nearest_text = np.where(present, similarity, np.float32(-np.inf)).max(axis=1)
    unfit = (size < LEAST_SHARE * shortest) | (unknown & (nearest_text < LEAST_SIMILARITY))
    novelty = np.where(alone, 1, np.where(unfit, 0, novelty))
    return (related * novelty).astype(np.float32), np.where(alone, -1, nearest)


def new_steps(found: Derivation, known: Sketches, limit: int = 5) -> list[str]:
    """Return relations and numbers of a derivation that no known solution has, relations first.

    Args:
        found: The derivation to explain.
        known: Sketches of the known solutions, uint64 [m, FAMILIES, WORDS].
        limit: How many at most.
    """
    seen = np.bitwise_or.reduce(known, axis=0) if len(known) else np.zeros((FAMILIES, WORDS), dtype=np.uint64)
    bits = np.unpackbits(np.ascontiguousarray(seen).view(np.uint8), axis=1, bitorder="little")
    steps: list[str] = []
    for family, features in ((1, found.relations), (0, found.numbers)):
        fresh = [one for one in features if not all(bits[family, place] for place in _places(family, one))]
        steps += sorted(fresh, key=lambda one: (one.count("v"), -len(one), one))
    return steps[:limit]


def _contained(known: Sketches, new: Sketches) -> NDArray[np.bool_]:
    """Return whether a new solution has almost all steps of a known one, and so only adds to it."""
    size = _sizes(known).sum(axis=-1)
    inside: NDArray[np.bool_] = (size > 0) & (_sizes(known & new).sum(axis=-1) >= CONTAINED * size)
    return inside


def _sizes(sketches: Sketches) -> Vectors:
    sizes: Vectors = np.bitwise_count(sketches).sum(axis=-1, dtype=np.float32)
    return sizes


def _places(family: int, feature: str) -> Iterable[int]:
    hashed = crc32(feature.encode())
    single = len(feature) == 1 if family == 0 else feature.count("v") == 2
    return (hashed % BITS,) if single else (hashed % BITS, (hashed >> 16) % BITS)


_MARKED = re.compile(r"^[\s>*#_]*(?:####|final answer|answer)[*_ ]*:?", re.IGNORECASE | re.MULTILINE)


def _split_at_answer(text: str) -> tuple[str, str, str]:
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


_LISTED_FUNCTION_WORDS = (
    "a about after again all also an and any are as at be because been before being between both but"
    " by can could do does down each either equal equals every exactly first for from get gets give"
    " gives go had has have he hence her here his how i if in into is it its just last leave leaves"
    " left let like made make makes many may more most must my need next no nor not now of off on once"
    " one only or other our out over second she should since so some such take takes than that the"
    " their them then there therefore these they third this those three through thus to together too"
    " two under until up us was we were what when where which while who whose why will with without"
    " would yet you your"
)
_FUNCTION_WORDS = frozenset(_LISTED_FUNCTION_WORDS.split())
#: Words and what stands between them. One class of characters, so that the search is linear.
_WORD_RUN = re.compile(r"[A-Za-z'’\s,;:]+")
_WORD = re.compile(r"[a-z]+")


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def _grammatical(text: str) -> str:
    """Return the text with a space in the place of each run of words without grammar."""
    # Hardly any text has such a run, and finding runs is much faster than replacing them.
    if not any(len(run) >= 2 * LEAST_RUN and _gibberish(run) for run in _WORD_RUN.findall(text)):
        return text
    return _WORD_RUN.sub(lambda run: " " if _gibberish(run[0]) else run[0], text)


def _gibberish(run: str) -> bool:
    words = _WORD.findall(run.lower())
    known = sum(map(_FUNCTION_WORDS.__contains__, words))
    return len(words) >= LEAST_RUN and known < LEAST_FUNCTION_WORDS * len(words)


#: White space after the end of a sentence, or new lines. What has to stand before it is looked for behind the
#: first space, so that the search skips all other characters.
_SENTENCE = re.compile(r"\s(?:(?<=[.!?]\s)\s*|(?<=\n)\n*)")
#: Separates the sentences of a text in normal notation. No text holds it.
_BREAK = "\0"
_CODE_OR_TABLE = re.compile(r"^```.*?^```|^\s*\|[^\n]*\|[ \t]*$", re.MULTILINE | re.DOTALL)
_LEAST_SENTENCE = 20
_RESTATED = 0.8


def _own_sentences(text: str, stated: ProblemStatement) -> tuple[list[str], int]:
    """Return the sentences that are not repeated or restated, and the number of characters repeated."""
    kept: list[str] = []
    seen: set[str] = set()
    repeated = 0
    for sentence in _SENTENCE.split(text.replace(_BREAK, " ")):
        lower = sentence.lower()
        if len(sentence) >= _LEAST_SENTENCE:
            key = " ".join(lower.split())
            if key in seen:
                repeated += len(sentence)
                continue
            seen.add(key)
        if stated.words:
            if (restates := stated.restated.get(sentence)) is None:
                restates = stated.restated[sentence] = _restates(sentence, _WORD.findall(lower), stated)
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
    elif "=" not in sentence:
        return True
    numbers, relations = _features(sentence)
    return numbers <= stated.numbers and relations <= stated.relations


_NUMBER_WORDS = {word: str(value) for word, value in SMALL.items()}
#: What a number of several words holds.
_SEVERAL_WORDS = re.compile(r"[nrfxhe]ty[\s-]|hundred|thousand|million")
_NUMBER_WORDS |= {
    "hundred": "100",
    "thousand": "1000",
    "twice": "2",
    "double": "2",
    "doubled": "2",
    "doubling": "2",
    "triple": "3",
    "half": "0.5",
    "third": "0.3333",
    "thirds": "0.6667",
    "quarter": "0.25",
    "quarters": "0.75",
}
_OPERATOR_WORDS = {
    "times": "*",
    "plus": "+",
    "minus": "-",
    "equals": "=",
    "multiplied": "*",
    "divided": "/",
    "by": "by",
}
_GREEK = frozenset(
    ["alpha", "beta", "gamma", "theta", "lambda", "mu", "pi", "phi", "sigma", "omega", "varphi"]
)
#: Short words that are no variables.
_STOP = _FUNCTION_WORDS | {"ll", "re", "ve"}
_SIGNS = str.maketrans(
    {"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "—": " ", "²": "^2", "³": "^3", "⁴": "^4"}
    | {
        "√": " sqrt ",
        "≤": "<",
        "≥": ">",
        "≡": "=",
        "≈": "=",
        "→": "=",
        "½": " 1/2 ",
        "{": "(",
        "}": ")",
        "$": " ",
    }
)
_ARGUMENT = r"\s*(?:\(([^()]*)\)|([0-9a-zA-Z]))"
_THOUSANDS = re.compile(r"\(,\)(?<=\d\(,\))|,(?<=\d,)(?=\d\d\d(?!\d))|\\,(?<=\d\\,)(?=\d\d\d(?!\d))")
#: One number, a digit at a time: "1 2" for 12.
_SPACED_DIGITS = re.compile(r"(?<![\d.])\d(?: \d)+(?![\d.])")
_REWRITES = (
    (re.compile(r"\\(?:cdot|times|ast)(?![a-z])"), "*"),
    (re.compile(r"\\div(?![a-z])"), "/"),
    (re.compile(r"\\(?:equiv|approx|to)(?![a-z])"), "="),
    (re.compile(r"\\leq?(?![a-z])"), "<"),
    (re.compile(r"\\geq?(?![a-z])"), ">"),
    (
        re.compile(
            r"\\(?:left|right|[bB]igg?[lr]?|q?quad|displaystyle|text|math[a-z]+|operatorname|begin\(\w+\)"
            r"|end\(\w+\))(?![a-zA-Z])|\\[^a-zA-Z]"
        ),
        " ",
    ),
)
#: An index is no number: x_1, a_{12}.
_INDEX = re.compile(r"(?<=[A-Za-z)])_(?:\(\s*\w{1,3}\s*\)|\w)")
#: f(2) and a(n) are values, but 2(3) and 3 x(4) may be products.
_VALUE_OF = re.compile(r"(?<![A-Za-z\\\d])([A-Za-z])\(\s*(?:\d+(?:\.\d+)?|[a-z])\s*\)(?=\s*[=<>+-])")
#: C(7, 3)
_CHOICES = re.compile(r"(?<![A-Za-z\\])C\(\s*(\d+)\s*,\s*(\d+)\s*\)")
_FRACTION = re.compile(r"\\[dtc]?frac" + _ARGUMENT + _ARGUMENT)
_BINOMIAL = re.compile(r"\\[dt]?binom" + _ARGUMENT + _ARGUMENT)
_TOKEN = re.compile(r"\d+(?:\.\d+)?|\\?[A-Za-z]+|[-+*/^=<>!|]")
_NUMBER_LIST = re.compile(rf"(?:\d++(?:\.\d++)?[\s,;]++){{{LONG_LIST - 1},}}+\d*")
#: What every list of numbers holds; a faster search.
_FEW_NUMBERS = re.compile(r"\d[\s,;]+\d[\d.]*[\s,;]+\d[\d.]*[\s,;]+\d")
_OPERATORS = frozenset("+-*/^=<>|")
_RELATION = re.compile(r"(v|[\d.]{1,12})([-+*/=<>])(v|[\d.]{1,12})")
_COMMUTATIVE = frozenset("+*=")


def _normal(text: str) -> str:
    """Return the text with one notation for operators, fractions and binomials."""
    text = text.translate(_SIGNS)
    if _SEVERAL_WORDS.search(text):
        text = words_in_figures(text)
    if "," in text:
        text = _THOUSANDS.sub("", text)
    if "\\" in text:
        for pattern, replacement in _REWRITES:
            text = pattern.sub(replacement, text)
    if "_" in text:
        text = _INDEX.sub("", text)
    if "C(" in text:
        text = _CHOICES.sub(r" \1|\2 ", text)
    text = _VALUE_OF.sub(r"\1 ", text)
    if _SPACED_DIGITS.search(text):
        text = _SPACED_DIGITS.sub(lambda digits: digits[0].replace(" ", ""), text)
    if "frac" in text:
        text = _FRACTION.sub(lambda m: f" {m[1] or m[2]}/{m[3] or m[4]} ", text)
    if "binom" in text:
        text = _BINOMIAL.sub(lambda m: f" binom {m[1] or m[2]}|{m[3] or m[4]} ", text)
    return text


@dataclass(slots=True)
class _Chain:
    """Operands with nothing but operators between them: 3, or 3 + 4 = 7."""

    sentence: int
    numbers: frozenset[str]
    relations: frozenset[str]
    #: What an equation between plain numbers results in; empty for any other chain.
    results: frozenset[str]
    #: Those of the numbers that are not written: 0.3 of 36/120.
    quotients: frozenset[str]
    #: Its result stands before the equality sign: 252 = 1*198 + 54.
    apart: bool
    #: A chain with an equation between plain sides that may be false, as it is written; "" for any other.
    doubtful: str


def _features(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the numbers and relations of a text."""
    said = _read_text(_normal(text))
    return (
        frozenset().union(*(numbers for numbers, *_ in said)),
        frozenset().union(*(relations for _, relations, *_ in said)),
    )


def _chains(sentences: list[str]) -> list[_Chain]:
    """Return the chains of sentences in normal notation, in order."""
    chains: list[_Chain] = []
    for place, sentence in enumerate(sentences):
        chains += [_Chain(place, *said) for said in _read_text(sentence)]
    return chains


#: What a `_Chain` says, wherever it stands.
_Said = tuple[frozenset[str], frozenset[str], frozenset[str], frozenset[str], bool, str]
_NOTHING: frozenset[str] = frozenset()


@kept(LONGEST_KEPT, most=16384)
def _read_text(text: str) -> tuple[_Said, ...]:
    """Return what the chains of a text in normal notation say.

    Kept, because the solutions of a problem have many sentences in common, and even more chains.
    """
    said: list[_Said] = []
    operands: list[str] = []
    operators: list[str] = []
    before = ""
    for operand, operator in map(_read, _TOKEN.findall(text)):
        if operator:
            # "divided by" is one operator.
            before = before if operator == "by" and before else operator
            continue
        if operand and operands and before in _OPERATORS:
            operators.append(before)
            operands.append(operand)
        else:
            if operands:
                said.append(_said(operands, operators))
                operators = []
            operands = [operand] if operand else []
        before = ""
    if operands:
        said.append(_said(operands, operators))
    return tuple(said)


def _said(operands: list[str], operators: list[str]) -> _Said:
    """Return what a chain says; `operators` are between the operands."""
    if not operators:
        return (
            _NOTHING if operands[0] == "v" else frozenset(operands),
            _NOTHING,
            _NOTHING,
            _NOTHING,
            False,
            "",
        )
    return _said_by_all(tuple(operands), tuple(operators))


@lru_cache(maxsize=65536)
def _read(token: str) -> tuple[str, str]:
    """Return the operand or the operator that a token is; both are empty for what ends a chain."""
    if token[0].isdigit():
        return _number(token), ""
    if not (token[0].isalpha() or token[0] == "\\"):
        return "", token
    word = token.lstrip("\\").lower()
    if word in _OPERATOR_WORDS:
        return "", _OPERATOR_WORDS[word]
    if word in _NUMBER_WORDS:
        return _NUMBER_WORDS[word], ""
    variable = word in _GREEK or (len(word) <= 2 and token[0] != "\\" and word not in _STOP)
    return ("v" if variable else ""), ""


@kept(LONGEST_CHAIN_KEPT, most=16384)
def _said_by_all(operands: tuple[str, ...], operators: tuple[str, ...]) -> _Said:
    """Return what a chain of two operands or more says."""
    operands, operators = _without_splits(operands, operators)
    written = frozenset(operands) - {"v"}
    quotients: set[str] = set()
    relations: set[str] = set()
    for left, operator, right in zip(operands, operators, operands[1:], strict=False):
        relations.add(_relation(left, operator, right))
        if operator == "/" and "v" not in (left, right) and right != "0":
            quotients.add(_number(str(float(left) / float(right))))
    results: set[str] = set()
    doubtful = _doubtful(operands, operators) if "=" in operators and len(operators) > 1 else ""
    if "=" in operators and "v" not in operands:
        around = ["=", *operators, "="]
        # An operand between two equality signs, or at one end beside one, stands alone on its side.
        results = {
            operand
            for operand, *signs in zip(operands, around, around[1:], strict=False)
            if signs == ["=", "="]
        }
    quotients -= written
    apart = results == {operands[0]} and operators[0] == "="
    said = written | quotients, frozenset(relations), frozenset(results), frozenset(quotients)
    return *said, apart, doubtful


def _relation(left: str, operator: str, right: str) -> str:
    ends = sorted((left, right)) if operator in _COMMUTATIVE else (left, right)
    return f"{ends[0]}{operator}{ends[1]}"


#: Operands, and the operators between them.
_Side = tuple[list[str], list[str]]


def _without_splits(
    operands: tuple[str, ...], operators: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return a chain without the plain sides that are made up: 3*4 = 5+7 = 12 says 3*4 = 12.

    No operand of such a side comes from the side before it, as it is or by a calculation of a part of it.
    """
    sides = _sides(operands, operators)
    if len(sides) < 3 or _takes_apart(*sides[:2]):
        return operands, operators
    kept = sides[:1]
    for own, between in sides[1:]:
        calculates = len(own) > 1 and 1 < len(kept[-1][0]) <= LONGEST_SIDE
        if not (calculates and "v" not in own and _from_nowhere(own, *kept[-1])):
            kept.append((own, between))
    if len(kept) == len(sides):
        return operands, operators
    joined: list[str] = []
    for _, between in kept:
        joined += [*between, "="]
    return tuple(itertools.chain(*(own for own, _ in kept))), tuple(joined[:-1])


def _takes_apart(first: _Side, second: _Side) -> bool:
    """Return whether a chain starts from a number's parts: 360 = 36*10 = 4*9*10."""
    plain = "v" not in first[0] and "v" not in second[0]
    return plain and len(first[0]) == 1 and _equal(first[0], _expression(*second))


def _expression(operands: list[str], operators: list[str]) -> list[str]:
    return [operands[0], *itertools.chain(*zip(operators, operands[1:], strict=True))]


def _sides(operands: tuple[str, ...], operators: tuple[str, ...]) -> list[_Side]:
    """Return the sides of a chain of equalities."""
    sides: list[_Side] = [([operands[0]], [])]
    for operator, operand in zip(operators, operands[1:], strict=True):
        if operator == "=":
            sides.append(([operand], []))
        else:
            sides[-1][0].append(operand)
            sides[-1][1].append(operator)
    return sides


def _from_nowhere(own: list[str], before: list[str], signs: list[str]) -> bool:
    """Return whether no operand is one of the side before, or the value of a part of it."""
    values = set(before)
    for start in range(len(before)):
        for end in range(start + 1, len(before)):
            run = before[start : end + 1]
            if "v" in run:
                break
            value = calculated(_expression(run, signs[start:end]))
            if value is not None:
                values.add(_rounded(value))
    return not values & set(own)


def _doubtful(operands: tuple[str, ...], operators: tuple[str, ...]) -> str:
    """Return how a chain with equations is written, or "" if they are true at first sight.

    Brackets are not known here, so that many a true equation looks false.
    """
    sides = [[operands[0]]]
    signs = []
    for operator, operand in zip(operators, operands[1:], strict=True):
        if operator in "=<>":
            signs.append(operator)
            sides.append([operand])
        else:
            sides[-1] += [operator, operand]
    for left, sign, right in zip(sides, signs, sides[1:], strict=False):
        plain = sign == "=" and len(left) + len(right) > 2 and "v" not in left and "v" not in right
        if plain and not _equal(left, right):
            return " ".join(_expression(list(operands), list(operators)))
    return ""


def _equal(left: list[str], right: list[str]) -> bool:
    values = calculated(left), calculated(right)
    return values[0] is not None and values[1] is not None and abs(values[0] - values[1]) < 1e-4


def _without_false(
    chains: list[_Chain], sentences: list[str], stated: ProblemStatement
) -> tuple[list[_Chain], int]:
    """Return the chains without the false equations and those that only they lead to, and their number."""
    doubted = {chain.sentence for chain in chains if chain.doubtful}
    false = {place: _false(sentences[place]) for place in doubted}
    if not any(false.values()):
        return chains, 0
    known, wrong = set(stated.numbers), set[str]()
    kept: list[_Chain] = []
    count = 0
    for chain in chains:
        untrue = bool(chain.doubtful) and any(one in chain.doubtful for one in false[chain.sentence])
        if untrue or (chain.results and (chain.numbers - chain.results) & wrong):
            count += untrue
            wrong |= (chain.results or {chain.doubtful.rpartition(" ")[2]}) - known
            continue
        known |= chain.numbers
        kept.append(chain)
    return kept, count


@kept(LONGEST_KEPT, most=256)
def _false(sentence: str) -> frozenset[str]:
    """Return the false equations of a sentence, as `_Chain.doubtful` has them."""
    said = itertools.chain(*map(_read_text, false_equations(sentence)))
    return frozenset(doubtful for *_, doubtful in said if doubtful)


def _falsehood(false: int, honest: list[_Chain]) -> str:
    if false < LEAST_FALSE:
        return ""
    others = sum(bool(chain.results) for chain in honest)
    if false <= others:
        return ""
    return f"false equations: {false}, beside {others} others"


def _used(chains: list[_Chain], stated: ProblemStatement, boxed: frozenset[str]) -> list[_Chain]:
    """Return the chains without the equations between plain numbers that add no step.

    An equation whose result stands somewhere before it, and is not the answer, is a check. One whose result
    nothing uses adds no step either. A result is used if another chain that counts starts from it or states
    it, or if it is the answer; or if this holds for its root, since texts take roots without an equation. It
    may not be given in the problem, and not be used by equations of the same numbers alone: 61 + 2 = 63 and
    63 - 2 = 61 lead nowhere.
    Without a known answer, the last chain's results are the answer.
    """
    answer = stated.answer | boxed or (chains[-1].results if chains else frozenset())
    given = stated.numbers - answer
    answer = answer | ({_square(one) for one in answer} - given)
    kept = list(_without_checks(chains, stated))
    while True:
        # The results that are used only if another chain that counts does so.
        open_results = frozenset().union(*(chain.results for chain in kept)) - answer - given
        # Number -> the equations that use it, by their numbers; what is no equation is one of its own.
        users: dict[str, set[object]] = {number: set() for number in open_results}
        for chain in kept if users else ():
            user = chain.numbers if chain.results else chain.sentence
            for number in chain.numbers - chain.results:
                if number in users:
                    users[number].add(user)
                # Not of an equation's or a given number: true equations meet such squares by chance.
                if not chain.results and number not in stated.numbers and _square(number) in users:
                    users[_square(number)].add(user)
        left = [
            chain
            for chain in kept
            if not chain.results
            or any(one in answer or users.get(one, set()) - {chain.numbers} for one in chain.results)
        ]
        if len(left) == len(kept):
            return kept
        kept = left


def _astray(chains: list[_Chain], end: str, stated: ProblemStatement) -> int:
    """Return how many signs there are that a text, which ends with `end`, is about something else: 0 to 2.

    One is that its steps do not lead to the answer, the other that hardly a number written in it is its own.
    """
    lost = not _arrives(chains, end, stated)
    own = frozenset().union(*(chain.numbers - chain.quotients for chain in chains)) - stated.numbers
    return lost + (len(own) < (OWN_NUMBERS_ASTRAY if lost else OWN_NUMBERS))


def _arrives(chains: list[_Chain], end: str, stated: ProblemStatement) -> bool:
    """Return whether a chain in the last half leads to the answer, or the text ends one step from it.

    Many texts leave the last step to the reader: "42 minus 23 leaves us with", and the box. That the answer
    is said leads nowhere.
    """
    answer = stated.answer
    if not answer:
        return True
    known = set(stated.numbers - answer)
    for place, chain in enumerate(chains):
        if place >= len(chains) // 2 and _reaches(chain, known, answer):
            return True
        known |= chain.numbers
    wanted = [float(one) for one in answer]
    # Numbers that stand beside the answer may have been made for it. A fraction's are used one by one.
    beside = answer if len(answer) == 1 else frozenset[str]()
    numbers, expression = _last_numbers(_normal(end)[-LAST_CHARACTERS:], beside)
    return any(
        abs(found - one) <= 1e-4 * max(1.0, abs(one))
        for found in _next_values(numbers[-LAST_NUMBERS:], expression)
        for one in wanted
    )


def _reaches(chain: _Chain, known: set[str], answer: frozenset[str]) -> bool:
    """Return whether a chain leads to the answer, from numbers that are known or small, or from two such."""
    if answer.isdisjoint(chain.numbers):
        return False
    operands = chain.numbers - answer
    start = {one for one in operands if one in known or float(one) <= SMALL_NUMBER}
    return len(start) > 1 or (len(start) > 0 and operands - chain.results <= start)


def _last_numbers(text: str, beside: frozenset[str]) -> tuple[list[float], list[str]]:
    """Return the numbers of a text in normal notation, and operands and operators of its last expression.

    Chains with a number of `beside` are left out of the numbers.
    """
    chains: list[list[str]] = [[]]
    expression: list[str] = []
    sign = ""
    for token in _TOKEN.findall(text):
        operand, operator = _read(token)
        if operator:
            sign = operator
            continue
        if not (operand and sign):
            chains.append([])
        if operand in ("", "v"):
            expression = []
        else:
            joins = bool(expression) and sign in _OPERATORS - set("=<>")
            expression = [*expression, sign, operand] if joins else [operand]
            chains[-1].append(operand)
        sign = ""
    return [float(one) for chain in chains if beside.isdisjoint(chain) for one in chain], expression


def _next_values(numbers: list[float], expression: list[str]) -> Iterable[float]:
    """Yield what one more step could make of the last numbers."""
    if len(expression) > 1 and (value := calculated(expression)) is not None:
        yield value
    for one in numbers:
        yield from (one * one, math.sqrt(one), 2 * one, one / 2)
    for one, other in itertools.combinations(numbers, 2):
        yield from (one + other, one - other, other - one, one * other)
        if one and other:
            yield from (one / other, other / one)
    for count in range(3, len(numbers) + 1):
        yield sum(numbers[-count:])
        yield math.prod(numbers[-count:])


def _without_checks(chains: list[_Chain], stated: ProblemStatement) -> Iterable[_Chain]:
    """Yield the chains without the checks; what takes a known number apart results in the new numbers.

    In Euclid's "252 = 1 * 198 + 54" the result is 54.
    """
    before = set(stated.numbers - stated.answer)
    seen: set[str] = set()
    for chain in chains:
        if len(chain.results) == 1 and chain.results <= before and not chain.results & stated.answer:
            made = chain.numbers - before
            if made and chain.apart:
                chain = replace(chain, results=frozenset(made))
            elif chain.results <= seen:
                continue
        before |= chain.numbers
        seen |= chain.numbers
        yield chain


@lru_cache(maxsize=65536)
def _square(digits: str) -> str:
    value = float(digits)
    return _rounded(value**2) if value < 1e6 else digits


def _rounded(value: float) -> str:
    """Return a calculated number as `_number` returns a written one."""
    return _number(f"{value:.6f}")


@lru_cache(maxsize=65536)
def _number(digits: str) -> str:
    value = float(digits)
    return f"{round(value, 4):g}" if value < 1e6 else digits


_READABLE = re.compile(r"[A-Za-z\u0370-\u03ff\d]")
_UNREADABLE = re.compile(r"[^\W\d_A-Za-z\u0370-\u03ff]")


def _suspicion(before: str, behind: str, gibberish: int, repeated: int, listed: int) -> str:
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
