"""Evaluation with real services: samples, problems without a result, and continuing after a kill."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from extra_client import GenerationClient, Rollout, UnavailableError, VerificationClient, embedded
from extra_trainer.config import Config, EvaluationConfig
from extra_trainer.data.problems import Problem, write_problems
from extra_trainer.evaluation.evaluator import Evaluator
from extra_trainer.evaluation.result import Evaluation
from extra_trainer.launch.launcher import Launcher
from extra_trainer.launch.services import Addresses
from extra_trainer.rehearsal.problems import problems
from extra_trainer.rollouts.generation_pool import GenerationPool
from extra_trainer.runs.folder import RunFolder
from support.processes import MARK, marked_processes, no_process_survives, wait_for

PATIENCE = 120
CONFIG = EvaluationConfig(samples_per_prompt=4, k=(1, 4), problems_at_once=3)
EASY = [Problem(str(n), f"{n}+1=?\n", str(n + 1)) for n in range(1, 6)]


@pytest.fixture(scope="module")
def generation(tiny_model: Path) -> Iterator[GenerationClient]:
    with (
        embedded.start("generation", model=tiny_model, threads=1) as service,
        GenerationClient(service.target) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def verification() -> Iterator[VerificationClient]:
    with embedded.start("verification", workers=1) as service, VerificationClient(service.target) as client:
        yield client


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets that take the model some seconds."""
    folder = tmp_path_factory.mktemp("sets")
    for name, count, seed in (("first", 30, 0), ("second", 20, 1)):
        rows = ({"id": p.id, "problem": p.prompt, "answer": p.answer} for p in problems("train", count, seed))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _lines(journal: Path) -> list[dict[str, Any]]:
    """The problems in a journal, without a line that is still being written."""
    content = journal.read_bytes() if journal.exists() else b""
    return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()][1:]


def _texts(journal: Path) -> dict[tuple[str, str], list[str]]:
    return {(p["set"], p["id"]): [sample["text"] for sample in p["samples"]] for p in _lines(journal)}


def test_what_a_problem_s_samples_are_depends_on_nothing_beside_it(
    generation: GenerationClient, verification: VerificationClient, tmp_path: Path
) -> None:
    def run(name: str, sets: dict[str, list[Problem]], at_once: int, seed: int = 0) -> Evaluation:
        config = CONFIG.model_copy(update={"problems_at_once": at_once, "seed": seed})
        return Evaluator(generation, verification, config, 24).run(sets, tmp_path / name)

    together = run("together", {"a": EASY, "b": EASY[:2]}, at_once=3)
    alone = run("alone", {"a": EASY[:4]}, at_once=1)
    assert together.sets["a"].correct[:4] == alone.sets["a"].correct
    texts = _texts(tmp_path / "together")
    assert {name: texts[name] for name in _texts(tmp_path / "alone")} == _texts(tmp_path / "alone")
    run("other", {"a": EASY[:4]}, at_once=1, seed=1)
    assert _texts(tmp_path / "other") != _texts(tmp_path / "alone")
    # Problems of one set do not share their draws.
    assert len({tuple(sample) for sample in texts.values()}) > len(EASY) // 2


def test_the_journal_s_samples_and_the_counts_agree(
    generation: GenerationClient, verification: VerificationClient, tmp_path: Path
) -> None:
    told: list[int] = []
    evaluator = Evaluator(generation, verification, CONFIG, 24, progress=told.append)
    result = evaluator.run({"a": EASY}, tmp_path / "journal")
    assert sum(told) == 20
    lines = sorted(_lines(tmp_path / "journal"), key=lambda line: int(line["index"]))
    assert [line["id"] for line in lines] == [problem.id for problem in EASY]
    assert [sum(s["correct"] is True for s in line["samples"]) for line in lines] == result.sets["a"].correct
    expected = verification.verify(
        [s["text"] for line in lines for s in line["samples"]], [p.answer for p in EASY for _ in range(4)]
    )
    assert [s["status"] for line in lines for s in line["samples"]] == [str(v.status) for v in expected]
    again = evaluator.run({"a": EASY}, tmp_path / "journal")
    assert sum(told) == 40
    assert again.sets == result.sets
    assert len(_lines(tmp_path / "journal")) == 5


def test_refused_prompts_and_unreadable_answers_harm_no_other_problem_and_are_told(
    generation: GenerationClient, verification: VerificationClient, tmp_path: Path
) -> None:
    window = generation.get_info().max_model_len
    long = Problem("long", "1+" * window + "1=?\n", "1")
    unreadable = Problem("unreadable", "1+1=?\n", "")
    result = Evaluator(generation, verification, CONFIG, 24).run(
        {"a": [long, *EASY, unreadable]}, tmp_path / "journal"
    )
    (refused,) = result.sets["a"].refused
    assert (refused.index, refused.id) == (0, "long")
    assert f"no room in a window of {window}" in refused.reason
    assert result.sets["a"].undecided == 4
    alone = Evaluator(generation, verification, CONFIG, 24).run({"a": EASY}, tmp_path / "alone")
    assert alone.undecided == alone.refused == 0
    assert len(result.sets["a"].correct) == 7


def test_without_a_chat_template_every_chat_prompt_is_refused_by_name(
    generation: GenerationClient, verification: VerificationClient, tmp_path: Path
) -> None:
    result = Evaluator(generation, verification, CONFIG, 24, chat=True).run({"a": EASY}, tmp_path / "journal")
    assert result.refused == 5
    assert "no chat template" in result.sets["a"].refused[0].reason


def test_after_a_service_has_died_what_was_finished_is_kept(
    generation: GenerationClient, verification: VerificationClient, tmp_path: Path
) -> None:
    many = [Problem(str(n), f"{n}+{n}=?\n", str(2 * n)) for n in range(40)]
    config = CONFIG.model_copy(update={"problems_at_once": 1})
    with embedded.start("verification", workers=1) as service, VerificationClient(service.target) as dying:

        def kill_after_some(_: int) -> None:
            if len(_lines(tmp_path / "journal")) >= 2 and service.process.poll() is None:
                service.process.kill()
                service.process.wait()

        with pytest.raises(UnavailableError, match="verification service"):
            Evaluator(generation, dying, config, 24, progress=kill_after_some).run(
                {"a": many}, tmp_path / "journal"
            )
    kept = _texts(tmp_path / "journal")
    assert 2 <= len(kept) < 40
    resumed = Evaluator(generation, verification, CONFIG, 24).run({"a": many}, tmp_path / "journal")
    whole = Evaluator(generation, verification, CONFIG, 24).run({"a": many}, tmp_path / "whole")
    assert resumed.sets == whole.sets
    assert _texts(tmp_path / "journal") == _texts(tmp_path / "whole")


def test_a_full_queue_is_waited_for(
    tiny_model: Path, generation: GenerationClient, verification: VerificationClient, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"problems_at_once": 5})
    with (
        # Room for one problem's samples: with five at once most calls are refused at first.
        embedded.start("generation", model=tiny_model, threads=1, max_batch=4, max_queue=4) as service,
        GenerationClient(service.target) as narrow,
    ):
        result = Evaluator(narrow, verification, config, 60).run({"a": EASY}, tmp_path / "narrow")
    wide = Evaluator(generation, verification, config, 60).run({"a": EASY}, tmp_path / "wide")
    assert result.sets == wide.sets
    assert _texts(tmp_path / "narrow") == _texts(tmp_path / "wide")


def test_several_replicas_share_the_problems_and_give_the_same_samples(
    tiny_model: Path, generation: GenerationClient, verification: VerificationClient, tmp_path: Path
) -> None:
    with (
        embedded.start("generation", model=tiny_model, threads=1) as second,
        GenerationPool([generation.target, second.target]) as pool,
    ):
        Evaluator(pool, verification, CONFIG, 24).run({"a": EASY}, tmp_path / "pool")
        # A replica has a prompt in its cache once it has served it: calls go to one and the other in turn.
        cached = [
            next(
                iter(
                    pool.generate_stream(["91+92=?\n"], 1, 2, [()], seed, 1.0, top_p=1, min_policy_version=0)
                )
            )
            for seed in range(4)
        ]
    Evaluator(generation, verification, CONFIG, 24).run({"a": EASY}, tmp_path / "one")
    assert _texts(tmp_path / "pool") == _texts(tmp_path / "one")
    assert [isinstance(r, Rollout) and r.cached_prompt_tokens > 0 for r in cached] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("way", ["folder", "stream"])
def test_the_start_model_is_evaluated_on_a_service_that_has_another_run_s_policy(
    way: str, tiny_model: Path, verification: VerificationClient, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.weights.mkdir(parents=True)
    folder.start_model.symlink_to(tiny_model)
    write_problems(folder.evaluation_data / "easy.jsonl", EASY)
    with (
        embedded.start("generation", model=tiny_model, threads=1, weights_root=folder.weights) as service,
        GenerationClient(service.target) as client,
    ):
        config = Config.model_validate(
            {
                "name": "second",
                "model": {"path": str(tiny_model)},
                "data": {"train": "rehearsal", "evaluation": "rehearsal"},
                "rollout": {"response_max_tokens": 24},
                "evaluation": {"samples_per_prompt": 4, "k": [1, 4]},
                "services": {"generation": {"target": service.target, "weights": way}},
            }
        )
        addresses = Addresses((service.target,), "unused", verification.target)

        def before() -> dict[tuple[str, str], list[str]]:
            launcher = Launcher(config, folder, Console(quiet=True))
            result = launcher._evaluate("before", addresses, fresh=True)
            assert result.policy_version == client.get_info().policy_version
            return _texts(folder.evaluation("before").with_suffix(".jsonl"))

        own = before()
        noise = torch.Generator().manual_seed(0)
        trained = {
            name: tensor + torch.randn(tensor.shape, generator=noise)
            for name, tensor in load_file(tiny_model / "model.safetensors").items()
        }
        client.stream_weights(trained.items(), 40)
        assert before() == own
        assert list(folder.weights.iterdir()) == []
        assert client.get_info().policy_version == 41


@pytest.fixture
def mark() -> Iterator[str]:
    with no_process_survives(PATIENCE) as word:
        yield word


def _start(mark: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, MARK: mark, "EXTRA_RL_GENERATION_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "extra_cli", "eval", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def test_a_command_killed_in_the_middle_and_repeated_ends_like_one_that_was_not(
    mark: str,
    tiny_model: Path,
    generation: GenerationClient,
    verification: VerificationClient,
    files: Path,
    tmp_path: Path,
) -> None:
    sets = ("--data", files / "first.jsonl", "--data", f"other={files / 'second.jsonl'}")
    sampling = ("--samples-per-prompt", 4, "--k", "1,4", "--max-tokens", 100, "--problems-at-once", 2)
    killed = (tmp_path / "killed", *sets, *sampling, "--model", tiny_model)
    journal = tmp_path / "killed" / "samples.jsonl"
    process = _start(mark, *killed)
    wait_for(
        lambda: len(_lines(journal)) >= 5 or process.poll() is not None, "no problem was finished", PATIENCE
    )
    process.kill()
    process.communicate()
    finished = _texts(journal)
    assert 5 <= len(finished) < 50
    # The services that it started go with it.
    wait_for(lambda: not marked_processes(mark), "its services outlived the killed command", PATIENCE)
    with journal.open("ab") as file:
        file.write(b'{"set": "first", "ind')

    different = _start(mark, *killed, "--temperature", 0.5)
    output, _ = different.communicate(timeout=PATIENCE)
    assert different.returncode == 1
    assert "temperature was 1.0 and is 0.5" in output

    repeated = _start(mark, *killed)
    output, _ = repeated.communicate(timeout=PATIENCE)
    assert repeated.returncode == 0, output
    assert finished.items() <= _texts(journal).items()
    assert len(_lines(journal)) == 50
    assert re.search(r"first +30 ", output)
    assert re.search(r"other +20 ", output)
    assert "pass@4" in output

    services = ("--generation", generation.target, "--verification", verification.target)
    whole = _start(mark, tmp_path / "whole", *sets, *sampling, *services)
    output, _ = whole.communicate(timeout=PATIENCE)
    assert whole.returncode == 0, output
    assert _texts(journal) == _texts(tmp_path / "whole" / "samples.jsonl")
    one, other = (Evaluation.load(tmp_path / name / "results.json") for name in ("killed", "whole"))
    assert one.sets == other.sets
    assert one.mean == other.mean
    assert list(one.sets) == ["first", "other"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "either --model, to start a generation service, or --generation"),
        (("--model", "m", "--samples-per-prompt", 4), "every k must lie between 1 and samples_per_prompt"),
        (("--model", "m", "--k", "1,x"), "k.1: Input should be a valid integer"),
        (("--model", "m", "--data", "second.jsonl"), "no file or folder second.jsonl"),
        (("--model", "m", "--template", "x"), "template must contain"),
    ],
)
def test_options_that_cannot_work_are_refused_before_anything_starts(
    arguments: tuple[object, ...], message: str, mark: str, files: Path, tmp_path: Path
) -> None:
    process = _start(mark, tmp_path / "out", "--data", files / "first.jsonl", *arguments)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert message in " ".join(output.split())
    assert not (tmp_path / "out").exists()
