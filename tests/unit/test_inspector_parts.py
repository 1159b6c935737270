"""The inspector shows the content of the run folder: index, tokens, map, differences, access."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from extra_inspector import diff, markup, memories, tokens
from extra_inspector.access import COOKIE, Guard
from extra_inspector.index import MASKED, Index, Query
from extra_inspector.main import configure
from extra_rl.config_file import ConfigError
from extra_rl.vocabulary import FinishReason, VerdictStatus
from extra_trainer.runs.folder import STEP_FOLDERS, RunFolder
from extra_trainer.runs.schema import RecordError
from support.run_folders import PROMPTS, SAMPLES, STEPS, rollout_record, write_run


@pytest.fixture
def index(tmp_path: Path) -> Index:
    made = Index.of(RunFolder(write_run(tmp_path / "run")), tmp_path / "cache")
    assert made.update()
    return made


def _lines(index: Index) -> list[dict[str, Any]]:
    files = sorted((index.folder.path / "rollouts").glob("*.jsonl"))
    return [json.loads(line) for path in files for line in path.open()]


def test_everything_is_found_page_by_page(index: Index) -> None:
    found: list[tuple[int, int, int]] = []
    for offset in range(0, STEPS * PROMPTS * SAMPLES, 100):
        rows, total = index.rollouts(Query(offset=offset, limit=100))
        assert total == STEPS * PROMPTS * SAMPLES
        found += [(row.step, row.place, row.sample) for row in rows]
    assert sorted(found) == [
        (step, place, sample)
        for step in range(1, STEPS + 1)
        for place in range(PROMPTS)
        for sample in range(SAMPLES)
    ]


@pytest.mark.parametrize("commit_seconds", [0.0, 60.0])
def test_while_a_run_is_indexed_prompts_count_the_rollouts_that_their_pages_list(
    tmp_path: Path, commit_seconds: float
) -> None:
    folder = RunFolder(write_run(tmp_path / "run", steps=5))
    # The last file is a pipe: indexing waits in it until this test writes.
    last = folder.step_file("rollouts", 5)
    content = last.read_text()
    last.unlink()
    os.mkfifo(last)
    index = Index(folder, tmp_path / "index.sqlite", commit_seconds=commit_seconds)
    reader = Index(folder, index.path)
    prompts = {json.loads(line)["prompt_id"] for line in content.splitlines()}

    def counts() -> int:
        agreed = 0
        for prompt_id in {f"prompt-{number}" for number in range(30)}:
            row, groups = reader.prompt_and_groups(prompt_id)
            shown = (row.groups, row.rollouts, row.correct) if row else (0, 0, 0)
            assert shown == (len(groups), sum(g.rollouts for g in groups), sum(g.correct for g in groups))
            agreed += shown[1]
        assert len(reader.prompts(Query(limit=100))[0]) * SAMPLES <= agreed
        return agreed

    updating = threading.Thread(target=index.update)
    updating.start()
    with last.open("w") as pipe:
        found = counts()
        assert found == (4 * PROMPTS * SAMPLES if commit_seconds == 0 else 0)
        pipe.write(content)
    updating.join()
    assert counts() == 5 * PROMPTS * SAMPLES
    assert {row.prompt_id for row in reader.prompts(Query(limit=100))[0]} >= prompts


def test_masked_rollouts_are_counted_marked_and_found(tmp_path: Path) -> None:
    folder = RunFolder(write_run(tmp_path / "run", steps=1))
    masked = {"finish_reason": FinishReason.LENGTH, "masked": True}
    records = [
        rollout_record(prompt_id="p", sample=0),
        rollout_record(prompt_id="p", sample=1, status=VerdictStatus.WRONG, **masked),
        rollout_record(prompt_id="p", sample=2, **masked),
    ]
    folder.write_rollouts(2, records)
    index = Index(folder, tmp_path / "index.sqlite")
    index.update()
    row, (group,) = index.prompt_and_groups("p")
    assert row is not None
    # As in training: they count for nothing, whatever their verdict, and are not stored as solutions.
    assert (group.correct, group.masked, group.undecided, group.hard) == (1, 2, 2, False)
    assert [solution.rollout.sample for solution in index.solutions("p").values()] == [0]
    assert index.rollouts(Query(status=MASKED))[1] == 2
    assert "1 of 3 rollouts correct, 2 masked" in markup.about(row)
    assert "step 2</span><span>1/3" in markup.group_list("p", [group], group)
    assert "masked</span> cut off, counts for nothing" in markup.rollout(records[1], None, None)
    assert "masked" not in markup.rollout(records[0], None, None)


def test_filters_show_what_they_say(index: Index) -> None:
    lines = _lines(index)
    groups = [lines[start : start + SAMPLES] for start in range(0, len(lines), SAMPLES)]
    correct = [sum(line["status"] == "correct" for line in group) for group in groups]
    hard = sum(count <= 1 for count in correct)
    rescued = sum(count > 0 and group[0]["guided"] for count, group in zip(correct, groups, strict=True))
    novel = sum(line["novelty"] > 0 for line in lines)
    totals = {show: index.rollouts(Query(show=show))[1] for show in ("hard", "rescued", "novel", "undecided")}
    assert totals == {"hard": hard * SAMPLES, "rescued": rescued * SAMPLES, "novel": novel, "undecided": 0}
    rows, _ = index.rollouts(Query(show="novel"))
    novelties = [row.novelty or 0.0 for row in rows]
    assert novelties == sorted(novelties, reverse=True)
    assert {row.status for row in index.rollouts(Query(status="wrong"))[0]} == {"wrong"}


def test_a_search_finds_words_their_beginnings_and_signs(index: Index) -> None:
    lines = _lines(index)
    for search, expected in (
        ("3+14", sum("3+14" in line["prompt"] for line in lines)),
        ("boxed{2", sum("boxed{2" in line["text"] for line in lines)),
        ('"', len(lines)),
        ("nowhere", 0),
    ):
        rows, total = index.rollouts(Query(search=search, limit=1000))
        assert (total, len(rows)) == (expected, expected)
        steps = [row.step for row in rows]
        assert steps == sorted(steps, reverse=True)
        # Found the other way, beside another filter.
        assert sum(index.rollouts(Query(search=search, status=s))[1] for s in ("correct", "wrong")) == total
    last = index.rollouts(Query(search="boxed", limit=5, offset=5))[0]
    assert last == index.rollouts(Query(search="boxed", limit=10))[0][5:]
    assert index.prompts(Query(search="3+1"))[1] > 0
    assert index.prompts(Query(search="%"))[1] == 0


def test_a_step_that_is_written_again_replaces_the_old_one(index: Index) -> None:
    path = index.folder.step_file("rollouts", 3)
    first = json.loads(path.open().readline())
    path.write_text(json.dumps({**first, "status": "timeout", "text": "again"}) + "\n" + '{"half a li')
    assert index.update()
    assert not index.update()
    rows, total = index.rollouts(Query(show="undecided"))
    assert (total, rows[0].step) == (1, 3)
    assert index.rollouts(Query(search="again"))[1] == 1
    path.unlink()
    index.update()
    assert index.rollouts(Query(show="undecided"))[1] == 0
    assert index.counts()["rollouts"] == (STEPS - 1) * PROMPTS * SAMPLES


def test_solutions_are_numbered_as_the_novelty_service_does(index: Index) -> None:
    lines = [line for line in _lines(index) if line["status"] == "correct"]
    prompt = lines[0]["prompt_id"]
    own = [line for line in lines if line["prompt_id"] == prompt]
    found = index.solutions(prompt)
    assert list(found) == list(range(len(own)))
    assert [found[number].rollout.text for number in found] == [line["text"] for line in own]


def test_suspicious_rollouts_have_no_solution_number_and_can_be_filtered(tmp_path: Path) -> None:
    folder = RunFolder(write_run(tmp_path / "run"))
    records = [
        rollout_record(prompt_id="p", sample=sample, suspicious="the text is blank" if sample == 1 else "")
        for sample in range(3)
    ]
    folder.write_rollouts(STEPS + 1, records)
    index = Index(folder, tmp_path / "index.sqlite")
    index.update()
    assert [solution.rollout.sample for solution in index.solutions("p").values()] == [0, 2]
    (found,), total = index.rollouts(Query(show="suspicious"))
    assert (found.sample, total) == (1, 1)
    page = markup.rollout(records[1], None, None)
    assert "suspicious, no novelty bonus: the text is blank" in page


def test_wrong_answers_are_counted_by_step_without_undecided_ones(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", steps=1)
    folder = RunFolder(path)
    wrong = {"prompt_id": "hard", "status": VerdictStatus.WRONG}
    for step, answers in ((2, ["7", "7", "8", ""]), (3, ["7", "8", "8", "9"])):
        records = [
            rollout_record(**wrong, sample=sample, extracted=answer) for sample, answer in enumerate(answers)
        ]
        records[3] = replace(records[3], status=VerdictStatus.TIMEOUT) if step == 3 else records[3]
        folder.write_rollouts(step, records)
    index = Index(folder, tmp_path / "index.sqlite")
    index.update()
    found = index.wrong_answers("hard")
    assert [(wrong.answer, wrong.steps) for wrong in found] == [
        ("7", {2: 2, 3: 1}),
        ("8", {2: 1, 3: 2}),
        ("", {2: 1}),
    ]
    page = markup.wrong_answers(found)
    assert "<code>7</code>" in page
    assert "2: 2, 3: 1" in page


def test_undecided_rollouts_count_as_they_do_in_training(index: Index) -> None:
    answer = {"status": "unparseable", "unparseable_side": "answer"}
    response = {"status": "unparseable", "unparseable_side": "response"}
    for statuses, hard, undecided in (
        # One of two decided ones is correct: more than one in four.
        ([{"status": "correct"}, {"status": "wrong"}, answer, {"status": "timeout"}], False, 2),
        ([{"status": "correct"}, {"status": "wrong"}, response, response], True, 0),
        ([{"status": "error"}, {"status": "wrong"}, answer, {"status": "timeout"}], True, 3),
        ([{"status": "error"}, answer, answer, {"status": "timeout"}], False, 4),
    ):
        path = index.folder.step_file("rollouts", 1)
        lines = [json.loads(line) for line in path.open()][:SAMPLES]
        changed = [
            {**line, "prompt_id": "own", **status} for line, status in zip(lines, statuses, strict=True)
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in changed))
        assert index.update()
        (group,) = index.groups("own")
        assert (group.hard, group.undecided, group.rollouts) == (hard, undecided, SAMPLES)
        prompt = index.prompt("own")
        assert prompt is not None
        assert (prompt.hard, prompt.undecided, prompt.groups) == (hard, undecided, 1)
        assert index.rollouts(Query(show="undecided"))[1] == undecided


def test_a_run_of_another_version_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(write_run(tmp_path / "run", steps=1))
    folder.format.write_text("2.0")
    with pytest.raises(ConfigError, match=r"run cannot be read: its records have version 2\.0"):
        Index.of(folder, tmp_path)


def test_a_record_that_cannot_be_read_is_named_and_the_files_before_it_are_indexed(tmp_path: Path) -> None:
    folder = RunFolder(write_run(tmp_path / "run", steps=3))
    path = folder.step_file("rollouts", 3)
    line = json.loads(path.open().readline())
    del line["tokens"]
    path.write_text(json.dumps(line) + "\n")
    index = Index.of(folder, tmp_path)
    with pytest.raises(RecordError, match=r"step-000003\.jsonl: .* the key 'tokens' is missing"):
        index.update()
    assert index.counts()["rollouts"] == 2 * PROMPTS * SAMPLES
    assert index.prompts(Query())[1] == 2 * PROMPTS


def test_the_index_of_another_release_is_made_again(tmp_path: Path) -> None:
    folder = RunFolder(write_run(tmp_path / "run", steps=2))
    Index.of(folder, tmp_path).update()
    index = Index.of(folder, tmp_path)
    with index._connection() as connection:
        connection.execute("PRAGMA user_version = 999")
    again = Index.of(folder, tmp_path)
    assert again.update()
    assert again.counts()["rollouts"] == 2 * PROMPTS * SAMPLES


@given(
    st.lists(st.sampled_from(["a", " b", "bc", "\n", "é", "\ufffd", ""]), min_size=1, max_size=12), st.text()
)
def test_the_parts_of_tokens_are_the_text(pieces: list[str], text: str) -> None:
    for whole in (text, "".join(pieces), "".join(pieces).replace("\ufffd", "ß")):
        parts = tokens.fitted(pieces, whole)
        assert len(parts) == len(pieces)
        assert "".join(parts) == whole


def test_a_token_that_reads_alone_is_shown_so() -> None:
    assert tokens.fitted(["12", "+", "3"], "12+3") == ["12", "+", "3"]
    # Sentence-piece tokens lose their leading space when they are decoded alone.
    assert tokens.fitted(["so", "it", "is"], "so it is") == ["so", " it", " is"]


@given(hnp.arrays(np.float64, st.tuples(st.integers(2, 9), st.integers(3, 6)), elements=st.floats(0.1, 5)))
def test_the_map_is_that_of_the_vectors_principal_components(vectors: np.ndarray) -> None:
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    shown = memories.map_of(range(len(vectors)), vectors @ vectors.T, [""] * len(vectors))
    centred = vectors - vectors.mean(axis=0)
    _, singular, components = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ components[:2].T
    # As far apart as there; the components' signs are free.
    found, truth = (np.linalg.norm(p[:, None] - p[None], axis=2) for p in (shown.places, expected))
    assert found == pytest.approx(truth, abs=1e-6)
    variance = float((singular**2).sum())
    if variance > 1e-9:
        assert shown.explained[0] == pytest.approx(float(singular[0] ** 2) / variance, abs=1e-6)


@given(st.text(alphabet="ab 1\n", max_size=40), st.text(alphabet="ab 1\n", max_size=40))
def test_a_difference_holds_both_texts(first: str, second: str) -> None:
    pieces = diff.pieces(first, second)
    assert "".join(p.text for p in pieces if p.kind != "new") == first
    assert "".join(p.text for p in pieces if p.kind != "gone") == second


TOKEN = "extra_rl_secret"


def _ask(
    headers: dict[str, str], query: str = "", sha256: str = "", kind: str = "http"
) -> list[dict[str, Any]]:
    """Return the messages that a guarded page sends."""
    sent: list[dict[str, Any]] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "method": "GET", "path": "/", "query_string": query.encode(), "headers": raw}
    asyncio.run(Guard(page, sha256)(scope, None, send))  # type: ignore[arg-type]
    return sent


def test_only_names_of_this_machine_are_answered_without_a_token() -> None:
    for host, status in (
        ("127.0.0.1:8765", 200),
        ("localhost", 200),
        ("[::1]:1", 200),
        ("evil.example", 403),
    ):
        assert _ask({"host": host})[0]["status"] == status
    assert _ask({"host": "localhost:1", "origin": "http://evil.example"})[0]["status"] == 403
    refused = _ask({"host": "localhost:1", "origin": "http://evil.example"}, kind="websocket")
    assert refused == [{"type": "websocket.close", "code": 1008}]


def test_a_token_is_asked_for_and_kept_in_a_cookie() -> None:
    sha256 = hashlib.sha256(TOKEN.encode()).hexdigest()
    host = {"host": "machine.example"}
    assert _ask(host, sha256=sha256)[0]["status"] == 401
    assert _ask({**host, "authorization": "Bearer wrong"}, sha256=sha256)[0]["status"] == 401
    assert _ask(host, f"token={TOKEN}", sha256=sha256, kind="websocket")[0]["type"] == "websocket.close"
    assert _ask({**host, "authorization": f"Bearer {TOKEN}"}, sha256=sha256)[0]["status"] == 200
    assert _ask({**host, "cookie": f"{COOKIE}={TOKEN}"}, sha256=sha256)[0]["status"] == 200
    answer = _ask(host, f"view=rollouts&token={TOKEN}", sha256=sha256)[0]
    headers = dict(answer["headers"])
    assert (answer["status"], headers[b"location"]) == (303, b"/?view=rollouts")
    assert b"HttpOnly" in headers[b"set-cookie"]
    assert b"SameSite=strict" in headers[b"set-cookie"]


def test_others_are_served_only_with_a_token(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--token-sha256"):
        configure(tmp_path, None, None, "0.0.0.0", 0, "", None)
    with pytest.raises(ConfigError, match="64 lower-case hex digits"):
        configure(tmp_path, None, None, "127.0.0.1", 0, "secret", None)
    with pytest.raises(ConfigError, match=r"no config\.yaml"):
        configure(tmp_path, None, None, "127.0.0.1", 0, "", tmp_path)


def test_of_the_trainer_only_the_run_folder_is_imported() -> None:
    loaded = (
        "import sys; import extra_inspector.index, extra_inspector.prefixes, extra_inspector.tokens;"
        " import extra_inspector.memories, extra_inspector.markup, extra_inspector.access;"
        " print(*(name for name in sys.modules if name.startswith(('extra_', 'torch'))))"
    )
    names = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True
    ).stdout.split()
    tops = {name.split(".")[0] for name in names}
    assert tops == {"extra_inspector", "extra_client", "extra_rl", "extra_trainer"}
    of_trainer = {name for name in names if name.startswith("extra_trainer.")}
    assert of_trainer == {"extra_trainer.runs", "extra_trainer.runs.folder", "extra_trainer.runs.schema"}


def test_solutions_have_no_numbers_where_steps_are_not_recorded(index: Index) -> None:
    """The numbers count the solutions of all steps, so that others would name other rollouts."""
    prompt = next(line["prompt_id"] for line in _lines(index) if line["status"] == "correct")
    whole = index.solutions(prompt)
    assert whole
    first = index.folder.step_file("rollouts", 1)
    content = first.read_text()
    index.folder.keep_records(STEPS - 1)
    assert index.update()
    assert not index.complete()
    assert not index.solutions(prompt)
    first.write_text(content)
    assert index.update()
    assert index.solutions(prompt) == whole


def test_records_that_a_run_deletes_while_they_are_read_are_left_out(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.folder.step_file("rollouts", 3).unlink()
    assert index.group(3, 0) == []
    # Deleted between the listing of the folder and the reading.
    files = {folder: list(index.folder.step_files(folder)) for folder in STEP_FOLDERS}
    monkeypatch.setattr(RunFolder, "step_files", lambda _, folder: iter(files[folder]))
    index.folder.keep_records(5)
    assert index.update()
    assert index.counts()["rollouts"] == 5 * PROMPTS * SAMPLES
    assert [step for step, _ in index.folder.read_rollouts()] == list(range(STEPS - 4, STEPS + 1))
