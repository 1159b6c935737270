"""A run's folder is usable whenever the run was killed."""

import json
from pathlib import Path

from extra_trainer.runs.folder import RunFolder


def test_what_came_after_the_last_checkpoint_is_forgotten(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (2, 4, 6):
        (folder.checkpoints / "_actor" / f"global_step{step}").mkdir(parents=True)
        folder.append_metrics({"step": step})
    (folder.checkpoints / "_actor" / "latest").write_text("global_step4")
    with folder.metrics.open("a") as file:
        file.write('{"step": 7, "rew')  # the process was killed while it wrote
    folder.forget_after(folder.last_checkpoint())
    assert [record["step"] for record in folder.read_metrics()] == [2, 4]
    assert sorted(path.name for path in (folder.checkpoints / "_actor").glob("global_step*")) == [
        "global_step2",
        "global_step4",
    ]
    folder.append_metrics({"step": 5})
    assert [json.loads(line)["step"] for line in folder.metrics.open()] == [2, 4, 5]


def test_the_name_of_a_run_stays_the_same(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).identity() == RunFolder(tmp_path).identity()
