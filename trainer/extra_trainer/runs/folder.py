"""The folder of a run: paths of all that a run reads and writes, and its records.

config.yaml             the config as resolved
data/                   the problems the run reads: train.jsonl, evaluation/SET.jsonl
start_model             the policy to start from (a link)
weights/policy/         the policy as the generation service loads it (the final model, at the end)
checkpoints/            OpenRLHF's checkpoints, from which the run resumes
memory/                 the store of a novelty server that the launcher started
format                  version of the records (`schema`)
metrics.jsonl           one line a step
rollouts/               one file a step, one line a rollout
prefixes/               one file a step, one line a hard group: how it was split, which prefix was chosen
vocabulary.json         text of each token alone
evaluation-before.json, evaluation-after.json, and with .jsonl the samples they come from
logs/                   of the services and of OpenRLHF
report.html, report.md
identity                name of the run's memories on servers that it shares with other runs
lock                    held while the run goes on: one launcher at a time
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from extra_rl.config_file import ConfigError
from extra_trainer.runs import schema
from extra_trainer.runs.schema import PrefixChoiceRecord, RecordError, RolloutRecord, StepMetrics

#: Folders with one file a step.
StepFolder = Literal["rollouts", "prefixes"]
STEP_FOLDERS: tuple[StepFolder, ...] = ("rollouts", "prefixes")
Record = TypeVar("Record", RolloutRecord, PrefixChoiceRecord, StepMetrics)


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically: if the process is killed, the file is complete or as it was before."""
    # Two experiments may add to one table: each thread has a temporary file of its own.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def mark_checkpoint(checkpoints: Path, tag: str) -> None:
    """Name the folder `tag` in `checkpoints` as the newest checkpoint, where DeepSpeed looks for the name."""
    write_whole(checkpoints / "latest", tag)


def read_line(kind: type[Record], line: str | bytes, path: Path) -> Record:
    """Read one line of a file of records.

    Raises:
        RecordError: This release cannot read it; the message names `path`, the file.
    """
    try:
        return kind.from_json(json.loads(line))
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run's folder, and its records."""

    path: Path

    @property
    def config(self) -> Path:
        """The run's config."""
        return self.path / "config.yaml"

    @property
    def data(self) -> Path:
        """Folder of the problems that the run reads."""
        return self.path / "data"

    @property
    def train_data(self) -> Path:
        """The training problems."""
        return self.data / "train.jsonl"

    @property
    def evaluation_data(self) -> Path:
        """Folder with one file for each evaluation set."""
        return self.data / "evaluation"

    @property
    def weights(self) -> Path:
        """Folder of the policy's folder, `policy_path`."""
        return self.path / "weights"

    #: The policy's folder, relative to `weights`.
    policy_path = "policy"

    @property
    def start_model(self) -> Path:
        """The model that the run starts from."""
        return self.path / "start_model"

    @property
    def checkpoints(self) -> Path:
        """OpenRLHF's checkpoints."""
        return self.path / "checkpoints"

    @property
    def memory(self) -> Path:
        """Data folder of the run's own novelty server."""
        return self.path / "memory"

    @property
    def logs(self) -> Path:
        """Folder of the logs."""
        return self.path / "logs"

    @property
    def format(self) -> Path:
        """Version of the records."""
        return self.path / "format"

    @property
    def metrics(self) -> Path:
        """Metrics of the steps."""
        return self.path / "metrics.jsonl"

    @property
    def vocabulary(self) -> Path:
        """Text of each token."""
        return self.path / "vocabulary.json"

    @property
    def failure(self) -> Path:
        """Reason for which the trainer's process failed."""
        return self.path / "failure.txt"

    def evaluation(self, when: str) -> Path:
        """Return the path of the evaluation "before" or "after" training."""
        return self.path / f"evaluation-{when}.json"

    def step_file(self, folder: StepFolder, step: int) -> Path:
        """Return the path of a step's rollouts or prefix choices."""
        return self.path / folder / f"step-{step:06d}.jsonl"

    def step_files(self, folder: StepFolder) -> Iterator[tuple[int, Path]]:
        """Yield each step whose file exists, in order, with the file's path."""
        for path in sorted((self.path / folder).glob("step-*.jsonl")):
            yield int(path.stem.removeprefix("step-")), path

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep the folder for this process, and create it; the lock ends with the process in any case.

        Raises:
            ConfigError: Another process has it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise ConfigError(
                    f"the run in {self.path} is going on ({file.read().strip() or 'in another process'}):"
                    " stop it first, or choose another folder with --run"
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield

    def last_checkpoint(self) -> int:
        """Return the step of the newest checkpoint, 0 if there is none.

        Raises:
            ConfigError: The file that names it does not.
        """
        latest = self.checkpoints / "_actor" / "latest"
        if not latest.is_file():
            return 0
        step = latest.read_text().removeprefix("global_step")
        others = sorted(
            int(tag.name.removeprefix("global_step")) for tag in latest.parent.glob("global_step*")
        )
        if step.isdecimal() and int(step) in others:
            return int(step)
        # A run that was killed while it wrote the newest one may have left it incomplete.
        older = f"write global_step{others[-2]} into it" if len(others) > 1 else "delete it to begin again"
        raise ConfigError(f"{latest} names no checkpoint: {older}, and resume the run")

    def identity(self) -> str:
        """Return a name that no other run has; the first call creates it."""
        if not self.existing_identity():
            write_whole(self.path / "identity", f"{self.path.name}-{uuid.uuid4().hex[:8]}")
        return self.existing_identity()

    def existing_identity(self) -> str:
        """Return the run's name as `identity` created it, "" if it did not yet; writes nothing."""
        path = self.path / "identity"
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def check_format(self) -> None:
        """Check that this release reads the records.

        Raises:
            RecordError: They are of another major version.
        """
        if self.format.is_file():
            try:
                schema.check_format(self.format.read_text(encoding="utf-8"))
            except RecordError as error:
                raise RecordError(f"{self.path} cannot be read: {error}") from error

    def append_metrics(self, metrics: StepMetrics) -> None:
        """Append the metrics of a step."""
        self._write_format()
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics.to_json()) + "\n")

    def read_metrics(self) -> list[StepMetrics]:
        """Return the metrics of the steps so far; a line that is still being written is left out.

        Raises:
            RecordError: This release cannot read them.
        """
        self.check_format()
        if not self.metrics.is_file():
            return []
        text = self.metrics.read_text(encoding="utf-8")
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [read_line(StepMetrics, line, self.metrics) for line in lines]

    def forget_after(self, step: int) -> None:
        """Delete the checkpoints, records and metrics of later steps, which a resumed run makes again."""
        for tag in self.checkpoints.glob("_actor/global_step*"):
            if int(tag.name.removeprefix("global_step")) > step:
                shutil.rmtree(tag)
        for folder in STEP_FOLDERS:
            for made_in, path in self.step_files(folder):
                if made_in > step:
                    path.unlink()
        kept = [metrics for metrics in self.read_metrics() if metrics.step <= step]
        write_whole(self.metrics, "".join(json.dumps(metrics.to_json()) + "\n" for metrics in kept))

    def keep_records(self, last: int) -> None:
        """Delete the records of all but the last recorded steps, whose number is `last`."""
        for folder in STEP_FOLDERS:
            for _, path in list(self.step_files(folder))[:-last]:
                path.unlink()

    def unrecorded_steps(self, last: int) -> int:
        """Return how many of the steps up to `last` have no records of their rollouts."""
        return last - sum(1 for step, _ in self.step_files("rollouts") if step <= last)

    def write_rollouts(self, step: int, records: Iterable[RolloutRecord]) -> None:
        """Write the rollouts of a step."""
        self._write_lines(self.step_file("rollouts", step), records)

    def write_prefix_choices(self, step: int, records: Iterable[PrefixChoiceRecord]) -> None:
        """Write how the hard groups of a step were split, and which prefixes were chosen."""
        self._write_lines(self.step_file("prefixes", step), records)

    def read_rollouts(self) -> Iterator[tuple[int, list[RolloutRecord]]]:
        """Yield each step that was recorded, in order, with its rollouts.

        Raises:
            RecordError: This release cannot read them.
        """
        self.check_format()
        for step, _ in self.step_files("rollouts"):
            # A run that goes on may have deleted the file meanwhile (`keep_records`).
            with contextlib.suppress(FileNotFoundError):
                yield step, self.read_step(step)

    def read_step(self, step: int) -> list[RolloutRecord]:
        """Return the rollouts of a step that was recorded.

        Raises:
            FileNotFoundError: It was not.
            RecordError: This release cannot read them.
        """
        path = self.step_file("rollouts", step)
        with path.open(encoding="utf-8") as lines:
            # Not splitlines: a text may hold other line separators, which JSON leaves as they are.
            return [read_line(RolloutRecord, line, path) for line in lines]

    def write_vocabulary(self, pieces: Sequence[str]) -> None:
        """Write the text of each token, unless the file exists."""
        if not self.vocabulary.is_file():
            write_whole(self.vocabulary, json.dumps(pieces, ensure_ascii=False))

    @staticmethod
    def clock() -> Callable[[], float]:
        """Return a function that returns the seconds since its last call."""
        last = time.monotonic()

        def lap() -> float:
            nonlocal last
            before, last = last, time.monotonic()
            return last - before

        return lap

    def _write_lines(self, path: Path, records: Iterable[RolloutRecord | PrefixChoiceRecord]) -> None:
        self._write_format()
        path.parent.mkdir(exist_ok=True)
        lines = (json.dumps(record.to_json(), ensure_ascii=False) + "\n" for record in records)
        write_whole(path, "".join(lines))

    def _write_format(self) -> None:
        if not self.format.is_file():
            write_whole(self.format, schema.format_text())
