"""Logs that other trainers' own code wrote (tests/data/logs) become runs; what they lack is missing, no 0."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from extra_client.integrations import prompt_id
from extra_inspector import markup
from extra_inspector.imports import slime, trl, verl
from extra_inspector.imports.run import IMPORTERS, UNKNOWN_PROMPT, ImportedRun, Services, format_of
from extra_inspector.index import Index, Query
from extra_inspector.main import ImportOptions, configure
from extra_inspector.tokens import Vocabulary
from extra_rl.config_file import ConfigError
from extra_rl.vocabulary import FinishReason, VerdictStatus
from extra_trainer.runs.schema import RolloutRecord
from support.hostile_texts import HOSTILE
from support.recorded_logs import LOGS, PROMPT
from support.run_folders import write_run


def imported(source: Path, cache: Path, services: Services | None = None) -> ImportedRun:
    run = ImportedRun(source, format_of(source, None), cache, services or Services())
    assert run.update()
    return run


def records(run: ImportedRun) -> dict[int, list[RolloutRecord]]:
    return dict(run.folder.read_rollouts())


@pytest.mark.parametrize("name", IMPORTERS)
def test_a_log_is_known_by_its_files_and_opens_without_a_service(name: str, tmp_path: Path) -> None:
    source = LOGS / name
    assert format_of(source, None) == format_of(source, name) == name
    assert format_of(next(path for path in source.rglob("*") if path.is_file()), None) == name
    before = {path: path.stat() for path in source.rglob("*")}
    configure(source, None, None, "127.0.0.1", 0, "", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == {
        path: stat.st_mtime_ns for path, stat in before.items()
    }


@pytest.mark.parametrize("name", IMPORTERS)
def test_what_a_log_does_not_hold_is_missing_and_never_0(name: str, tmp_path: Path) -> None:
    run = imported(LOGS / name, tmp_path)
    index = Index.of(run.folder, tmp_path)
    index.update()
    rows, total = index.rollouts(Query(limit=100))
    assert total == len(rows) > 0
    for row in rows:
        assert (row.novelty, row.entropy) == (None, None)
        assert (row.tokens is None) == (name != "slime")
        assert (row.status is None) == (name != "verl" or row.step != 1)
    for prompt in index.prompts(Query(limit=100))[0]:
        _, groups = index.prompt_and_groups(prompt.prompt_id)
        head = markup.about(prompt)
        assert "novelty –" in head
        assert prompt.verdicts or "no verdicts" in head
        for group in groups:
            views = [
                markup.rollout_view(record, Vocabulary(run.folder).tokens(record), None)
                for record in index.group(group.step, group.place)
            ]
            page = markup.groups_panel(prompt.prompt_id, groups, group, None, views)
            assert "mean entropy –" in page
            assert "0.000" not in page
            assert name == "slime" or ("– tokens" in page and "0 tokens" not in page)
            assert group.verdicts or (f"–/{group.rollouts}" in page and "0 of" not in page)
            # Only what somebody knows is asked for.
            assert "Compute the entropies" not in page


def test_trl_s_groups_rewards_and_answers_are_there_and_repeated_logs_count_once(tmp_path: Path) -> None:
    run = imported(LOGS / "trl", tmp_path)
    found = records(run)
    # Every batch was sampled once, used in two steps, and logged in both.
    assert list(found) == [1, 3]
    for step in found.values():
        assert len(step) == 16
        assert {record.prompt for record in step} == {PROMPT, "2 + 3 = "}
        for record in step:
            assert record.prompt_id == prompt_id(record.prompt)
            assert record.answer == ("4" if record.prompt == PROMPT else "5")
            assert record.logged["says_four"] == float("4" in record.text)
            assert record.logged["short"] == pytest.approx(-len(record.text) / 10)
            assert {"says_four", "short", "advantage"} == set(record.logged)


def test_a_reward_that_trl_did_not_get_is_missing(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = {
        "step": [1, 1],
        "prompt": [[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]] * 2,
        "completion": [[{"role": "assistant", "content": text}] for text in ("a", "b")],
        "judge": [None, 0.0],
        "format": [float("nan"), 1.0],
    }
    parquet.write_table(pa.table(table), tmp_path / "completions_00001.parquet")
    first, second = trl.read(tmp_path / "completions_00001.parquet")
    assert (first.logged, second.logged) == ({}, {"judge": 0.0, "format": 1.0})
    assert first.prompt == "system: s\n\nuser: u"
    assert first.sent == [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert (first.text, first.answer) == ("a", "")


def test_verl_s_acc_is_a_verdict_and_its_score_is_none(tmp_path: Path) -> None:
    found = records(imported(LOGS / "verl", tmp_path))
    graded, scored = found[1], found[2]
    right, wrong = VerdictStatus.CORRECT, VerdictStatus.WRONG
    assert [record.status for record in graded] == [right, wrong, right, wrong]
    assert [record.extracted for record in graded] == ["4", "5", "5", ""]
    assert {record.rule for record in graded} == {"acc of verl"}
    assert [record.logged for record in graded][:2] == [
        {"score": 1.0, "format": 1.0},
        {"score": -1.0, "format": 0.0},
    ]
    # A score of -1 or 1 says nothing of a verdict.
    assert [record.status for record in scored] == [None] * 4
    assert [(record.group, record.sample) for record in scored] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [record.answer for record in scored] == ["4", "4", "5", ""]


def test_slime_s_samples_keep_their_tokens_ends_and_versions(tmp_path: Path) -> None:
    run = imported(LOGS / "slime", tmp_path)
    (step,) = records(run).values()
    assert [record.token_ids.tolist() for record in step] == [[6, 1], [6, 6], [7, 1]]
    assert [record.tokens for record in step] == [2, 2, 2]
    assert [record.finish_reason for record in step] == [
        FinishReason.STOP,
        FinishReason.LENGTH,
        FinishReason.STOP,
    ]
    assert [record.policy_version for record in step] == [3, 3, 3]
    assert [dict(record.logged) for record in step] == [{"reward": 1.0}, {}, {"reward": 0.0}]
    assert [step for step, _ in run.folder.step_files("rollouts")] == [7]


def test_openrlhf_s_samples_are_one_a_step_without_a_prompt(tmp_path: Path) -> None:
    found = records(imported(LOGS / "openrlhf", tmp_path))
    assert {step: (r.text, dict(r.logged)) for step, (r,) in found.items()} == {
        1: (f"{PROMPT}it is\n\\boxed{{4}}", {"reward": 1.0}),
        2: ("2 + 3 = 6", {"reward": 0.0}),
    }
    assert {record.prompt_id for (record,) in found.values()} == {UNKNOWN_PROMPT}
    # W&B keeps the same samples as a table.
    table = {"columns": ["global_step", "text", "reward"], "data": [[1, "a", 0.5], [2, "b", 1]]}
    path = tmp_path / "media" / "generated_samples_2_ab.table.json"
    path.parent.mkdir()
    path.write_text(json.dumps(table))
    found = records(imported(tmp_path / "media", tmp_path / "cache"))
    assert [(step, r.text, r.logged["reward"]) for step, (r,) in found.items()] == [
        (1, "a", 0.5),
        (2, "b", 1.0),
    ]


def test_only_new_and_changed_logs_are_read_again(tmp_path: Path) -> None:
    source = tmp_path / "dumps"
    shutil.copytree(LOGS / "verl", source)
    run = imported(source, tmp_path / "cache")
    first = run.folder.step_file("rollouts", 1)
    written = first.stat().st_mtime_ns
    assert not run.update()
    line = json.loads((source / "2.jsonl").read_text().splitlines()[0])
    with (source / "3.jsonl").open("w") as file:
        file.write(json.dumps({**line, "step": 3}) + "\n" + '{"input": "half a li')
    assert run.update()
    assert {step: len(found) for step, found in records(run).items()} == {1: 4, 2: 4, 3: 1}
    assert first.stat().st_mtime_ns == written


def test_what_is_no_log_is_refused_with_the_file_and_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no run .* and no logs of trl, verl, openrlhf, slime"):
        format_of(tmp_path, None)
    with pytest.raises(ConfigError, match="holds no logs of trl"):
        format_of(LOGS / "verl", "trl")
    shutil.copytree(LOGS / "verl", tmp_path / "two")
    shutil.copytree(LOGS / "trl", tmp_path / "two", dirs_exist_ok=True)
    shutil.copytree(LOGS / "openrlhf", tmp_path / "two", dirs_exist_ok=True)
    with pytest.raises(ConfigError, match="logs of trl and verl: choose with --format"):
        format_of(tmp_path / "two", None)
    for content, reason in (
        ("nonsense\n", "line 1: no JSON object"),
        ("[]\n", "line 1: no"),
        ('{"input": ""}\n', "output, gts, score, step"),
    ):
        (tmp_path / "1.jsonl").write_text(content)
        with pytest.raises(ConfigError, match=reason):
            list(verl.read(tmp_path / "1.jsonl"))
    (tmp_path / "completions_00001.parquet").write_text("nonsense")
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        list(trl.read(tmp_path / "completions_00001.parquet"))
    torch.save({"step": 1}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="it holds no samples"):
        list(slime.read(tmp_path / "a.pt"))


class Runs:
    """What a pickle could do."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (Path("ran"),)


def test_code_in_a_file_of_slime_s_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"rollout_id": 0, "samples": [Runs()]}, tmp_path / "rollout_0.pt")
    with pytest.raises(ConfigError, match="cannot be read without running code in it"):
        list(slime.read(tmp_path / "rollout_0.pt"))
    assert not (tmp_path / "ran").exists()


def test_half_a_character_becomes_its_replacement(tmp_path: Path) -> None:
    half = "a\ud83d"
    line = {"input": half, "output": half, "gts": [half, "b"], "score": 1, "step": 1, "acc": 1, "pred": half}
    (tmp_path / "1.jsonl").write_text(json.dumps(line) + "\n")
    ((record,),) = records(imported(tmp_path, tmp_path / "cache")).values()
    assert {record.prompt, record.text, record.extracted} == {"a\ufffd"}
    assert record.answer in (("a\ufffd", "b"), "")


def test_options_for_logs_are_refused_for_a_run_of_ours(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=1)
    options = ImportOptions(verification="localhost:1")
    with pytest.raises(ConfigError, match="are for logs of other trainers"):
        configure(run, None, None, "127.0.0.1", 0, "", tmp_path, options)
    with pytest.raises(ConfigError, match="--method guess is none of math, "):
        configure(LOGS / "trl", None, None, "127.0.0.1", 0, "", tmp_path, ImportOptions(method="guess"))
    with pytest.raises(ConfigError, match="does not exist"):
        configure(tmp_path / "nothing", None, None, "127.0.0.1", 0, "", tmp_path)


def test_hostile_texts_and_names_of_logs_are_text_on_the_page(tmp_path: Path) -> None:
    lines = [
        {"input": text, "output": text, "gts": text, "score": 1, "step": 1, text: 0.5, "acc": 1, "pred": text}
        for text in HOSTILE
    ]
    (tmp_path / "1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = imported(tmp_path, tmp_path / "cache")
    for record in records(run)[1]:
        page = markup.rollout(record, None, None)
        assert "<script" not in page.lower()
        assert "<img" not in page.lower()
