"""The processes of a run or a service: what each of them is, and their CPU seconds."""

import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import psutil

#: Seconds between two looks at the processes.
EVERY = 0.2
#: What no role is known of.
OTHERS = "others"
#: Part of a process's command line -> its name here; the first that fits.
ROLES = {
    "serve generation": "generation",
    "serve novelty": "novelty",
    "serve verification": "verification",
    "PolicyModelActor": "policy",
    "ReferenceModelActor": "reference",
    "ExTraTrainer": "trainer",
    "extra_trainer.openrlhf.driver": "driver",
    "extra_cli train": "launcher",
}


class CpuSeconds:
    """Watches a process and its descendants until it ends, and keeps their CPU seconds over its steps.

    What a process used between the last look and its end is not counted.
    """

    def __init__(self, process: subprocess.Popen[bytes], steps: Callable[[], int]) -> None:
        """Begin to watch.

        Args:
            process: The process.
            steps: Returns how many steps it has ended.
        """
        self._root = psutil.Process(process.pid)
        self._steps = steps
        self._used: dict[tuple[int, float], tuple[str, float]] = {}
        #: Steps ended -> CPU seconds by role at that time.
        self._at: dict[int, Counter[str]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def per_step(self) -> dict[str, float]:
        """Return CPU seconds a step by role, of all steps but the first; the process has ended."""
        self._ended.set()
        self._thread.join()
        first, last = min(self._at), max(self._at)
        roles = self._at[last]
        return {role: (roles[role] - self._at[first][role]) / max(1, last - first) for role in roles}

    def _watch(self) -> None:
        while not self._ended.wait(EVERY):
            done = self._steps()
            self._look()
            if done and done not in self._at:
                used: Counter[str] = Counter()
                for role, seconds in self._used.values():
                    used[role] += seconds  # type: ignore[assignment]
                self._at[done] = used

    def _look(self) -> None:
        try:
            every = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in every:
            try:
                user, system = process.cpu_times()[:2]
                key = (process.pid, process.create_time())
                # A worker of Ray gets its name after it has started.
                self._used[key] = (role_of(process), user + system)
            except psutil.Error:
                continue


def used_by(processes: Iterable[psutil.Process]) -> float:
    """Return the CPU seconds of processes so far, without their children."""
    return float(sum(sum(process.cpu_times()[:2]) for process in processes))


def role_of(process: psutil.Process, roles: Mapping[str, str] = ROLES) -> str:
    """Return what a process is, by the first of `roles` that its command line holds; else OTHERS.

    Raises:
        psutil.Error: It has ended.
    """
    command = " ".join(process.cmdline())
    return next((name for part, name in roles.items() if part in command), OTHERS)
