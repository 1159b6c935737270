"""The folder of a run: everything it reads and writes, and how to find it.

config.yaml             the config as resolved
data/                   the problems the run reads: train.jsonl, evaluation/SET.jsonl
start_model             the policy to start from (a link)
weights/policy/         the policy as the generation service loads it (the final model, at the end)
checkpoints/            OpenRLHF's checkpoints, from which the run resumes
memory/                 the store of a novelty server that the launcher started
metrics.jsonl           one line a step
rollouts/               one file a step, one line a rollout
prefixes/               one file a step, one line a hard prompt: how it was split, which prefix was chosen
vocabulary.json         what each token reads alone
evaluation-before.json, evaluation-after.json, and with .jsonl the samples they come from
logs/                   of the services and of OpenRLHF
report.html, report.md
identity                names the run's memories on servers it shares with other runs
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is there whole or as it was before, whenever the process is killed."""
    # Two experiments may add to one table.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def _write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    write_whole(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run's folder, and the files that are appended to."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def train_data(self) -> Path:
        return self.path / "data" / "train.jsonl"

    @property
    def evaluation_data(self) -> Path:
        """Folder with a file for each evaluation set."""
        return self.path / "data" / "evaluation"

    @property
    def weights(self) -> Path:
        return self.path / "weights"

    #: The policy's folder, relative to `weights`.
    policy_path = "policy"

    @property
    def start_model(self) -> Path:
        """The model the run starts from."""
        return self.path / "start_model"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def memory(self) -> Path:
        return self.path / "memory"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def vocabulary(self) -> Path:
        return self.path / "vocabulary.json"

    @property
    def failure(self) -> Path:
        return self.path / "failure.txt"

    def evaluation(self, when: str) -> Path:
        """The result of the evaluation "before" or "after" training."""
        return self.path / f"evaluation-{when}.json"

    def last_checkpoint(self) -> int:
        """Step of the newest checkpoint; 0 if there is none."""
        latest = self.checkpoints / "_actor" / "latest"
        return int(latest.read_text().removeprefix("global_step")) if latest.is_file() else 0

    def identity(self) -> str:
        """A name of this run that no other has; made when first asked for, the same ever after."""
        path = self.path / "identity"
        if not path.is_file():
            write_whole(path, f"{self.path.name}-{uuid.uuid4().hex[:8]}")
        return path.read_text(encoding="utf-8")

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Appends the line of a step."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines so far; a line that is still being written is left out."""
        if not self.metrics.is_file():
            return []
        text = self.metrics.read_text(encoding="utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def forget_after(self, step: int) -> None:
        """Drops what there is of later steps, which a resumed run makes again: rollouts, metrics."""
        for tag in self.checkpoints.glob("_actor/global_step*"):
            if int(tag.name.removeprefix("global_step")) > step:
                shutil.rmtree(tag)
        for kind in ("rollouts", "prefixes"):
            for path in (self.path / kind).glob("step-*.jsonl"):
                if int(path.stem.removeprefix("step-")) > step:
                    path.unlink()
        kept = [record for record in self.read_metrics() if record["step"] <= step]
        write_whole(self.metrics, "".join(json.dumps(record) + "\n" for record in kept))

    def write_rollouts(self, step: int, records: Iterable[dict[str, Any]]) -> None:
        """Writes what happened in a step, one line a rollout (`record.rollouts`)."""
        _write_lines(self.of_step("rollouts", step), records)

    def write_choices(self, step: int, records: Iterable[dict[str, Any]]) -> None:
        """Writes how a step's hard prompts were split, and what was chosen for them (`record.choices`)."""
        _write_lines(self.of_step("prefixes", step), records)

    def of_step(self, kind: str, step: int) -> Path:
        """The file of a step in "rollouts" or "prefixes"."""
        return self.path / kind / f"step-{step:06d}.jsonl"

    def write_vocabulary(self, pieces: Sequence[str]) -> None:
        """Writes what each token reads alone, unless it is there."""
        if not self.vocabulary.is_file():
            write_whole(self.vocabulary, json.dumps(pieces, ensure_ascii=False))

    def read_rollouts(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Each step that there is, in order, with its lines."""
        for path in sorted((self.path / "rollouts").glob("step-*.jsonl")):
            # Not splitlines: a text may hold other ends of line, which JSON leaves as they are.
            with path.open(encoding="utf-8") as lines:
                yield int(path.stem.removeprefix("step-")), [json.loads(line) for line in lines]

    @staticmethod
    def clock() -> Callable[[], float]:
        """A function that returns the seconds since it was last called."""
        last = time.monotonic()

        def lap() -> float:
            nonlocal last
            before, last = last, time.monotonic()
            return last - before

        return lap
