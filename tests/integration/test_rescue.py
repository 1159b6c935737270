"""The rescue study with real services: the control differs only in the prefix; a stopped study continues."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from extra_client import SelectionPolicy, VerificationClient, embedded
from extra_rl.config_file import ConfigError
from extra_trainer.config import PrefixConfig
from extra_trainer.data.problems import Problem
from extra_trainer.evaluation.evaluator import weights_identity
from extra_trainer.evaluation.rescue import POLICIES, RescueStudy, StudyJournal
from extra_trainer.rehearsal.problems import problems
from extra_trainer.rollouts.collector import Sampling
from extra_trainer.rollouts.generation_pool import GenerationPool

HARD = [Problem(p.id, p.prompt, p.answer) for p in problems("train", 4, 0, terms=(5, 6))]


@pytest.fixture(scope="module")
def in_one(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyJournal:
    """The output of the command after two passes."""
    folder = tmp_path_factory.mktemp("rescue")
    data = folder / "hard.jsonl"
    rows = ({"id": p.id, "problem": p.prompt, "answer": p.answer} for p in HARD)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--passes", 2, "--samples-per-prompt", 4, "--max-tokens", 40, "--min-segment-tokens", 4)
    arguments = (folder / "out", "--model", tiny_model, "--data", data, *options)
    command = [sys.executable, "-m", "extra_cli", "rescue", *map(str, arguments)]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0, result.stdout
    assert all(policy in result.stdout for policy in POLICIES)
    return StudyJournal.model_validate_json((folder / "out" / "rescue.json").read_bytes())


def test_a_study_in_two_sittings_is_like_one_of_the_command(
    tiny_model: Path, in_one: StudyJournal, tmp_path: Path
) -> None:
    path = tmp_path / "two.json"
    with (
        embedded.start("generation", model=tiny_model, threads=1) as generation,
        embedded.start("novelty") as novelty,
        embedded.start("verification", workers=1) as verification,
        GenerationPool([generation.target]) as pool,
        VerificationClient(verification.target) as verifier,
    ):
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        study = RescueStudy(
            pool, verifier, novelty.target, tokenizer, Sampling(4, 40), PrefixConfig(min_segment_tokens=4)
        )
        for passes in (1, 2):
            study.run(HARD, passes, path, weights_identity(tiny_model))
        with pytest.raises(ConfigError, match="problems was"):
            study.run(HARD[:2], 2, path, weights_identity(tiny_model))
    assert StudyJournal.model_validate_json(path.read_bytes()) == in_one


def test_every_policy_tries_the_same_hard_prompts(in_one: StudyJournal) -> None:
    for number, made in enumerate(in_one.passes, start=1):
        assert 0 < made.hard <= made.problems == len(HARD)
        tried = {p: {r.problem for r in made.retries if r.policy == p} for p in POLICIES}
        # Every hard prompt again from its start; from a prefix where its rollouts leave one.
        assert len(tried[SelectionPolicy.NONE]) == made.hard
        assert all(found <= tried[SelectionPolicy.NONE] for found in tried.values())
        assert {r.number for r in made.retries} == {number}
        assert {r.prefix_tokens for r in made.retries if r.policy == "none"} == {0}
        assert all(r.prefix_tokens > 0 for r in made.retries if r.policy in ("shortest", "random"))
