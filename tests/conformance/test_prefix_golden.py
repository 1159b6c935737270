"""The reference implementation's prefixes and choices, reproduced."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extra_services.prefix.prefixes import EntropyRollout, most_confident
from extra_services.prefix.selection import smoothed_entropies
from extra_services.prefix.splitting import boundaries


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _rollout(case: dict[str, Any]) -> EntropyRollout:
    ids = np.array(case["token_ids"], dtype=np.int32)
    return EntropyRollout(ids, np.array(case["entropies"], dtype=np.float32), "", np.zeros_like(ids))


def test_the_most_confident_rollout_is_split_as_the_reference_does(golden_folder: Path) -> None:
    for case in _lines(golden_folder / "prefix_split.jsonl"):
        rollouts = [_rollout(rollout) for rollout in case["rollouts"]]
        chosen = rollouts[most_confident(rollouts)]
        lengths = boundaries(chosen.token_ids, case["newline_token_ids"], 32)
        assert lengths == [prefix["length"] for prefix in case["expected_prefixes"]]
        means = [float(np.mean(chosen.entropies[:length])) for length in lengths]
        assert means == pytest.approx([p["mean_entropy"] for p in case["expected_prefixes"]], abs=1e-5)


def test_the_prefix_of_lowest_smoothed_entropy_is_the_references(golden_folder: Path) -> None:
    for case in _lines(golden_folder / "prefix_selection.jsonl"):
        ring = case["entries"][-case["capacity"] :]
        vectors = np.array([entry["embedding"] for entry in ring], dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        entropies = np.array([entry["mean_entropy"] for entry in ring])
        smoothed = smoothed_entropies(vectors, entropies, case["tau"])
        chosen = int(smoothed.argmin())
        assert chosen + len(case["entries"]) - len(ring) == case["expected_index"]
        assert smoothed[chosen] == pytest.approx(case["expected_smoothed_entropy"], abs=1e-5)
