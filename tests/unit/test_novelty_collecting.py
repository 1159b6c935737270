"""Groups that arrive sample by sample, in a known order; through a server the network decides the order."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extra_services.errors import InvalidInput
from extra_services.memory.memory import Memory
from extra_services.memory.records import NamespaceSettings
from extra_services.memory.sqlite_store import SqliteStore
from extra_services.novelty.collecting import Sample, SampleCollector
from extra_services.novelty.scoring import NoveltyScorer
from extra_services.runtime.threads import Threads


async def test_a_sample_that_does_not_fit_its_group_is_refused_and_the_group_goes_on(tmp_path: Path) -> None:
    memory = Memory(SqliteStore(tmp_path), embedder=None)
    memory.create_namespace("samples", NamespaceSettings(min_history=0))
    vectors = np.eye(2, dtype=np.float32)
    sample = Sample("samples", "q", "group", group_size=2, index=0, correct=True, embedding=vectors[0])
    with Threads(2, 1, "test") as threads:
        collector = SampleCollector(memory, NoveltyScorer(memory), threads)
        first = asyncio.create_task(collector.collect(sample))
        while not collector.waiting:
            await asyncio.sleep(0)
        for field, wrong in (
            ("group_size", replace(sample, group_size=3, index=1)),
            ("prompt_id", replace(sample, prompt_id="another", index=1)),
            ("index", replace(sample, index=5)),
        ):
            with pytest.raises(InvalidInput) as refused:
                await collector.collect(wrong)
            assert refused.value.field == field
        last = await collector.collect(replace(sample, index=1, embedding=vectors[1]))
        assert (last.samples, (await first).samples) == (2, 2)
    memory.close()
