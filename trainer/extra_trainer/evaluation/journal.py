"""The journal of an evaluation: a JSON Lines file with the request and every finished problem.

The request comes first, then one line per problem with its samples, in the order in which they finished. A
problem counts as done once its line is on the disk. A last line that a kill cut short is dropped when the
file is opened again, and its problem is evaluated again. The file is locked while it is open, so that two
commands never write it at the same time.
"""

import fcntl
import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from extra_rl.config_file import ConfigError
from extra_trainer.evaluation.result import ProblemResult


class Journal:
    """An open journal; a context manager. `done` holds the results in it."""

    def __init__(self, path: Path, request: dict[str, Any], *, replace: bool = False) -> None:
        """Open or create a journal.

        Args:
            path: The file.
            request: The request of the evaluation, see `evaluator.request`.
            replace: Whether to replace a journal of another request.

        Raises:
            ConfigError: If another process has it open, or it is of another request or no journal.
        """
        self.done: dict[tuple[str, int], ProblemResult] = {}
        self._path = path
        self._before = 0.0
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read(request, replace)
        except BlockingIOError:
            self._file.close()
            raise ConfigError(f"another evaluation is writing {path}") from None
        except BaseException:
            self._file.close()
            raise
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def seconds(self) -> float:
        """Wall time so far: of earlier launches up to their last line, and of this one."""
        return self._before + time.monotonic() - self._started

    def append(self, result: ProblemResult, samples: list[dict[str, Any]]) -> None:
        """Write a problem's line; it is on the disk when this returns."""
        self._write({**result.model_dump(), "samples": samples, "seconds": round(self.seconds, 3)})
        self.done[result.set, result.index] = result

    def _read(self, request: dict[str, Any], replace: bool) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.splitlines()
        try:
            records = [json.loads(line) for line in lines]
            differing = differences(records[0]["request"], request) if records else []
            for record in records[1:]:
                self._before = record.pop("seconds")
                record.pop("samples")
                result = ProblemResult.model_validate(record)
                self.done[result.set, result.index] = result
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self._path} is no journal of an evaluation: {error!r}") from error
        if differing and not replace:
            raise ConfigError(
                f"{self._path} is of another evaluation: " + "; ".join(differing) + ". Continue with "
                "the same options and the same model, or choose another folder"
            )
        if differing or not records:
            self.done, self._before, whole = {}, 0.0, b""
        self._file.truncate(len(whole))
        if not whole:
            self._write({"request": request})

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def differences(earlier: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Describe the differences between two requests, one text per setting."""
    return [
        f"{name} was {earlier.get(name)!r} and is {now.get(name)!r}"
        for name in {**earlier, **now}
        if earlier.get(name) != now.get(name)
    ]
