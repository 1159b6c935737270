"""The reference implementation's novelties, reproduced through the domain and its durable store."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from extra_rl.vocabulary import MemoryPolicy, Metric, Scale
from extra_services.memory.memory import Memory
from extra_services.memory.records import NamespaceSettings
from extra_services.memory.sqlite_store import SqliteStore
from extra_services.novelty.metrics import policy_surprise
from extra_services.novelty.request import GroupScores, RolloutGroup, ScoringOptions
from extra_services.novelty.scoring import NoveltyScorer

#: Spacing of float32 numbers just below 2: of a cosine similarity, twice the rounding error.
LAST_BIT = 2.0**-23


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _groups(call: dict[str, Any]) -> list[tuple[RolloutGroup, list[int]]]:
    """The call's rollouts by prompt, and the position of each in the call."""
    groups = []
    for prompt in dict.fromkeys(call["prompt_ids"]):
        rows = [row for row, of in enumerate(call["prompt_ids"]) if of == prompt]
        embeddings = np.array([call["embeddings"][row] for row in rows], dtype=np.float32)
        groups.append((RolloutGroup(prompt, np.ones(len(rows), dtype=bool), embeddings=embeddings), rows))
    return groups


def test_embedding_novelty_matches_the_reference(golden_folder: Path, tmp_path: Path) -> None:
    memory = Memory(SqliteStore(tmp_path), embedder=None)
    scorer = NoveltyScorer(memory)
    for case in _lines(golden_folder / "novelty_embedding.jsonl"):
        name = f"case-{case['scenario']}"
        memory.create_namespace(
            name,
            NamespaceSettings(case["memory_capacity"], case["min_history"], memory_policy=MemoryPolicy.ALL),
        )
        for call in case["calls"]:
            groups = _groups(call)
            options = ScoringOptions(scale=Scale.GROUP_MAX if case["normalize_per_group"] else Scale.RAW)
            answers, _ = scorer.score(name, [group for group, _ in groups], options)
            novelty, allowed = np.zeros(len(call["prompt_ids"])), np.full(len(call["prompt_ids"]), 1e-5)
            for answer, (_, rows) in zip(answers, groups, strict=True):
                assert isinstance(answer, GroupScores)
                novelty[rows] = answer.novelty
                # Dividing by a group's maximum of 0.003, as one call does, also magnifies the last bit in
                # which two float32 products of the same vectors may differ.
                allowed[rows] += LAST_BIT / answer.divisor if case["normalize_per_group"] else 0
            assert (np.abs(novelty - call["expected"]) <= allowed).all()
    memory.close()


def test_ngram_novelty_matches_the_reference(golden_folder: Path, tmp_path: Path) -> None:
    memory = Memory(SqliteStore(tmp_path), embedder=None)
    scorer = NoveltyScorer(memory)
    for case in _lines(golden_folder / "novelty_ngram.jsonl"):
        name = f"case-{case['scenario']}"
        memory.create_namespace(name, NamespaceSettings(memory_policy=MemoryPolicy.ALL, ngram_size=case["n"]))
        for call in case["calls"]:
            groups = []
            for prompt in dict.fromkeys(call["prompt_ids"]):
                rows = [row for row, of in enumerate(call["prompt_ids"]) if of == prompt]
                correct = np.array([call["correct"][row] for row in rows])
                ids = [np.array(call["token_ids"][row], dtype=np.int32) for row in rows]
                groups.append((RolloutGroup(prompt, correct, token_ids=ids), rows))
            answers, _ = scorer.score(
                name, [group for group, _ in groups], ScoringOptions(metric=Metric.NGRAM_COUNT)
            )
            novelty = np.zeros(len(call["prompt_ids"]))
            for answer, (_, rows) in zip(answers, groups, strict=True):
                assert isinstance(answer, GroupScores)
                novelty[rows] = answer.novelty
            np.testing.assert_allclose(novelty, call["expected"], atol=1e-5)
    memory.close()


def test_policy_surprise_matches_the_reference(golden_folder: Path) -> None:
    for case in _lines(golden_folder / "novelty_policy_surprise.jsonl"):
        prompts = np.array(case["prompt_ids"])
        logprobs = np.array(case["sequence_logprob"], dtype=np.float32)
        novelty = np.zeros(len(prompts))
        for prompt in set(case["prompt_ids"]):
            rows = np.flatnonzero(prompts == prompt)
            novelty[rows] = policy_surprise(logprobs[rows], np.array(case["correct"])[rows])
        np.testing.assert_allclose(novelty, case["expected"], atol=1e-5)
