"""The inspector with a live novelty service: the same map as from the run's store, and stored prefixes."""

import json
import shutil
from pathlib import Path

import pytest

from extra_client import embedded
from extra_inspector.index import Index, Query
from extra_inspector.memories import LiveMemories, StoredMemories
from extra_trainer.runs.folder import RunFolder
from support.inspector_server import DEMO


def test_the_map_of_a_live_service_is_that_of_the_store(tmp_path: Path) -> None:
    index = Index.of(RunFolder(DEMO), tmp_path / "cache")
    index.update()
    novel = index.rollouts(Query(show="novel"))[0][0]
    prompt = novel.prompt_id
    texts = {number: solution.rollout.text for number, solution in index.solutions(prompt).items()}
    stored = StoredMemories(index.folder).map(prompt, texts)
    shutil.copytree(DEMO / "memory", tmp_path / "memory")
    with embedded.start("novelty", data_folder=tmp_path / "memory", threads=1) as service:
        live = LiveMemories(service.target, index.folder.identity())
        asked = live.map(prompt, texts)
        assert asked.numbers == stored.numbers
        assert asked.similarity == pytest.approx(stored.similarity, abs=1e-4)
        assert asked.explained == pytest.approx(stored.explained, abs=1e-3)
        choices = [json.loads(line) for path in (DEMO / "prefixes").iterdir() for line in path.open()]
        hard = next(choice for choice in choices if choice["candidates"])
        known = {prefix.prefix_id for prefix in live.prefixes(hard["prompt_id"])}
        assert {candidate["prefix_id"] for candidate in hard["candidates"]} <= known | {""}
