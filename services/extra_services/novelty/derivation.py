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

`own_text` says what of a text belongs to the solution, `chains` reads numbers and relations, `steps` chooses
those that count. This module knows neither gRPC nor the store. Embeddings of the parts of a derivation come
from the caller.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from extra_services.novelty import own_text, steps
from extra_services.novelty.chains import Chain, features_of, normal_notation, read_chains
from extra_services.novelty.problem import NO_STATEMENT, ProblemStatement

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
#: Longest part of a text that is read, in characters.
LONGEST_TEXT = 100_000
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


def derivation(solution: str, stated: ProblemStatement = NO_STATEMENT) -> Derivation:
    """Return the derivation in the text of a solution.

    Args:
        solution: Text of a rollout.
        stated: What the problem states; without it, the numbers of problem and answer count as steps.
    """
    before, boxed, behind = own_text.split_at_answer(solution[:LONGEST_TEXT])
    own = own_text.CODE_OR_TABLE.sub("\n", before)
    grammatical = own_text.grammatical(own)
    sentences, repeated = own_text.own_sentences(grammatical, stated)
    normal = normal_notation(own_text.BREAK.join(sentences))
    listed = own_text.without_number_lists(normal)
    chains = read_chains(listed.split(own_text.BREAK))
    honest, false = steps.without_false(chains, sentences, stated)
    kept = steps.used_chains(honest, stated, features_of(boxed)[0])
    # A sentence without any chain, or with one that counts, belongs to the solution.
    idle = {chain.sentence for chain in chains} - {chain.sentence for chain in kept}
    own_steps = steps.with_own_steps(kept, stated) if stated.words else set(range(len(sentences))) - idle
    # A text in which nothing is its own restates the problem and says the answer.
    parts = _parts(sentences, idle, kept) if own_steps else ()
    rest = len(own_steps) < len(sentences) - len(idle)
    left_out = len(own) - len(grammatical), repeated, len(normal) - len(listed)
    return Derivation(
        parts,
        own_text.suspicion_of(before, behind, *left_out) or steps.falsehood(false, honest),
        stated.numbers,
        steps.astray(kept, parts[-1].text if parts else "", stated),
        "\n".join(sentences[place] for place in sorted(own_steps)) if rest else "",
        _in_problems_quantities(chains, kept, stated),
    )


def _in_problems_quantities(
    chains: list[Chain], kept: list[Chain], stated: ProblemStatement
) -> tuple[frozenset[str], frozenset[str]] | None:
    """Return the kept numbers and relations in the quantities of the problem, if a text uses others."""
    if scale := steps.scale_of(chains, stated):
        return steps.rescaled_steps(kept, scale)
    if shift := steps.shift_of(chains, stated):
        return steps.shifted_steps(kept, shift)
    return None


def _parts(sentences: list[str], idle: set[int], chains: list[Chain]) -> tuple[Part, ...]:
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
    own: list[list[Chain]] = [[] for _ in ends[1:]]
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

    They are the sketch, or the steps in the units of the problem where the text may calculate in others.
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
        reaches: `reach` of the new solutions, like `new`; the smaller of both probabilities counts.
        stated: Whether the problem is known, broadcast likewise.
    """
    chance = _different(similarity, new, known, stated)
    if np.array_equal(reaches, new):
        return chance
    return np.minimum(chance, _different(similarity, reaches, known, stated))


def _different(
    similarity: Vectors, new: Sketches, known: Sketches, stated: NDArray[np.bool_] | bool
) -> Vectors:
    common = np.bitwise_count(new & known).sum(axis=-1, dtype=np.float32)
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
