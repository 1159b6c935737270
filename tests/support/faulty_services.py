"""Services under faults: server processes that a test can damage, and clients that record all answers.

The calls to each service have `work`, one round of calls whose answers are checked and recorded, and `check`,
which asks again for everything acknowledged so far: nothing may be missing, different or counted twice.
"""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from extra_client import (
    EntropyRollout,
    ExtraError,
    GenerationClient,
    HardPrompt,
    NamespaceClient,
    NamespaceSettings,
    NoveltyClient,
    PrefixClient,
    VerificationClient,
)
from support.generation_models import make_model
from support.hosts import Host
from support.processes import SERVICES_PYTHON, wait_for

#: Seconds that a client waits for a server to come back, and that a call may take, on a busy machine.
PATIENCE = 200.0
TEXT = "a line of some words that is long enough\nanother line of words, also long enough\nthe end"


class FaultyService:
    """A server process in `folder`, on `host` (None: this machine), at one port during the whole test."""

    #: The NAME in `extra-rl serve NAME`.
    server: str

    def __init__(
        self,
        folder: Path,
        host: Host | None = None,
        flags: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.folder, self.host = folder, host
        #: Variables added to the environment at the next start.
        self.environment = environment or {}
        self.log = folder / "log"
        self._flags = list(flags)
        self.address = "127.0.0.1" if host is None else host.address
        self.port = free_port()
        self.target = f"{self.address}:{self.port}"
        self.prepare()
        self.start()

    def prepare(self) -> None:
        """Create what the first start needs."""

    def flags(self) -> list[str]:
        """Return the flags that this service needs."""
        return []

    def open(self, target: str, patience: float | None = None) -> "Calls":
        """Connect a client to the service at `target`."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the server and wait until it serves."""
        self.begin()
        ready = self.folder / "address"
        wait_for(lambda: ready.exists() or self.process.poll() is not None, "it did not start")
        assert self.process.poll() is None, self.log.read_text(errors="replace")[-4000:]

    def begin(self) -> None:
        """Start the server without waiting."""
        (self.folder / "address").unlink(missing_ok=True)
        command = [SERVICES_PYTHON, "-m", "extra_cli", "serve", self.server, f"--port={self.port}"]
        command += [f"--host={self.address}", f"--address-file={self.folder / 'address'}"]
        command += [*self.flags(), *self._flags]
        if self.host is not None:
            command = [*self.host.inside, *command, "--allow-plaintext-network"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"} | self.environment
            )

    def kill(self) -> None:
        """Kill the server with SIGKILL; its own children end by themselves."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Stop the server with SIGTERM; it must end with code 0."""
        self.process.terminate()
        assert self.process.wait(60) == 0

    def freeze(self, number: signal.Signals) -> None:
        """Send SIGSTOP or SIGCONT to the server and all its children."""
        for process in [psutil.Process(self.process.pid), *self.children()]:
            process.send_signal(number)

    def children(self) -> list[psutil.Process]:
        """Return all descendants of the server process."""
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def close(self) -> None:
        """End the process, whatever state it is in."""
        if self.process.poll() is None:
            self.freeze(signal.SIGCONT)
            self.process.kill()
        self.process.wait()


class Calls:
    """Calls of one client to a service under faults; safe to use from several threads."""

    def work(self, deadline: float | None = None) -> None:
        """Make one round of calls; raise ExtraError if one fails, AssertionError if an answer is wrong."""
        raise NotImplementedError

    def check(self) -> None:
        """Assert that everything acknowledged so far is unchanged."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection."""
        raise NotImplementedError


class Generation(FaultyService):
    """The generation service with a tiny model; its weights folder is `folder`/weights."""

    server = "generation"

    def prepare(self) -> None:
        make_model(self.folder / "model")
        (self.folder / "weights").mkdir(exist_ok=True)

    def flags(self) -> list[str]:
        model, weights = self.folder / "model", self.folder / "weights"
        return [f"--model={model}", f"--weights-root={weights}", "--threads=1"]

    def open(self, target: str, patience: float | None = None) -> "GenerationCalls":
        return GenerationCalls(GenerationClient(target, patience=patience))


class GenerationCalls(Calls):
    """Rollouts by seed: the same seed must give the same tokens, whatever happened in between."""

    def __init__(self, client: GenerationClient) -> None:
        self.client = client
        self._numbers = itertools.count()
        self._known: dict[int, list[list[int]]] = {}

    def work(self, deadline: float | None = None) -> None:
        seed = next(self._numbers) % 7
        tokens = self._tokens(seed, deadline)
        assert self._known.setdefault(seed, tokens) == tokens

    def check(self) -> None:
        for seed, tokens in self._known.items():
            assert self._tokens(seed, PATIENCE) == tokens

    def _tokens(self, seed: int, deadline: float | None) -> list[list[int]]:
        groups = self.client.generate(
            [[2, 3, 4], [5]], n=2, max_tokens=12, prefixes=[None, [6, 7]], seed=seed, deadline=deadline
        )
        return [rollout.token_ids.tolist() for group in groups for rollout in group]

    def close(self) -> None:
        self.client.close()


class Verification(FaultyService):
    """The verification service with one worker and one for slow items."""

    server = "verification"

    def flags(self) -> list[str]:
        return ["--workers=1", "--slow-workers=1", "--timeout-seconds=60"]

    def open(self, target: str, patience: float | None = None) -> "VerificationCalls":
        return VerificationCalls(VerificationClient(target, patience=patience))


class VerificationCalls(Calls):
    """Right and wrong pairs, some decided by the fast path and some by a worker; no pair is sent twice."""

    def __init__(self, client: VerificationClient) -> None:
        self.client = client
        self._numbers = itertools.count()

    def work(self, deadline: float | None = None) -> None:
        number = next(self._numbers)
        responses = [r"\boxed{4}", r"\boxed{5}", rf"\boxed{{x+{number}}}", rf"\boxed{{x+{number}}}"]
        answers = ["4", "4", f"{number}+x", f"{number + 1}+x"]
        verdicts = self.client.verify(responses, answers, deadline=deadline)
        assert [str(verdict.status) for verdict in verdicts] == ["correct", "wrong"] * 2

    def check(self) -> None:
        self.work(PATIENCE)

    def close(self) -> None:
        self.client.close()


class Novelty(FaultyService):
    """The novelty and prefix services on SQLite in `folder`/data, or on Redis if a flag says so."""

    server = "novelty"

    def flags(self) -> list[str]:
        return [f"--data-folder={self.folder / 'data'}"]

    def open(self, target: str, patience: float | None = None) -> "NoveltyCalls":
        return NoveltyCalls(target, patience, with_prefixes=True)


class NoveltyWithoutModel(Novelty):
    """The novelty service without an embedder: it starts in a second, and cannot store prefixes."""

    def flags(self) -> list[str]:
        return [*super().flags(), "--embedder=none"]

    def open(self, target: str, patience: float | None = None) -> "NoveltyCalls":
        return NoveltyCalls(target, patience, with_prefixes=False)


class NoveltyCalls(Calls):
    """Writes to both memories, each under its own key, with the recorded answers."""

    def __init__(self, target: str, patience: float | None, with_prefixes: bool) -> None:
        self._with_prefixes = with_prefixes
        settings = NamespaceSettings(memory_capacity=60_000, prefix_capacity=4096, min_history=1)
        self.novelty = NoveltyClient(target, "run", settings, patience=patience)
        self.namespace = NamespaceClient(target, "run", patience=patience)
        self.prefix = PrefixClient(target, "run", settings, patience=patience)
        self._numbers = itertools.count()
        #: Number of a write -> its answer, or None without an answer: then the write may be stored or not.
        self.scores: dict[int, list[float] | None] = {}
        self.added: dict[int, tuple[int, ...] | None] = {}

    def work(self, deadline: float | None = None) -> None:
        number = next(self._numbers)
        self.scores[number] = None
        self.scores[number] = self._score(number, deadline)
        if not self._with_prefixes:
            return
        self.added[number] = None
        self.added[number] = self._add(number, deadline)

    def _score(self, number: int, deadline: float | None) -> list[float]:
        vectors = np.random.default_rng(number).standard_normal((2, 8)).astype(np.float32)
        scores = self.novelty.score(
            f"p{number % 50}",
            embeddings=vectors,
            correct=[True, True],
            idempotency_key=f"score-{number}",
            deadline=deadline,
        )
        return [float(score) for score in scores]

    def _add(self, number: int, deadline: float | None) -> tuple[int, ...]:
        # Only twenty different texts, because the model is not under test.
        text = f"{number % 20} {TEXT}"
        rollout = EntropyRollout(
            token_ids=[ord(letter) for letter in text],
            entropies=[0.5] * len(text),
            text=text,
            token_ends=range(1, len(text) + 1),
        )
        added = self.prefix.add_rollouts(
            [HardPrompt(f"p{number % 50}", [rollout])],
            newline_token_ids=[10],
            idempotency_key=f"add-{number}",
            deadline=deadline,
        )[0]
        if added.error is not None:
            raise added.error
        return added.lengths

    def check(self) -> None:
        # Unacknowledged writes are sent again under their keys, as a trainer does, and then count once.
        for number, scores in list(self.scores.items()):
            again = self._score(number, PATIENCE)
            assert scores is None or again == scores, f"score {number} was {scores}, now {again}"
            self.scores[number] = again
        for number, lengths in list(self.added.items()):
            again_added = self._add(number, PATIENCE)
            assert lengths is None or again_added == lengths
            self.added[number] = again_added
        stored = {each.prompt_id: each for each in self.namespace.list_prompts(deadline=PATIENCE)}
        solutions = Counter[str]()
        prefixes = Counter[str]()
        for number in self.scores:
            solutions[f"p{number % 50}"] += 2
        for number, lengths in self.added.items():
            prefixes[f"p{number % 50}"] += len(lengths or ())
        assert {prompt: each.solutions_added for prompt, each in stored.items()} == dict(solutions)
        assert {prompt: each.prefixes for prompt, each in stored.items() if each.prefixes} == dict(+prefixes)

    def close(self) -> None:
        self.novelty.close()
        self.prefix.close()


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Load:
    """Calls that a thread makes one after the other until `end`; `seen` contains their errors."""

    def __init__(self, calls: Calls, deadline: float | None) -> None:
        self._calls, self._deadline, self._ended = calls, deadline, threading.Event()
        self.seen: list[BaseException] = []
        self.done = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._calls.work(self._deadline)
                self.done += 1
            except ExtraError as error:
                self.seen.append(error)
            except BaseException as error:
                self.seen.append(error)
                return

    def wait_for_more(self, rounds: int = 3) -> None:
        """Wait for that many more rounds."""
        before = self.done
        wait_for(lambda: self.done >= before + rounds or not self._thread.is_alive(), "no calls come through")

    def end(self) -> list[BaseException]:
        """Stop, and return the errors seen, in order; AssertionErrors are raised."""
        self._ended.set()
        self._thread.join()
        for error in self.seen:
            if not isinstance(error, ExtraError):
                raise error
        return self.seen


@contextmanager
def load(calls: Calls, deadline: float | None = None) -> Iterator[Load]:
    """Make calls for the duration of the context, each with this deadline."""
    running = Load(calls, deadline)
    try:
        yield running
    finally:
        running.end()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a disk of `size` (for example "4m") on `folder`; skip if mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True, check=False
    )
    if mounting.returncode:
        pytest.skip(f"cannot mount a small disk here: {mounting.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill the disk of `folder` with one file and return it."""
    path = folder / "filler"
    with path.open("wb") as file:
        file.write(b"\0" * shutil.disk_usage(folder).free)
    assert not shutil.disk_usage(folder).free
    return path


class Clock:
    """The time of day of processes that run with `environment`; their monotonic clock stays right."""

    def __init__(self, file: Path, library: Path) -> None:
        self._file = file
        self.jump("+0")
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, to: str) -> None:
        """Set the clock, for example to "+1d"."""
        self._file.with_suffix(".new").write_text(to + "\n")
        self._file.with_suffix(".new").rename(self._file)


def jumping_clock(folder: Path) -> Clock:
    """Return a clock that libfaketime controls; skip if that is not installed."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        pytest.skip("no libfaketime on this machine: apt-get install faketime")
    return Clock(folder / "clock", libraries[0])
