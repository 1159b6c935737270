"""The inspector with live services: map and prefixes of a run, verdicts and entropies of imported logs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from extra_client import GenerationClient, VerificationClient, embedded
from extra_inspector import markup
from extra_inspector.imports.run import ImportedRun, Services
from extra_inspector.index import Index, Query
from extra_inspector.memories import LiveMemories, StoredMemories
from extra_inspector.tokens import Vocabulary
from extra_rl.config_file import ConfigError
from extra_trainer.runs.folder import RunFolder
from support.inspector_server import DEMO
from support.recorded_logs import LOGS


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


def test_verdicts_and_entropies_of_logs_are_those_of_the_services(tiny_model: Path, tmp_path: Path) -> None:
    source, prompt = tmp_path / "logs", [4, 14, 10]
    source.mkdir()
    with (
        embedded.start("verification") as verification,
        embedded.start("generation", model=tiny_model, threads=1) as generation,
    ):
        client = GenerationClient(generation.target)
        (sampled,) = client.generate([prompt], 3, 12, seed=0)
        samples = [
            {
                "group_index": 0,
                "prompt": "2 + 2 = ",
                "tokens": [*prompt, *rollout.token_ids.tolist()],
                "response": text,
                "response_length": len(rollout.token_ids),
                "label": "4",
                "reward": 0.0,
                "status": "completed",
            }
            for rollout, text in zip(sampled, ["\\boxed{4}", "\\boxed{5}", "nothing"], strict=True)
        ]
        torch.save({"rollout_id": 1, "samples": samples}, source / "rollout_1.pt")
        services = Services(VerificationClient(verification.target), generation=client)
        run = ImportedRun(source, "slime", tmp_path / "cache", services)
        run.update()
        index = Index.of(run.folder, tmp_path / "cache")
        index.update()
        records = index.group(1, 0)
        assert [record.status for record in records] == ["correct", "wrong", "unparseable"]
        assert [record.extracted for record in records] == ["4", "5", ""]
        assert [record.mean_entropy for record in records] == [None] * 3
        run.score(1, 0)
        index.update()
        for record, rollout in zip(index.group(1, 0), sampled, strict=True):
            assert record.entropies.tolist() == pytest.approx(rollout.entropies.tolist(), abs=2e-3)
            assert record.mean_entropy == pytest.approx(rollout.entropies.mean(), abs=1e-4)
        # Texts without token ids need the model's tokenizer.
        texts = ImportedRun(LOGS / "verl", "verl", tmp_path / "cache", Services(generation=client))
        texts.update()
        with pytest.raises(ConfigError, match="give --tokenizer"):
            texts.score(1, 0)
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        services = Services(generation=client, tokenizer=tokenizer)
        texts = ImportedRun(LOGS / "verl", "verl", tmp_path / "cache", services)
        assert texts.update()
        texts.score(2, 1)
    step = dict(texts.folder.read_rollouts())[2]
    assert [record.mean_entropy is None for record in step] == [True, True, False, False]
    shown = Vocabulary(texts.folder).tokens(step[3])
    assert shown is not None
    assert "".join(token.text for token in shown) == step[3].text
    assert [token.unknown for token in shown] == [False] * len(shown)
    shown = Vocabulary(texts.folder).tokens(step[0])
    assert shown is not None
    assert all(token.unknown for token in shown)
    page = markup.rollout(step[0], shown, None)
    assert 'title="entropy not known"' in page
    assert "prefix: not sampled here" not in page
