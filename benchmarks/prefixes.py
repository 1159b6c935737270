"""CPU seconds of embedding prefixes, and whether the prefix selected is as good: `extra-rl bench prefixes`.

Four ways are compared: each prefix by itself or all of a rollout in one pass, with torch or as int8. The
rollouts are those of a recorded run, with their entropies, or responses to problems of mathematics (a JSONL
file with a field for the text), with random entropy curves. A prefix is selected among those of its rollout
by smoothed entropy. `same` is the share of rollouts for which a way selects the prefix that the exact way
with torch does, `place` the mean place of its choice in the exact ranking (0 first, 1 last), and `loss` the
smoothed entropy given away by it, as a share of the range over the prefixes. The row `random` chooses at
random; `own` by each prefix's own entropy, without any vectors.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from extra_rl.vocabulary import TextWindow
from extra_services.memory.embedding import Embedder
from extra_services.prefix.selection import DEFAULT_TAU, smoothed_entropies
from extra_services.prefix.splitting import MAX_PREFIXES
from extra_trainer.runs.folder import RunFolder

#: Rollouts and, where their entropies are random, curves for each.
ROLLOUTS, CURVES = 30, 20
MODEL = "all-MiniLM-L6-v2"

Vectors = NDArray[np.float32]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """A rollout's text, where its prefixes end, and curves of their mean entropies, [curves, prefixes]."""

    text: str
    ends: list[int]
    curves: Values


def boundaries(text: str, least: int) -> list[int]:
    """Return where prefixes end: behind newlines, at least `least` characters apart, without the last."""
    kept: list[int] = []
    for place in (place + 1 for place, character in enumerate(text) if character == "\n"):
        if not kept or place - kept[-1] >= least:
            kept.append(place)
    kept = kept[:-1]
    if len(kept) > MAX_PREFIXES:
        kept = [kept[i * len(kept) // MAX_PREFIXES] for i in range(MAX_PREFIXES)]
    return kept


def recorded(run: Path, count: int) -> list[Split]:
    """Return rollouts of a run whose tokens are characters, as the rehearsal's, that are not guided."""
    found: list[Split] = []
    seen: set[str] = set()
    for _, records in RunFolder(run).read_rollouts():
        for record in records:
            ends = boundaries(record.text, 8)
            if record.guided or record.text in seen or len(ends) < 3 or len(record.entropies) < ends[-1]:
                continue
            seen.add(record.text)
            means = np.cumsum(record.entropies.astype(np.float64)) / np.arange(1, len(record.entropies) + 1)
            found.append(Split(record.text, ends, means[np.array(ends) - 1][None]))
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))[:count]]


def responses(path: Path, field: str, count: int) -> list[Split]:
    """Return responses of a file, each with random walks as entropy curves."""
    random, found = np.random.default_rng(0), []
    for line in path.read_text().splitlines():
        text = json.loads(line)[field]
        ends = boundaries(text, 100)
        if len(ends) >= 3:
            walks = 0.4 + np.cumsum(random.normal(0, 0.05, (CURVES, len(ends))), axis=1)
            found.append(Split(text, ends, np.abs(walks)))
    return found[:count]


def embed_all(embedder: Embedder, splits: Sequence[Split], one_pass: bool) -> list[Vectors]:
    """Return the vectors of the prefixes of each rollout."""
    texts, ends = [split.text for split in splits], [split.ends for split in splits]
    if one_pass:
        return embedder.embed_prefixes(texts, ends)
    cut = [text[:end] for text, some in zip(texts, ends, strict=True) for end in some]
    return np.split(embedder.embed(cut, TextWindow.REFERENCE), np.cumsum([len(some) for some in ends])[:-1])


def compared(exact: Values, chosen: int) -> tuple[float, float, float]:
    """Return whether a choice is the exact one, its place and its loss, by the exact smoothed entropies."""
    spread = float(exact.max() - exact.min())
    place = float((exact < exact[chosen]).sum()) / (len(exact) - 1)
    loss = float(exact[chosen] - exact.min()) / spread if spread else 0.0
    return float(chosen == exact.argmin()), place, loss


def quality(splits: Sequence[Split], reference: list[Vectors], choose: Callable[[int, Values], int]) -> Any:
    """Return the means of `compared` over all curves of all rollouts."""
    rows = [
        compared(smoothed_entropies(reference[i], curve, DEFAULT_TAU), choose(i, curve))
        for i, split in enumerate(splits)
        for curve in split.curves
    ]
    return dict(zip(("same", "place", "loss"), np.mean(rows, axis=0).round(3).tolist(), strict=True))


def measure(splits: list[Split], onnx: Path) -> dict[str, Any]:
    """Return the figures of all ways for some rollouts."""
    figures: dict[str, Any] = {}
    vectors: dict[str, list[Vectors]] = {}
    for backend, folder in (("torch", None), ("int8", onnx)):
        embedder = Embedder(MODEL, "cpu", int8_folder=folder, threads=1)
        embedder.embed(["to warm up"])
        for way in ("exact", "one_pass"):
            started = time.process_time()
            vectors[f"{backend}_{way}"] = embed_all(embedder, splits, way == "one_pass")
            figures[f"{backend}_{way}"] = {"cpu_seconds": round(time.process_time() - started, 3)}
        embedder.close()
    reference, random = vectors["torch_exact"], np.random.default_rng(0)

    def by(found: list[Vectors]) -> Callable[[int, Values], int]:
        return lambda i, curve: int(smoothed_entropies(found[i], curve, DEFAULT_TAU).argmin())

    for name, found in vectors.items():
        cosines = np.concatenate([(a * b).sum(axis=1) for a, b in zip(found, reference, strict=True)])
        figures[name] |= {"mean_cosine": round(float(cosines.mean()), 4)} | quality(
            splits, reference, by(found)
        )
    figures["own"] = quality(splits, reference, lambda i, curve: int(curve.argmin()))
    figures["random"] = quality(splits, reference, lambda i, curve: int(random.integers(len(curve))))
    prefixes = sum(len(split.ends) for split in splits)
    return {"rollouts": len(splits), "prefixes": prefixes, **figures}


def main(arguments: list[str]) -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(prog="extra-rl bench prefixes", description=__doc__)
    parser.add_argument("--run", type=Path, help="folder of a recorded rehearsal")
    parser.add_argument("--responses", type=Path, help="JSONL file of responses")
    parser.add_argument("--field", default="response", help="the field of it that has the text")
    parser.add_argument("--rollouts", type=int, default=ROLLOUTS, help="rollouts of each")
    parser.add_argument("--onnx", type=Path, help="where the int8 model is, or is kept")
    parser.add_argument("--json", action="store_true", help="accepted for all benchmarks; always JSON")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        onnx = chosen.onnx or Path(folder)
        if chosen.run is not None:
            figures["recorded"] = measure(recorded(chosen.run, chosen.rollouts), onnx)
        if chosen.responses is not None:
            splits = responses(chosen.responses, chosen.field, chosen.rollouts)
            figures["responses"] = measure(splits, onnx)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
