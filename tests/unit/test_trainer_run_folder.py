"""A run's folder is usable whenever the run was killed, and its records are read or refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from extra_rl.config_file import ConfigError
from extra_rl.vocabulary import UnparseableSide, VerdictStatus
from extra_trainer.config import RecordingConfig
from extra_trainer.runs.folder import RunFolder
from extra_trainer.runs.schema import (
    CandidateRecord,
    NearestRecord,
    PrefixChoiceRecord,
    RecordError,
    RolloutRecord,
    group_outcome,
    pack_array,
    unpack_array,
)
from support.run_folders import rollout_record, step_metrics

DEMO = Path(__file__).resolve().parents[1] / "data" / "demo_run"


def test_what_came_after_the_last_checkpoint_is_forgotten(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (2, 4, 6):
        (folder.checkpoints / "_actor" / f"global_step{step}").mkdir(parents=True)
        folder.append_metrics(step_metrics(step))
    (folder.checkpoints / "_actor" / "latest").write_text("global_step4")
    with folder.metrics.open("a") as file:
        file.write('{"step": 7, "rew')  # the process was killed while it wrote
    folder.forget_after(folder.last_checkpoint())
    assert [metrics.step for metrics in folder.read_metrics()] == [2, 4]
    assert sorted(path.name for path in (folder.checkpoints / "_actor").glob("global_step*")) == [
        "global_step2",
        "global_step4",
    ]
    folder.append_metrics(step_metrics(5))
    assert [json.loads(line)["step"] for line in folder.metrics.open()] == [2, 4, 5]


def test_the_last_records_are_kept_and_the_missing_steps_counted(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    recording = RecordingConfig(every_steps=3, keep=2)
    for step in range(1, 12):
        if recording.records(step):
            folder.write_rollouts(step, [rollout_record()])
            folder.write_prefix_choices(step, [])
            folder.keep_records(2)
    assert [step for step, _ in folder.read_rollouts()] == [7, 10]
    assert [step for step, _ in folder.step_files("prefixes")] == [7, 10]
    assert folder.unrecorded_steps(11) == 9
    folder.forget_after(8)
    assert [step for step, _ in folder.read_rollouts()] == [7]


def test_the_name_of_a_run_stays_the_same(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).identity() == RunFolder(tmp_path).identity()


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    rollouts = [
        rollout_record(text="a\u2028b\n", nearest=NearestRecord(0.5, sample=3)),
        rollout_record(nearest=NearestRecord(0.25, solution=0)),
        rollout_record(status=VerdictStatus.UNPARSEABLE, unparseable_side=UnparseableSide.ANSWER),
        rollout_record(packed_token_ids=pack_array(np.array([1, 2**20], np.int32))),
    ]
    metrics = step_metrics(1, reward=0.5, seconds={"update": 2.0}, others={"kl": 0.25})
    candidate = CandidateRecord("1-a", "b", 3, 0.5, 0.25, 4, 1, -0.25, True)
    choices = [
        PrefixChoiceRecord(2, "prompt", 1, [3], [9], "1-a", [candidate]),
        PrefixChoiceRecord(3, "prompt", 0, [], [], None, None),
    ]
    folder = RunFolder(tmp_path)
    folder.write_rollouts(1, rollouts)
    folder.write_prefix_choices(1, choices)
    folder.append_metrics(metrics)
    assert list(folder.read_rollouts()) == [(1, rollouts)]
    assert rollouts[3].token_ids.tolist() == [1, 2**20]
    assert folder.read_metrics() == [metrics]
    lines = folder.step_file("prefixes", 1).read_text().splitlines()
    assert [PrefixChoiceRecord.from_json(json.loads(line)) for line in lines] == choices


def test_metrics_have_their_stable_names() -> None:
    metrics = step_metrics(1, groups_all_right=0.25, seconds={"update": 2.0}, others={"kl": 0.5})
    content = metrics.to_json()
    assert {name: metrics.value(name) for name in content} == content
    assert (content["seconds/update"], content["kl"]) == (2.0, 0.5)
    assert np.isnan(metrics.value("advantage"))
    assert metrics.groups_mixed == 0.75


def test_a_folder_without_a_version_is_read_and_unparseable_means_the_response() -> None:
    folder = RunFolder(DEMO)
    assert not folder.format.exists()
    steps = list(folder.read_rollouts())
    assert [step for step, _ in steps] == list(range(1, 9))
    assert all(len(record.entropies) == record.tokens for _, records in steps for record in records)
    assert [metrics.step for metrics in folder.read_metrics()] == list(range(1, 9))
    content = rollout_record(status=VerdictStatus.UNPARSEABLE).to_json()
    del content["unparseable_side"]
    record = RolloutRecord.from_json(content)
    assert record.unparseable_side is UnparseableSide.RESPONSE
    assert record.decided


def test_keys_that_a_later_minor_version_added_are_ignored(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.format.write_text("1.99\n")
    folder.write_rollouts(1, [rollout_record()])
    path = folder.step_file("rollouts", 1)
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": 1}) + "\n")
    assert list(folder.read_rollouts()) == [(1, [rollout_record()])]
    assert folder.format.read_text() == "1.99\n"


def test_records_that_cannot_be_read_are_refused_with_the_file_and_the_reason(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_rollouts(1, [rollout_record()])
    path = folder.step_file("rollouts", 1)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "status": "lost"}) + "\n")
    with pytest.raises(RecordError, match=r"step-000001\.jsonl: a rollout cannot be read: 'lost' is not"):
        list(folder.read_rollouts())
    del content["rule"]
    path.write_text(json.dumps(content) + "\n")
    with pytest.raises(RecordError, match="the key 'rule' is missing"):
        list(folder.read_rollouts())
    folder.metrics.write_text('{"step": 1}\n')
    with pytest.raises(RecordError, match=r"metrics\.jsonl: .* the key 'reward' is missing"):
        folder.read_metrics()
    for version, reason in (
        ("2.0", "records have version 2.0, and this release reads version 1"),
        ("x", "'x' is no"),
    ):
        folder.format.write_text(version)
        with pytest.raises(RecordError, match=reason):
            folder.read_metrics()


def test_undecided_rollouts_do_not_count_in_a_group() -> None:
    undecided = [
        rollout_record(status=VerdictStatus.TIMEOUT),
        rollout_record(status=VerdictStatus.ERROR),
        rollout_record(status=VerdictStatus.UNPARSEABLE, unparseable_side=UnparseableSide.ANSWER),
    ]
    unreadable = rollout_record(status=VerdictStatus.UNPARSEABLE, unparseable_side=UnparseableSide.RESPONSE)
    outcome = group_outcome([*undecided, rollout_record()])
    assert (outcome.rollouts, outcome.decided, outcome.all_right, outcome.hard) == (4, 1, True, False)
    assert group_outcome([*undecided, unreadable]).all_wrong
    assert group_outcome([*undecided, unreadable]).hard
    nothing = group_outcome(undecided)
    assert [nothing.all_right, nothing.all_wrong, nothing.mixed, nothing.hard] == [False] * 4


def test_arrays_survive_being_text() -> None:
    ids = np.array([1, 2**20, 3], dtype=np.int32)
    assert unpack_array(pack_array(ids), "<i4").tolist() == ids.tolist()
    entropies = np.array([0.0, 0.5, 11.9], dtype=np.float16)
    assert unpack_array(pack_array(entropies), "<f2").tolist() == entropies.tolist()


def test_a_run_s_folder_belongs_to_one_process_until_that_ends(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from extra_trainer.runs.folder import RunFolder\n"
            "with RunFolder(Path(sys.argv[1])).held(): print('held', flush=True); sys.stdin.read()",
            str(folder.path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    said = rf"is going on \(process {holder.pid} on .*choose another"
    with pytest.raises(ConfigError, match=said), folder.held():
        pass
    with RunFolder(tmp_path / "other").held():
        pass
    holder.kill()
    holder.wait()
    for _ in range(2):
        with folder.held():
            pass
