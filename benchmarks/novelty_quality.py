"""Quality of the novelty metrics: does a different way score above a paraphrase, and does noise pay?

`extra-rl bench novelty-quality FILE --json`. FILE holds problems with two different correct approaches, A
and B, and two writings of each (A1, A2, B1, B2), as tests/data/novelty_problems.jsonl. For every metric:

- `different_above`: the memory holds one text; the share of comparisons in which a text of the other
  approach scores above the paraphrase (a tie counts half). All 8 comparisons a problem.
- `different_above_a1`: the same for memory {A1} alone: 2 comparisons a problem.
- `retrieval`: the memory holds A1 and B1; how often A2 and B2 lie nearer to the text of their own approach.
- `paraphrase_pays`: mean novelty of A2 over that of B1 and B2, memory {A1}.

The intervals are 95 % percentiles of 2000 bootstrap samples of the problems. `farming`: the memory holds
A1, and A1 is changed without a new way; its mean novelty over that of B1 and B2. In its last row A1 and B1
have the same long ending.

Vectors are kept in .cache/novelty_quality.npz, since embedding takes almost all of the time.
"""

import argparse
import hashlib
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extra_rl.vocabulary import TextWindow
from extra_services.memory.embedding import Embedder
from extra_services.novelty import metrics
from extra_services.novelty.derivation import (
    Derivation,
    derivation,
    derivation_novelty,
    sketch,
    statement,
)

CACHE = Path(".cache/novelty_quality.npz")
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
    parser.add_argument("--int8", type=Path, help="folder of the int8 model: measure that embedder as well")
    parser.add_argument("--no-farming", action="store_true", help="leave the farming table out")
    parser.add_argument("--metric", default="", help="only the metrics whose name starts so")
    arguments = parser.parse_args()
    problems = [json.loads(line) for line in arguments.file.read_text(encoding="utf-8").splitlines()]
    problems = [one for one in problems if arguments.split in (None, one.get("split"))]
    embedders = {"float32": Vectors(None)}
    if arguments.int8:
        embedders["int8"] = Vectors(arguments.int8)
    report: dict[str, Any] = {"problems": len(problems), "metrics": {}, "farming": {}}
    for name, novelty in scorers(embedders).items():
        if not name.startswith(arguments.metric):
            continue
        report["metrics"][name] = quality(problems, novelty)
        if not arguments.no_farming:
            report["farming"][name] = farming(problems, novelty)
    report["flagged"] = flagged(problems)
    for vectors in embedders.values():
        vectors.close()
    print(json.dumps(report) if arguments.json else tables(report))


class Vectors:
    """An embedder with a cache on disk."""

    def __init__(self, int8_folder: Path | None) -> None:
        self._folder = int8_folder
        self._embedder: Embedder | None = None
        self._known: dict[str, NDArray[np.float32]] = {}
        if CACHE.exists():
            with np.load(CACHE) as stored:
                self._known = {key: stored[key] for key in stored.files}

    def of(self, texts: list[str], window: TextWindow) -> NDArray[np.float32]:
        """Return the unit vectors, float32 [len(texts), d]."""
        keys = [self._key(text, window) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        if missing:
            self._embedder = self._embedder or Embedder("all-MiniLM-L6-v2", int8_folder=self._folder)
            found = self._embedder.embed(list(missing.values()), window)
            self._known |= dict(zip(missing, found, strict=True))
        return np.stack([self._known[key] for key in keys])

    def close(self) -> None:
        """Write the cache, and stop the embedder."""
        if self._embedder is not None:
            self._embedder.close()
            CACHE.parent.mkdir(exist_ok=True)
            with np.load(CACHE) if CACHE.exists() else _Empty() as stored:
                others = {key: stored[key] for key in stored.files if key not in self._known}
            np.savez(CACHE, **others, **self._known)  # type: ignore[arg-type]

    def _key(self, text: str, window: TextWindow) -> str:
        kind = "int8" if self._folder else "float32"
        return hashlib.blake2b(f"{kind} {window} {text}".encode(), digest_size=16).hexdigest()


class _Empty:
    """A cache file that is not there yet."""

    files: tuple[str, ...] = ()

    def __enter__(self) -> "_Empty":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getitem__(self, key: str) -> NDArray[np.float32]:
        raise KeyError(key)


def scorers(embedders: dict[str, Vectors]) -> dict[str, Novelty]:
    """Return the metrics by name. With a memory of one solution, `mean_cosine` is the metric `embedding`."""
    made: dict[str, Novelty] = {}
    for kind, vectors in embedders.items():
        for window in (TextWindow.REFERENCE, TextWindow.WHOLE):
            made[f"embedding {window} {kind}"] = _embedding(vectors, window)
            made[f"cluster_size {window} {kind}"] = _cluster_size(vectors, window)
        made[f"derivation {kind}"] = _derivation(vectors)
    return {"ngram_count": _ngram_count} | made


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


def _derivation(vectors: Vectors) -> Novelty:
    def novelty(pairs: list[tuple[Problem, str, str]]) -> Values:
        new = _derivations((problem, text) for problem, text, _ in pairs)
        known = _derivations((problem, text) for problem, _, text in pairs)
        texts = [one.text or " " for one in new + known]
        embedded = vectors.of(texts, TextWindow.WHOLE)
        similarity = np.einsum("ij,ij->i", embedded[: len(new)], embedded[len(new) :])[:, None]
        present = np.array([[not one.empty] for one in known])
        found, _ = derivation_novelty(
            similarity,
            np.stack([sketch(one) for one in new]),
            np.stack([[sketch(one)] for one in known]),
            present,
        )
        return np.where([one.empty for one in new], 0.0, found)

    return novelty


def _derivations(solutions: Iterable[tuple[Problem, str]]) -> list[Derivation]:
    return [
        derivation(text, statement(problem["problem"], str(problem["answer"]))) for problem, text in solutions
    ]


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


def farmed(problem: Problem) -> dict[str, str]:
    """Return A1 changed without a new way, and texts that are no solution at all, by name of the change."""
    text = str(problem["texts"]["A1"])
    chance = random.Random(problem["id"])
    start = max(text.rfind("\\boxed"), 0)
    box = "$" + text[start:].split("$")[0].split("\\)")[0] + "$"
    noise = " ".join(chance.choices(WORD_LIST, k=100))
    numbers = " ".join(str(chance.randrange(10, 5000)) for _ in range(60))
    pairs = [(chance.randrange(99), chance.randrange(99)) for _ in range(12)]
    facts = " ".join(f"Note that ${a} + {b} = {a + b}$." for a, b in pairs)
    body, answer = text[:start], text[start:]
    paraphrase = str(problem["texts"]["A2"])
    paragraphs = f"{body}\n\n{body}\n\n{body}{answer}"
    return {
        "the same text": text,
        "box alone": box,
        "100 random words and the box": f"{noise} {box}",
        "100 random words, then the solution": f"{noise}. {text}",
        "re-verification three times": f"{body}\n{CHECK}\n{CHECK}\nOnce more: {CHECK}\n{answer}",
        "mathematics reformatted": _reformatted(text),
        "harmless changes combined": _reformatted(
            _reworded(f"Okay, let me think about this.\n\n{text}\n\nDone.")
        ),
        "100 random words behind the box": f"{text}\n\n{noise}",
        "400 random words behind the box": f"{text}\n\n" + " ".join(chance.choices(WORD_LIST, k=400)),
        "stuffed numbers": f"{body} {numbers}. {answer}",
        "stuffed true equations": f"{body} {facts} {answer}",
        "paraphrase with stuffed true equations": paraphrase.replace("\\boxed", f"{facts} \\boxed"),
        "paragraphs repeated": paragraphs,
        "problem restated": f"The problem says: {problem['problem']}\n\n{text}",
        "Khmer text and the box": f"{KHMER} {box}",
        "emoji and the box": f"{EMOJI} {box}",
    }


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
    changed = [farmed(problem) for problem in problems]
    real = novelty([(p, p["texts"][new], p["texts"]["A1"]) for p in problems for new in ("B1", "B2")])
    worth = real.reshape(-1, 2).mean(axis=1)
    rows = {
        name: _interval(
            novelty([(p, texts[name], p["texts"]["A1"]) for p, texts in zip(problems, changed, strict=True)]),
            worth,
        )
        for name in changed[0]
    }
    ended = [tuple(_with_ending(p["texts"][name]) for name in ("B1", "A1")) for p in problems]
    same = novelty([(p, new, known) for p, (new, known) in zip(problems, ended, strict=True)])
    return rows | {"same long ending, different way": _interval(same, worth)}


def _with_ending(text: str) -> str:
    start = text.rfind("\\boxed")
    return f"{text[:start]}\n{ENDING}\n{text[start:]}"


def flagged(problems: list[Problem]) -> dict[str, float]:
    """Return the share of texts with a `suspicious` flag: of the solutions, and by kind of change."""
    solutions = _derivations((p, text) for p in problems for text in p["texts"].values())
    shares = {"solutions": float(np.mean([bool(one.suspicious) for one in solutions]))}
    changed = [(p, farmed(p)) for p in problems]
    for name in changed[0][1]:
        found = _derivations((p, texts[name]) for p, texts in changed)
        shares[name] = float(np.mean([bool(one.suspicious) for one in found]))
    return {name: round(share, 3) for name, share in shares.items()}


def tables(report: dict[str, Any]) -> str:
    """Return the report as Markdown tables: metrics by figure, changes by metric, and the flags."""
    lines = [f"{report['problems']} problems\n"]
    lines += _table("metric", {f"`{name}`": row for name, row in report["metrics"].items()})
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
