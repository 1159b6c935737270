"""Quality of the novelty metrics: does a different way score above a paraphrase, and does noise pay?

`extra-rl bench novelty-quality FILE --json`. FILE holds problems with two different correct approaches, A
and B, and two writings of each (A1, A2, B1, B2), as tests/data/novelty_problems.jsonl. For every metric:

- `different_above`: the memory holds one text; the share of comparisons in which a text of the other
  approach scores above the paraphrase (a tie counts half). All 8 comparisons a problem.
- `different_above_a1`: the same for memory {A1} alone: 2 comparisons a problem.
- `retrieval`: the memory holds A1 and B1; how often A2 and B2 lie nearer to the text of their own approach.
- `paraphrase_pays`: mean novelty of A2 over that of B1 and B2, memory {A1}.

Problems marked with a `split` are reported apart as well. The intervals are 95 % percentiles of 2000
bootstrap samples of the problems. `farming`: the memory holds
A1. Texts that are no solution, and A1 and its paraphrase A2, each changed without a new way; their mean
novelty over that of B1 and B2. In the last row but one A2 is followed by B1, so it has a new way as well. In
the last row A1 and B1 have the same long ending.

Embedding takes almost all of the time, so vectors are kept in .cache/novelty_vectors.npz, by the hash of
their text: a run that was broken off goes on where it was. Progress goes to stderr.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]

from extra_rl.vocabulary import TextWindow
from extra_services.memory.embedding import Embedder
from extra_services.novelty import metrics
from extra_services.novelty.derivation import (
    Derivation,
    apart_from_problem,
    derivation,
    derivation_novelty,
    reach,
    related,
    sketch,
)
from extra_services.novelty.problem import NO_STATEMENT, statement
from extra_services.novelty.suspicion import reason_against_related

MODEL = "all-MiniLM-L6-v2"
CACHE = Path(".cache/novelty_vectors.npz")
#: Texts that are embedded, and saved, at a time.
CHUNK = 512
NAMES = ("A1", "A2", "B1", "B2")
SAMPLES = 2000
SAME_CLUSTER = 0.95

Problem = dict[str, Any]
Values = NDArray[np.float64]
#: Novelty of a solution beside a memory of one, both of the same problem: (problem, new, known).
Novelty = Callable[[list[tuple[Problem, str, str]]], Values]


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(prog="extra-rl bench novelty-quality", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--split", choices=("choose", "report"), help="only the problems marked so")
    parser.add_argument("--model", default=MODEL, help="a packaged model, or a sentence-transformers folder")
    parser.add_argument("--int8", type=Path, help="folder of the int8 model: measure that embedder as well")
    parser.add_argument("--no-farming", action="store_true", help="leave the farming table out")
    parser.add_argument("--metric", default="", help="only the metrics whose name starts so")
    arguments = parser.parse_args()
    problems = [json.loads(line) for line in arguments.file.read_text(encoding="utf-8").splitlines()]
    problems = [one for one in problems if arguments.split in (None, one.get("split"))]
    embedders = {"float32": Vectors(arguments.model)}
    if arguments.int8:
        embedders["int8"] = Vectors(arguments.model, arguments.int8)
    report: dict[str, Any] = {"problems": len(problems), "metrics": {}, "parts": {}, "farming": {}}
    made = scorers(embedders)
    chosen_names = [name for name in made if name.startswith(arguments.metric)]
    for number, name in enumerate(chosen_names, 1):
        print(f"{number} of {len(chosen_names)}: {name}", file=sys.stderr, flush=True)
        novelty = made[name]
        report["metrics"][name] = quality(problems, novelty)
        for part in sorted({one.get("split", "") for one in problems} - {"", arguments.split}):
            chosen = [one for one in problems if one["split"] == part]
            report["parts"].setdefault(part, {})[name] = quality(chosen, novelty)
        if not arguments.no_farming:
            report["farming"][name] = farming(problems, novelty)
    report["flagged"] = flagged(problems)
    for vectors in embedders.values():
        vectors.close()
    print(json.dumps(report) if arguments.json else tables(report))


class Vectors:
    """An embedder with a cache on disk."""

    def __init__(self, model: str, int8_folder: Path | None = None) -> None:
        self._model = model
        self._folder = int8_folder
        self._embedder: Embedder | None = None
        self._known = _stored()

    def of(self, texts: list[str], window: TextWindow) -> NDArray[np.float32]:
        """Return the unit vectors, float32 [len(texts), d]."""
        keys = [self._key(text, window) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        # Texts of one length make the best batches.
        rest = sorted(missing, key=lambda key: len(missing[key]))
        for start in range(0, len(rest), CHUNK):
            some = rest[start : start + CHUNK]
            self._embedder = self._embedder or Embedder(self._model, int8_folder=self._folder)
            found = self._embedder.embed([missing[key] for key in some], window)
            self._known |= dict(zip(some, found, strict=True))
            self._save()
            print(f"  {start + len(some)} of {len(rest)} texts embedded", file=sys.stderr, flush=True)
        return np.stack([self._known[key] for key in keys])

    def _save(self) -> None:
        """Write the cache, with what other runs have written meanwhile."""
        both = _stored() | self._known
        CACHE.parent.mkdir(exist_ok=True)
        # Not ".tmp": numpy adds ".npz" to other endings.
        partial = CACHE.with_suffix(f".{os.getpid()}.npz")
        np.savez(partial, keys=np.array(list(both)), vectors=np.stack(list(both.values())))
        partial.replace(CACHE)

    def close(self) -> None:
        """Stop the embedder."""
        if self._embedder is not None:
            self._embedder.close()

    def _key(self, text: str, window: TextWindow) -> str:
        kind = ("int8" if self._folder else "float32") + ("" if self._model == MODEL else f" {self._model}")
        return hashlib.blake2b(f"{kind} {window} {text}".encode(), digest_size=16).hexdigest()


def _stored() -> dict[str, NDArray[np.float32]]:
    """Return the vectors on disk by key."""
    if not CACHE.exists():
        return {}
    with np.load(CACHE) as stored:
        return dict(zip(stored["keys"].tolist(), stored["vectors"], strict=True))


def scorers(embedders: dict[str, Vectors]) -> dict[str, Novelty]:
    """Return the metrics by name. With a memory of one solution, `mean_cosine` is the metric `embedding`."""
    made: dict[str, Novelty] = {}
    for kind, vectors in embedders.items():
        for window in (TextWindow.REFERENCE, TextWindow.WHOLE):
            made[f"embedding {window} {kind}"] = _embedding(vectors, window)
            made[f"cluster_size {window} {kind}"] = _cluster_size(vectors, window)
        made[f"sentences, best match {kind}"] = _sentences(vectors)
        made[f"derivation {kind}"] = _derivation(vectors)
        made[f"derivation, problem not given, {kind}"] = _derivation(vectors, with_problem=False)
    others = {"ngram_count": _ngram_count, "TF-IDF of words": _tfidf, "TF-IDF per prompt": _tfidf_per_prompt}
    return others | made


def _embedding(vectors: Vectors, window: TextWindow) -> Novelty:
    def novelty(pairs: list[tuple[Problem, str, str]]) -> Values:
        new = vectors.of([text for _, text, _ in pairs], window)
        known = vectors.of([text for _, _, text in pairs], window)
        similarity = np.einsum("ij,ij->i", new, known)
        ones = np.ones(len(pairs), dtype=np.int64)
        nothing = np.full(len(pairs), -np.inf, dtype=np.float32)
        return metrics.embedding_novelty(similarity, nothing, ones, 1).astype(np.float64)

    return novelty


def _cluster_size(vectors: Vectors, window: TextWindow) -> Novelty:
    def novelty(pairs: list[tuple[Problem, str, str]]) -> Values:
        both = vectors.of([text for pair in pairs for text in pair[1:]], window)
        found = metrics.cluster_novelty(both, np.full(len(pairs), 2), SAME_CLUSTER)
        return found[::2].astype(np.float64)

    return novelty


def _derivation(vectors: Vectors, with_problem: bool = True) -> Novelty:
    def novelty(pairs: list[tuple[Problem, str, str]]) -> Values:
        stated = vectors.of([problem["problem"] for problem, _, _ in pairs], TextWindow.WHOLE)
        if not with_problem:
            stated = np.full_like(stated, np.nan)
        new, of_new, to_problem = _related(
            vectors, _derivations(((problem, text) for problem, text, _ in pairs), with_problem), stated
        )
        known, of_known, known_to_problem = _related(
            vectors, _derivations(((problem, text) for problem, _, text in pairs), with_problem), stated
        )
        similarity = apart_from_problem(
            np.einsum("ij,ij->i", of_new, of_known),
            np.einsum("ij,ij->i", of_new, stated),
            np.einsum("ij,ij->i", of_known, stated),
        )[:, None]
        # As the service: what it leaves out is neither paid nor stored.
        left_out = [
            [bool(reason_against_related(*pair)) for pair in zip(found, values.tolist(), strict=True)]
            for found, values in ((new, to_problem), (known, known_to_problem))
        ]
        present = ~np.array(left_out[1])[:, None]
        found, _ = derivation_novelty(
            similarity,
            np.stack([sketch(one) for one in new]),
            np.stack([[sketch(one)] for one in known]),
            present,
            to_problem,
            np.stack([reach(one) for one in new]),
        )
        return np.where(left_out[0], 0.0, found)

    return novelty


def _related(
    vectors: Vectors, found: list[Derivation], problems: NDArray[np.float32]
) -> tuple[list[Derivation], NDArray[np.float32], NDArray[np.float32]]:
    """Return the derivations without unrelated parts, their vectors, and the similarities to the problems.

    A blank text has a vector of its own, and similarity 0.
    """
    texts = [one.to_embed for one in found]
    embedded = vectors.of([text for some in texts for text in some] + [" "], TextWindow.WHOLE)
    ends = np.cumsum([len(some) for some in texts])
    made = [
        related(one, embedded[end - len(some) : end], problem) if some else (one, embedded[-1], 0.0)
        for one, some, end, problem in zip(found, texts, ends.tolist(), problems, strict=True)
    ]
    similarities = np.array([similarity for _, _, similarity in made], dtype=np.float32)
    return [one for one, _, _ in made], np.stack([vector for _, vector, _ in made]), similarities


def _derivations(solutions: Iterable[tuple[Problem, str]], with_problem: bool = True) -> list[Derivation]:
    return [
        derivation(
            text, statement(problem["problem"], str(problem["answer"])) if with_problem else NO_STATEMENT
        )
        for problem, text in solutions
    ]


def _sentences(vectors: Vectors) -> Novelty:
    """How far the sentences of the new text lie from their nearest in the known one, on average."""

    def novelty(pairs: list[tuple[Problem, str, str]]) -> Values:
        split = [[_sentences_of(text) for text in pair[1:]] for pair in pairs]
        all_of = list(dict.fromkeys(one for texts in split for text in texts for one in text))
        found = dict(zip(all_of, vectors.of(all_of, TextWindow.WHOLE), strict=True))
        embedded = [[np.stack([found[one] for one in text]) for text in texts] for texts in split]
        return np.array([1 - (new @ known.T).max(axis=1).mean() for new, known in embedded])

    return novelty


def _sentences_of(text: str) -> list[str]:
    return [one for one in re.split(r"(?<=[.!?])\s+|\n+", text) if len(one) >= 20] or [text or " "]


def _tfidf_per_prompt(pairs: list[tuple[Problem, str, str]]) -> Values:
    """The same distance as `_tfidf`, with the words of each problem and its four solutions alone."""
    values = np.zeros(len(pairs))
    places: dict[str, list[int]] = {}
    for place, (problem, _, _) in enumerate(pairs):
        places.setdefault(problem["id"], []).append(place)
    for own in places.values():
        problem = pairs[own[0]][0]
        model = TfidfVectorizer(sublinear_tf=True).fit([problem["problem"], *problem["texts"].values()])
        new, known = (model.transform([pairs[place][side] for place in own]) for side in (1, 2))
        values[own] = 1 - np.asarray(new.multiply(known).sum(axis=1)).ravel()
    return values


def _tfidf(pairs: list[tuple[Problem, str, str]]) -> Values:
    """Cosine distance of TF-IDF vectors over all texts given: what a metric of ours has to beat."""
    texts = [text for pair in pairs for text in pair[1:]]
    found = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    return 1 - np.asarray(found[::2].multiply(found[1::2]).sum(axis=1)).ravel()


def _ngram_count(pairs: list[tuple[Problem, str, str]]) -> Values:
    return np.array([_ngram_novelty(new, known) for _, new, known in pairs])


def _ngram_novelty(new: str, known: str) -> float:
    """Bigrams of words, since the metric takes tokens of any tokenizer."""
    places = {word: place for place, word in enumerate(dict.fromkeys((new + " " + known).split()))}
    both = [
        metrics.ngrams(np.array([places[word] for word in text.split()], dtype=np.int32), 2)
        for text in (new, known)
    ]
    return metrics.ngram_novelty(both[0], {gram: both[1].count(gram) for gram in both[1]})


def quality(problems: list[Problem], novelty: Novelty) -> dict[str, list[float]]:
    """Return each figure with its interval: value, lower end, upper end."""
    pairs = [(p, p["texts"][new], p["texts"][known]) for p in problems for known in NAMES for new in NAMES]
    table = novelty(pairs).reshape(len(problems), 4, 4)  # [problem, known, new]
    paraphrase, others = (1, 0, 3, 2), ((2, 3), (2, 3), (0, 1), (0, 1))
    above = np.array(
        [[_above(row[m, o], row[m, paraphrase[m]]) for m in range(4) for o in others[m]] for row in table]
    )
    nearer = np.array([[_above(row[2, 1], row[0, 1]), _above(row[0, 3], row[2, 3])] for row in table])
    paid, worth = table[:, 0, 1], table[:, 0, 2:].mean(axis=1)
    return {
        "different_above": _interval(above.mean(axis=1)),
        "different_above_a1": _interval(above[:, :2].mean(axis=1)),
        "retrieval": _interval(nearer.mean(axis=1)),
        "paraphrase_pays": _interval(paid, worth),
    }


def _above(larger: float, smaller: float) -> float:
    return float(larger > smaller) + 0.5 * float(larger == smaller)


def _interval(values: Values, divisors: Values | None = None) -> list[float]:
    """Return the mean (or ratio of means) and the ends of its bootstrap interval over the problems."""
    rows = np.random.default_rng(0).integers(0, len(values), (SAMPLES, len(values)))
    divided = np.ones(len(values)) if divisors is None else divisors
    samples = values[rows].mean(axis=1) / np.maximum(divided[rows].mean(axis=1), 1e-9)
    middle = values.mean() / max(divided.mean(), 1e-9)
    return [round(float(x), 3) for x in (middle, *np.percentile(samples, [2.5, 97.5]))]


_WORDS = (
    "apple river stone candle winter garden silver mountain pocket ladder yellow music pepper tunnel"
    " basket ocean feather copper village market shadow blanket thunder violin harbor cotton meadow"
    " lantern spider ribbon castle orange pencil wagon forest button helmet island carpet dragon"
    " engine falcon ginger hammer jacket kettle lemon magnet needle onion parrot quartz rabbit saddle"
    " turtle umbrella velvet walnut zebra anchor bridge cactus dolphin ember fountain glacier honey"
    " insect jungle kitten lizard mirror nephew oyster planet"
)
WORD_LIST = _WORDS.split()
KHMER = "ដំណោះស្រាយនេះគឺត្រឹមត្រូវ យើងគណនាជាជំហានៗ ហើយទទួលបានចម្លើយ"
EMOJI = "🎉🔥🚀🍕🌈🐙🎲🧩🪄🦊" * 8
CHECK = (
    "Let me check this again. I go through each step once more, from the beginning to the end. Every step is"
    " justified, no case was forgotten, and the arithmetic is right. So the result stands."
)
ENDING = " ".join(f"{CHECK} This was check number {word}." for word in WORD_LIST[:9])
SYNONYMS = (
    ("First,", "To begin with,"), ("Hence", "Therefore"), ("Therefore", "So"), ("we get", "we obtain"),
    ("Next,", "After that,"), ("Finally,", "At last,"), (" is ", " equals "), ("Let us", "Let's"),
    ("gives", "yields"), (" so ", " and so "), ("Then", "Now"), ("total", "sum"),
)  # fmt: skip


FILLER = (
    "Okay, let me think about this carefully before I start. The question looks harder than it is, and it"
    " helps to be patient with it. I will keep the goal in mind and take it one step at a time. It is good to"
    " remember what we are asked for, since that is easy to forget. With this in mind, let us now go on."
)
METHODS = (
    "We could use induction, or symmetry, or the pigeonhole principle, or similar triangles. We could use"
    " generating functions, or a recursion, or the complement, or inclusion and exclusion. We could use"
    " coordinates, vectors, modular arithmetic, Vieta's formulas, or a telescoping sum."
)
TRANSLATED = (
    "Zuerst überlegen wir, was gesucht ist, und gehen dann Schritt für Schritt vor. Vérifions maintenant que"
    " tout cela est correct avant de continuer. Primero pensamos bien en lo que nos piden."
    " 我们先仔细看一下题目。"
)
_FUNCTION_LIST = "the of and to in that it is was for on as with be by at this which from or had not are but"
_FUNCTION = _FUNCTION_LIST.split()
_UNIT_LIST = "zero one two three four five six seven eight nine ten eleven twelve"
_UNITS = _UNIT_LIST.split()


def farmed(problem: Problem, other: Problem, far: Problem) -> dict[str, str]:
    """Return texts without a new way, by name of the change: no solutions, and changed A1 and A2.

    Args:
        problem: The problem whose solution A1 is known.
        other: Another problem of the same topic, whose solution is stuffed into this one's.
        far: A problem of another topic, likewise.
    """
    chance = random.Random(problem["id"])
    texts = problem["texts"]
    _, answer = _parts(texts["A1"])
    box = "$" + answer.split("$")[0].split("\\)")[0] + "$"
    foreign, _ = _parts(other["texts"]["A1"])
    alone = {
        "box alone": "",
        "100 random words and the box": _random_words(100, chance),
        "100 random words with function words and the box": _prose(100, chance),
        "12 true equations and the box": _facts(chance),
        "12 true equations with the problem's numbers and the box": _own_facts(problem, chance),
        "3 true equations and the box": _few(_facts(chance)),
        "3 true equations with the problem's numbers and the box": _few(_own_facts(problem, chance)),
        "the problem and the box": problem["problem"],
        "the problem with words around it, an equation that leads to the answer, and the box": (
            f"{_filled_up(problem)} {_closing(problem)}"
        ),
        "the problem with words around it, two equations that lead to the answer, and the box": (
            f"{_filled_up(problem)} {_closing(problem, 17)}"
        ),
        "the problem with words around it and the box": _filled_up(problem),
        "another problem's solution and the box": foreign,
        "another problem's solution with these numbers and the box": _with_numbers_of(
            problem, foreign, chance
        ),
        "12 symbolic equations and the box": _symbolic(chance),
        "another problem's solution, an equation that leads to the answer, and the box": (
            f"{foreign} {_closing(problem)}"
        ),
        "another problem's solution, two equations that lead to the answer, and the box": (
            f"{foreign} {_closing(problem, 17)}"
        ),
        "another problem's solution, the answer in a sentence, and the box": (
            f"{foreign} So the answer is ${problem['answer']}$."
        ),
        "names of methods and the box": METHODS,
        "its own words in any order and the box": " ".join(
            sorted(_parts(texts["A1"])[0].split(), key=lambda _: chance.random())
        ),
        "Khmer text and the box": KHMER,
        "emoji and the box": EMOJI,
    }
    made = {name: f"{noise} {box}".strip() for name, noise in alone.items()}
    for name in ("A1", "A2"):
        changed = _changed(texts[name], problem, other, far)
        made |= {f"{name}: {change}": text for change, text in changed.items()}
    return made


def _changed(text: str, problem: Problem, other: Problem, far: Problem) -> dict[str, str]:
    """Return a solution changed without a new way, by name of the change."""
    chance = random.Random(problem["id"] + text[:9])
    body, answer = _parts(text)
    other_body, _ = _parts(other["texts"]["B1"])
    far_body, _ = _parts(far["texts"]["B1"])
    sentences, other_sentences = (re.split(r"(?<=[.!?])\s+|\n+", one) for one in (body, other_body))
    kept = [sentence for place, sentence in enumerate(sentences) if place % 2 == 0]
    half = " ".join(kept)
    facts, noise = _facts(chance), _random_words(100, chance)
    numbers = [chance.randrange(10, 5000) for _ in range(60)]
    code = "\n".join(f"x{i} = {a} * {b}  # {a * b}" for i, (a, b) in enumerate(_pairs(chance)))
    table = "\n".join(f"| {a} | {b} | {a * b} |" for a, b in _pairs(chance))
    spread = " ".join(
        f"{s} {f}" for s, f in itertools.zip_longest(sentences, facts.split("  "), fillvalue="")
    )
    return {
        "unchanged": text,
        "100 random words first": f"{noise}. {text}",
        "100 random words with function words first": f"{_prose(100, chance)} {text}",
        "100 random words behind the box": f"{text}\n\n{noise}",
        "400 random words behind the box": f"{text}\n\n{_random_words(400, chance)}",
        "re-verified three times": f"{body}\n{CHECK}\n{CHECK}\nOnce more: {CHECK}\n{answer}",
        "fillers": f"{FILLER} {body} {FILLER.replace('Okay', 'Now')} {answer}",
        "fillers in other languages": f"{TRANSLATED} {body} {TRANSLATED} {answer}",
        "mathematics reformatted": _reformatted(text),
        "LaTeX made plain": _plain(text),
        "digits as words": re.sub(r"(?<![\d.,])\d\d?(?![\d.,])", _as_word, body) + answer,
        "variables renamed": re.sub(r"(?<![A-Za-z\\])[b-zB-HJ-Z](?![A-Za-z])", _other_letter, body) + answer,
        "harmless changes combined": _reformatted(
            _reworded(f"Okay, let me think about this.\n\n{text}\n\nDone.")
        ),
        "sentences shuffled": " ".join(chance.sample(sentences, len(sentences))) + f" {answer}",
        "numbers in boxes": re.sub(r"= *(\d+)(?![\d.,])", r"= \\boxed{\1}", body) + answer,
        "paragraphs repeated": f"{body}\n\n{body}\n\n{body}{answer}",
        "problem restated": f"The problem says: {problem['problem']}\n\n{text}",
        "60 numbers": f"{body} {' '.join(map(str, numbers))}. {answer}",
        "a table of numbers": f"{body}\n{table}\n{answer}",
        "a code block": f"{body}\n```python\n{code}\n```\n{answer}",
        "3 true equations": f"{body} {_few(facts)} {answer}",
        "12 true equations": f"{body} {facts} {answer}",
        "12 true equations, spread": f"{spread} {answer}",
        "12 true equations in one sentence": f"{body} {_joined(facts)} {answer}",
        "12 true equations with the problem's numbers": f"{body} {_own_facts(problem, chance)} {answer}",
        "6 round trips": f"{body} {_round_trips(problem, chance)} {answer}",
        "half of it and 12 true equations": f"{half} {facts} {answer}",
        "half of it and 12 with the problem's numbers": f"{half} {_own_facts(problem, chance)} {answer}",
        "another problem's solution first": f"{other_body}\n\n{text}",
        "another problem's solution before the box": f"{body}\n\n{other_body}\n\n{answer}",
        "12 symbolic equations": f"{body} {_symbolic(chance)} {answer}",
        "names of methods": f"{METHODS} {text}",
        "6 round trips on its own numbers": f"{body} {_own_trips(body, chance)} {answer}",
        "6 long round trips on its own numbers": f"{body} {_long_trips(body, chance)} {answer}",
        "results split": re.sub(r"= *(\d+)(?![\d.,])", _split, body) + answer,
        "times one": re.sub(r"= *(\d+)(?![\d.,])", r"= 1 \\cdot \1 = \1", body) + answer,
        "another problem's solution, sentence by sentence": " ".join(
            f"{own} {foreign}"
            for own, foreign in itertools.zip_longest(sentences, other_sentences, fillvalue="")
        )
        + f" {answer}",
        "another problem's solution with these numbers": (
            f"{_with_numbers_of(problem, other_body, chance)}\n\n{text}"
        ),
        "a solution of another topic first": f"{far_body}\n\n{text}",
        "half of it and another problem's solution": f"{half}\n\n{other_body}\n\n{answer}",
    }


def _filled_up(problem: Problem) -> str:
    """Return the sentences of a problem among words that say nothing, so that none is only the problem's."""
    first, *others = re.split(r"(?<=[.?!])\s+", problem["problem"])
    rest = (f"And now we also know, or want to know, that or whether {_small(each)}" for each in others)
    return " ".join([f"So, as we can see and as we should keep in mind here, {_small(first)}", *rest])


def _small(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _parts(text: str) -> tuple[str, str]:
    """Return what is before the last box, and the rest."""
    start = max(text.rfind("\\boxed"), 0)
    return text[:start], text[start:]


def _random_words(count: int, chance: random.Random) -> str:
    return " ".join(chance.choices(WORD_LIST, k=count))


def _prose(count: int, chance: random.Random) -> str:
    """Return sentences of random words of which a third are function words."""
    words = [chance.choice(_FUNCTION if chance.random() < 0.35 else WORD_LIST) for _ in range(count)]
    return " ".join(" ".join(words[i : i + 10]).capitalize() + "." for i in range(0, count, 10))


def _pairs(chance: random.Random) -> list[tuple[int, int]]:
    return [(chance.randrange(99), chance.randrange(99)) for _ in range(12)]


def _facts(chance: random.Random) -> str:
    return "  ".join(f"Note that ${a} + {b} = {a + b}$." for a, b in _pairs(chance))


def _few(facts: str) -> str:
    return "  ".join(facts.split("  ")[:3])


def _joined(facts: str) -> str:
    return facts.replace(".  Note that", " and")


def _own_facts(problem: Problem, chance: random.Random) -> str:
    """Return true equations of a number of the problem and another number."""
    given = [int(number) for number in re.findall(r"\d{1,6}", problem["problem"])] or [2]
    pairs = [(chance.choice(given), chance.choice([*given, b])) for _, b in _pairs(chance)]
    signs = [chance.choice("+*") for _ in pairs]
    return "  ".join(
        f"We have ${a} {sign} {b} = {a + b if sign == '+' else a * b}$."
        for (a, b), sign in zip(pairs, signs, strict=True)
    )


def _round_trips(problem: Problem, chance: random.Random) -> str:
    """Return equations that start from a number of the problem and come back to it."""
    given = [int(number) for number in re.findall(r"\d{1,6}", problem["problem"])] or [2]
    pairs = [(chance.choice(given), b + 2) for _, b in _pairs(chance)[:6]]
    return "  ".join(f"Here ${a} + {b} = {a + b}$ and ${a + b} - {b} = {a}$." for a, b in pairs)


def _own_trips(body: str, chance: random.Random) -> str:
    """Return equations that start from a number of the solution and come back to it."""
    starts = [int(number) for number in re.findall(r"\d{1,6}", body)] or [2]
    pairs = [(chance.choice(starts), chance.randrange(2, 99)) for _ in range(6)]
    return "  ".join(f"Here ${a} + {b} = {a + b}$ and ${a + b} - {b} = {a}$." for a, b in pairs)


def _long_trips(body: str, chance: random.Random) -> str:
    """Return the same, over three equations."""
    starts = [int(number) for number in re.findall(r"\d{1,6}", body)] or [2]
    trips = [(chance.choice(starts), chance.randrange(2, 99), chance.randrange(2, 99)) for _ in range(6)]
    return "  ".join(
        f"Now ${a} + {b} = {a + b}$, then ${a + b} + {c} = {a + b + c}$, and ${a + b + c} - {b + c} = {a}$."
        for a, b, c in trips
    )


def _symbolic(chance: random.Random) -> str:
    """Return equations of variables and small numbers."""
    sides = [
        f"{chance.choice('abcdxyz')} {chance.choice('+-*/^')} {chance.randrange(2, 30)}" for _ in range(24)
    ]
    return "  ".join(f"Let ${left} = {right}$." for left, right in zip(sides[::2], sides[1::2], strict=True))


def _split(match: "re.Match[str]") -> str:
    value = int(match[1])
    return f"= {value // 2} + {value - value // 2} = {value}"


def _with_numbers_of(problem: Problem, text: str, chance: random.Random) -> str:
    """Return the text with a number of the problem in the place of each of its own."""
    given = re.findall(r"\d{1,6}", problem["problem"]) or ["2"]
    return re.sub(r"\d+", lambda _: chance.choice(given), text)


def _closing(problem: Problem, added: int = 0) -> str:
    """Return a true equation from a number of the problem to its answer, "" if that is no integer.

    With `added`, that is added first, in an equation of its own.
    """
    given = [int(number) for number in re.findall(r"\d{1,6}", problem["problem"])] or [2]
    start = given[0] + added
    try:
        rest = int(problem["answer"]) - start
    except ValueError:
        return ""
    before = f"Now ${given[0]} + {added} = {start}$. " if added else ""
    return f"{before}So ${start} {'+' if rest > 0 else '-'} {abs(rest)} = {problem['answer']}$."


def _as_word(match: "re.Match[str]") -> str:
    value = int(match[0])
    return _UNITS[value] if value < len(_UNITS) else match[0]


def _other_letter(match: "re.Match[str]") -> str:
    first = ord("A" if match[0].isupper() else "a")
    return chr(first + (ord(match[0]) - first + 7) % 26)


def _plain(text: str) -> str:
    """Return the text with LaTeX turned into plain mathematics, save for the box."""
    body, answer = _parts(text)
    body = re.sub(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1)/(\2)", body)
    body = re.sub(r"\\sqrt\{([^{}]*)\}", r"sqrt(\1)", body)
    for old, new in (("\\cdot", "*"), ("\\times", "*"), ("\\div", "/"), ("\\ge", ">="), ("\\le", "<=")):
        body = body.replace(old, new)
    body = re.sub(r"\\[a-zA-Z]+|\\[()\[\],;]|[${}]", " ", body)
    return body + ("$" if answer.count("$") % 2 else "") + answer


def _reformatted(text: str) -> str:
    for old, new in (
        ("\\cdot", "\\times"),
        ("\\frac", "\\dfrac"),
        ("\\(", "$"),
        ("\\)", "$"),
        (" = ", "="),
        ("·", "×"),
    ):
        text = text.replace(old, new)
    return text


def _reworded(text: str) -> str:
    for old, new in SYNONYMS:
        text = text.replace(old, new)
    return text


def farming(problems: list[Problem], novelty: Novelty) -> dict[str, list[float]]:
    """Return what each change pays of a new approach, with its interval."""
    rows: dict[str, list[tuple[Problem, str, str]]] = {}
    for problem, texts in zip(problems, _all_farmed(problems), strict=True):
        for name, text in texts.items():
            rows.setdefault(name, []).append((problem, text, problem["texts"]["A1"]))
    rows["A2, then B1: two ways"] = [
        (p, f"{_parts(p['texts']['A2'])[0]}\n\nAnother way. {p['texts']['B1']}", p["texts"]["A1"])
        for p in problems
    ]
    rows["same long ending, different way"] = [
        (p, _with_ending(p["texts"]["B1"]), _with_ending(p["texts"]["A1"])) for p in problems
    ]
    real = [(p, p["texts"][new], p["texts"]["A1"]) for p in problems for new in ("B1", "B2")]
    # All at once: texts of one length, which are embedded together, are found in all rows.
    found = novelty([*real, *itertools.chain(*rows.values())])
    worth = found[: len(real)].reshape(-1, 2).mean(axis=1)
    paid = found[len(real) :].reshape(len(rows), len(problems))
    return {name: _interval(row, worth) for name, row in zip(rows, paid, strict=True)}


def _all_farmed(problems: list[Problem]) -> list[dict[str, str]]:
    others, half = problems[1:] + problems[:1], len(problems) // 2
    far = problems[half:] + problems[:half]
    return [farmed(*three) for three in zip(problems, others, far, strict=True)]


def _with_ending(text: str) -> str:
    start = text.rfind("\\boxed")
    return f"{text[:start]}\n{ENDING}\n{text[start:]}"


def flagged(problems: list[Problem]) -> dict[str, float]:
    """Return the share of texts with a `suspicious` flag: of the solutions, and by kind of change."""
    solutions = _derivations((p, text) for p in problems for text in p["texts"].values())
    shares = {"solutions": float(np.mean([bool(one.suspicious) for one in solutions]))}
    changed = list(zip(problems, _all_farmed(problems), strict=True))
    for name in changed[0][1]:
        found = _derivations((p, texts[name]) for p, texts in changed)
        shares[name] = float(np.mean([bool(one.suspicious) for one in found]))
    return {name: round(share, 3) for name, share in shares.items()}


def tables(report: dict[str, Any]) -> str:
    """Return the report as Markdown tables: metrics by figure, changes by metric, and the flags."""
    lines = [f"{report['problems']} problems\n"]
    for part, found in {"": report["metrics"], **report["parts"]}.items():
        lines += [f"Problems marked `{part}`:\n"] if part else []
        lines += _table("metric", {f"`{name}`": row for name, row in found.items()})
    names = list(report["farming"])
    rows = report["farming"][names[0]] if names else []
    lines += _table(
        "change", {row: {f"`{name}`": report["farming"][name][row] for name in names} for row in rows}
    )
    lines += ["| text | flagged as suspicious |", "|---|---|"]
    lines += [f"| {name} | {share:.2f} |" for name, share in report["flagged"].items()]
    return "\n".join(lines)


def _table(corner: str, rows: dict[str, dict[str, list[float]]]) -> list[str]:
    if not rows:
        return []
    names = list(next(iter(rows.values())))
    lines = [f"| {corner} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for title, row in rows.items():
        cells = " | ".join(f"{row[name][0]:.2f} ({row[name][1]:.2f} to {row[name][2]:.2f})" for name in names)
        lines.append(f"| {title} | {cells} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
