"""A long rehearsal with all parts on, watched.

    extra-rl bench long_run --json [--steps 500] [--folder FOLDER]

It trains `trainer/configs/rehearsal.yaml`, four prompts a step, with novelty, outcome novelty, prefixes,
checkpoints, and thinned records (SETTINGS). After every step it records, for each process of the run, the
resident memory that is not shared with others, and the open files; and the size of each part of the run
folder. The result is one JSON object. `memory` gives by process the MiB after the warm-up (all but the last
300 steps) and at the end, and the slope of a line through these steps (Theil and Sen's, which single high
values do not move) in MiB a step. `files` gives the same of open files, `folder` the bytes that each part of
the run folder gains with a step, and `grown` what grew.

The exit code is 1 if, over these 300 steps, the memory of a process grew by 5 % or its files by more than 2,
or if training failed.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from scipy import stats

from benchmarks.processes import OTHERS, ROLES, role_of
from benchmarks.soak import FILES_GROWTH, MEMORY_GROWTH

ROOT = Path(__file__).resolve().parents[1]
#: Steps at the end over which growth is measured; those before them are the warm-up.
MEASURED_STEPS = 300
#: Seconds between looks at the run's metrics.
LOOK_SECONDS = 0.5
PROBLEMS, PROMPTS_PER_STEP = 64, 4
SETTINGS = {
    "data.train_problems": PROBLEMS,
    "rollout.prompts_per_step": PROMPTS_PER_STEP,
    "optimization.minibatch_prompts": PROMPTS_PER_STEP,
    "outcome.enabled": "true",
    "evaluation.problems": 16,
    "checkpoint.every_steps": 20,
    "recording.every_steps": 5,
    "recording.keep": 10,
}
#: Ray's own processes beside those of the run.
RAY_ROLES = {
    "ray::IDLE": "idle worker of Ray",
    "raylet": "raylet",
    "gcs_server": "Ray's control store",
    "log_monitor": "Ray's log monitor",
}


@dataclass
class Samples:
    """What was measured, by step; a process or a part that does not exist is not in the step's dict."""

    steps: list[int] = field(default_factory=list)
    memory: list[dict[str, int]] = field(default_factory=list)
    files: list[dict[str, int]] = field(default_factory=list)
    folder: list[dict[str, int]] = field(default_factory=list)

    def take(self, step: int, run: Path, launcher: psutil.Process) -> None:
        """Measure the processes under the launcher, and the run folder."""
        memory: Counter[str] = Counter()
        files: Counter[str] = Counter()
        for process in [launcher, *launcher.children(recursive=True)]:
            with suppress(psutil.Error):  # it has just ended
                name, used = role_of(process, ROLES | RAY_ROLES), process.memory_info()
                memory[name] += used.rss - used.shared
                files[name] += process.num_fds()
        self.steps.append(step)
        self.memory.append(dict(memory))
        self.files.append(dict(files))
        self.folder.append({path.name: _size(path) for path in run.iterdir()})


def main() -> None:
    """Train, print the JSON object, and exit with 0 or 1."""
    parser = argparse.ArgumentParser(prog="extra-rl bench long_run")
    parser.add_argument("--json", action="store_true", help="accepted for all benchmarks; always JSON")
    parser.add_argument("--steps", type=int, default=500, help="at least so many, whole passes over the data")
    parser.add_argument("--folder", type=Path, help="where the run folder and the samples are left")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        samples, code = _train(folder, arguments.steps)
        _save(samples, folder)
    if code:
        sys.exit(f"training ended with exit code {code}")
    result = summary(samples)
    print(json.dumps(result))
    sys.exit(int(bool(result["grown"])))


def _train(folder: Path, steps: int) -> tuple[Samples, int]:
    """Train, and return what was measured and the exit code."""
    run = folder / "run"
    passes = -(-steps // (PROBLEMS // PROMPTS_PER_STEP))
    settings = {**SETTINGS, "optimization.epochs": passes}
    command = [sys.executable, "-m", "extra_cli", "train", str(ROOT / "trainer/configs/rehearsal.yaml")]
    command += ["--run", str(run), "--cache", str(ROOT / "trainer/start-models")]
    command += [f"--set={name}={value}" for name, value in settings.items()]
    samples = Samples()
    with (folder / "train.log").open("wb") as log:
        process, done = psutil.Popen(command, stdout=log, stderr=log), 0
        try:
            while not _has_ended(process, LOOK_SECONDS):
                step = _steps(run)
                if step > done:
                    done = step
                    samples.take(step, run, process)
                    if step % 20 == 0:
                        _report(samples)
                        _save(samples, folder)
        finally:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
            process.wait()
    return samples, process.returncode


def _has_ended(process: psutil.Popen, seconds: float) -> bool:
    """Wait for the end of a process for so many seconds at most, and return whether it came."""
    with suppress(psutil.TimeoutExpired):
        process.wait(seconds)
        return True
    return False


def _save(samples: Samples, folder: Path) -> None:
    (folder / "samples.json").write_text(json.dumps(vars(samples)))


def _steps(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.is_file() else 0


def _report(samples: Samples) -> None:
    memory = {name: f"{used / 2**20:.0f} MiB" for name, used in samples.memory[-1].items()}
    print(f"step {samples.steps[-1]}", memory, sum(samples.files[-1].values()), "files", file=sys.stderr)


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files under a folder; a link has none."""
    if path.is_symlink():
        return 0
    total = 0
    for each in [path, *path.rglob("*")]:
        with suppress(FileNotFoundError):  # an old checkpoint, or an unfinished file
            total += each.stat().st_size if each.is_file() else 0
    return total


def summary(samples: Samples) -> dict[str, Any]:
    """Return the figures of the module's docstring; `grown` names what grew too much."""
    result: dict[str, Any] = {"steps": samples.steps[-1], "samples": len(samples.steps), "grown": []}
    steps = np.array(samples.steps, dtype=float)
    for what, unit in (("memory", 2**20), ("files", 1)):
        result[what] = {}
        for name, values in _by_name(getattr(samples, what)).items():
            fitted = _growth(steps, values / unit)
            if fitted is None or name == OTHERS:
                continue
            result[what][name] = fitted
            growth = fitted["slope"] * MEASURED_STEPS
            too_much = (
                growth >= (MEMORY_GROWTH - 1) * fitted["before"]
                if what == "memory"
                else growth > FILES_GROWTH
            )
            if too_much:
                result["grown"].append(f"{what} of {name}")
    result["folder"] = {}
    for name, values in _by_name(samples.folder).items():
        fitted = _growth(steps, values)
        if fitted is not None and (fitted["before"] or fitted["end"]):
            result["folder"][name] = {"end": fitted["end"], "bytes_a_step": round(fitted["slope"])}
    return result


def _by_name(samples: list[dict[str, int]]) -> dict[str, NDArray[np.float64]]:
    """Return by name its values, NaN where a sample has none."""
    found: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.full(len(samples), np.nan))
    for place, sample in enumerate(samples):
        for name, value in sample.items():
            found[name][place] = value
    return dict(found)


def _growth(steps: NDArray[np.float64], values: NDArray[np.float64]) -> dict[str, float] | None:
    """Return the level at the beginning of the measured steps and at the end, and the slope between.

    None if fewer than half of the measured samples have a value.
    """
    measured = steps > steps[-1] - MEASURED_STEPS
    there = measured & ~np.isnan(values)
    if there.sum() < measured.sum() / 2:
        return None
    x, y = steps[there], values[there]
    part = max(1, len(y) // 10)
    slope = float(stats.theilslopes(y, x).slope)
    return {
        "before": round(float(np.median(y[:part])), 1),
        "end": round(float(np.median(y[-part:])), 1),
        "slope": round(slope, 5),
    }


if __name__ == "__main__":
    main()
