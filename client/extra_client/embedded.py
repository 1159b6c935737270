"""Services as child processes of the caller, for use without deployment.

A child has a session of its own, so that Ctrl-C reaches only the caller. Its standard input is a pipe of the
caller's: when that closes, the child stops, so it ends with the caller even if the caller is killed. It
listens on a Unix socket in a private folder and writes its address there once it serves. The memory of an
embedded novelty service is in that folder too unless it gets a data folder: two callers never share one by
accident.
"""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from extra_client.errors import UnavailableError

#: Seconds a child may drain before it is killed; above the servers' own drain_seconds.
STOP_SECONDS = 15.0
_LOG_LINES = 20


class EmbeddedService:
    """A service that runs as a child of this process; `start` makes one.

    Attributes:
        target: Address for clients.
        process: The child.
        log_file: Where its output goes.
    """

    def __init__(self, service: str, folder: Path, log_file: Path | None, settings: dict[str, Any]) -> None:
        self.service = service
        self.target = ""
        self.log_file = log_file or folder / "log"
        #: Whether it serves TLS.
        self.tls = settings.get("tls_certificate") is not None
        self._folder = folder
        self._owner = os.getpid()
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        flags = {
            **_defaults(service, folder, settings),
            **settings,
            "address_file": folder / "address",
            "stop_with_stdin": True,
        }
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "extra_cli", "serve", service, *_flags(flags)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # The token is for other servers, and workers of this one may run code of others.
                env={name: value for name, value in os.environ.items() if name != "EXTRA_RL_TOKEN"},
            )
        _running.add(self)

    def wait_until_serving(self, seconds: float) -> None:
        """Return once the child serves.

        Raises:
            UnavailableError: It ended before that, or did not serve within `seconds`.
        """
        until = time.monotonic() + seconds
        address = self._folder / "address"
        while not address.exists():
            if self.process.poll() is not None:
                raise UnavailableError(f"the {self.service} service did not start: {self.exit_summary()}")
            if time.monotonic() > until:
                raise UnavailableError(
                    f"the {self.service} service did not serve within {seconds:g} s; "
                    f"its log ends:\n{self._tail()}"
                )
            time.sleep(0.02)
        self.target = address.read_text(encoding="utf-8")

    def exit_summary(self) -> str:
        """Return how the child ended, with the last lines of its log."""
        return f"exit code {self.process.returncode}; its log ends:\n{self._tail()}"

    def stop(self) -> None:
        """Stop the child: running calls may finish; after 15 s it is killed."""
        if self._owner != os.getpid() or self not in _running:
            return
        _running.discard(self)
        self._close_pipe()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> "EmbeddedService":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _close_pipe(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def _tail(self) -> str:
        if not self.log_file.exists():
            return "(the log is gone)"
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode("utf-8", "replace").splitlines()
        return "\n".join(lines[-_LOG_LINES:]) or "(it is empty)"


_running: set[EmbeddedService] = set()
_shared: dict[str, tuple[EmbeddedService, int]] = {}
_lock = threading.Lock()


def start(
    service: str, log_file: str | Path | None = None, *, start_timeout: float = 180.0, **settings: Any
) -> EmbeddedService:
    """Start a service and return once it serves.

    Args:
        service: "generation", "novelty" or "verification".
        log_file: Output is appended to it. None: a temporary file that is deleted with the service.
        start_timeout: Seconds it may take to start.
        **settings: The server's flags: `memory_capacity=8` is `--memory-capacity=8`, a bool is `--x` or
            `--no-x`, None leaves the flag out. With `host` or `port` it listens there instead of on a private
            Unix socket. The novelty service forgets everything when it ends unless it gets a `data_folder` or
            `config`. It serves metrics only if `metrics_port` is given.

    Raises:
        UnavailableError: It ended, or did not serve in time. The message has the last lines of its log.
    """
    folder = Path(tempfile.mkdtemp(prefix="extra-rl-"))
    child = EmbeddedService(service, folder, Path(log_file) if log_file else None, settings)
    try:
        child.wait_until_serving(start_timeout)
    except BaseException:
        # After a failed start there are no calls to finish.
        child.process.kill()
        child.stop()
        raise
    return child


def acquire(service: str) -> EmbeddedService:
    """Return the service that all `embedded` clients of this process share; start it if needed."""
    with _lock:
        child, users = _shared.get(service, (None, 0))
        if child is None or child.process.poll() is not None:
            child, users = start(service), 0
        _shared[service] = (child, users + 1)
        return child


def release(child: EmbeddedService) -> None:
    """Give an acquired service back; the last user stops it."""
    with _lock:
        shared, users = _shared.get(child.service, (None, 0))
        if shared is child and users > 1:
            _shared[child.service] = (child, users - 1)
            return
        if shared is child:
            del _shared[child.service]
    child.stop()


def find(target: str) -> EmbeddedService | None:
    """Return the running service of this process that listens at `target`."""
    return next((child for child in list(_running) if child.target == target), None)


def _defaults(service: str, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    # Two services on one machine cannot share the default port of the metrics.
    defaults: dict[str, Any] = {"metrics_port": "off"}
    if not settings.keys() & {"host", "port"}:
        socket = f"unix:{folder / 'socket'}"
        # The kernel takes socket paths of 107 bytes at most.
        fits = len(os.fsencode(socket)) <= len("unix:") + 107
        defaults |= {"host": socket} if fits else {"host": "127.0.0.1", "port": 0}
    configured = "config" in settings or "EXTRA_RL_NOVELTY_DATA_FOLDER" in os.environ
    if service == "novelty" and not configured:
        defaults["data_folder"] = folder / "data"
    return defaults


def _flags(settings: dict[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        elif isinstance(value, list | tuple | dict):
            yield f"--{flag}={json.dumps(value)}"
        else:
            yield f"--{flag}={value}"


@atexit.register
def _stop_all() -> None:
    for child in list(_running):
        child.stop()


def _forget_in_fork() -> None:
    # A forked worker (a data loader's, say) must not keep the pipe open after the caller has died.
    for child in list(_running):
        child._close_pipe()


os.register_at_fork(after_in_child=_forget_in_fork)
