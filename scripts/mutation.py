"""`make mutation`: small changes ("mutants") of the code that decides rewards, and whether tests notice each.

    python scripts/mutation.py [--sample 60] [--seed 0] [MODULE ...]

mutmut changes one operator, constant or call at a time, and runs the tests that reach the changed function.
It wants packages at the top of a folder, so they are copied to build/mutation first. Of each module's mutants
a random sample is run (`--sample 0`: all). Printed are, by module, the number of mutants and the share that
was killed, and a diff of each survivor; the exit code is 1 if fewer than 90 % were killed in any module.
docs/mutation.md has the last figures, and the reasons why survivors may survive.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "mutation"
LEAST_KILLED = 0.9
PACKAGES = (
    "contract/extra_rl",
    "client/extra_client",
    "services/extra_services",
    "trainer/extra_trainer",
    "cli/extra_cli",
)
#: Module -> the tests that must notice its mutants. They start no server of ours.
MODULES = {
    "extra_trainer/exploration/advantage.py": (
        "tests/unit/test_trainer_advantage.py",
        "tests/unit/test_trainer_scores.py",
        "tests/unit/test_trainer_step_advantages.py",
        "tests/unit/test_trainer_overlong.py",
        "tests/conformance/test_advantage_golden.py",
    ),
    "extra_services/prefix/splitting.py": (
        "tests/unit/test_prefix_selection.py",
        "tests/conformance/test_prefix_golden.py",
    ),
    "extra_services/prefix/selection.py": (
        "tests/unit/test_prefix_selection.py",
        "tests/conformance/test_prefix_golden.py",
    ),
    "extra_services/novelty/metrics.py": (
        "tests/unit/test_novelty_metrics.py",
        "tests/conformance/test_novelty_golden.py",
    ),
    "extra_services/novelty/scoring.py": ("tests/unit/test_novelty_scoring.py",),
    "extra_services/novelty/outcome_scoring.py": ("tests/unit/test_novelty_outcome.py",),
    "extra_services/novelty/share.py": ("tests/unit/test_novelty_share.py",),
    "extra_services/verification/equality.py": ("tests/unit/test_verification_equality.py",),
    # Idempotent writes: keys, conflicts, and what is kept of a change that failed.
    "extra_services/memory/memory.py": ("tests/unit/test_memory_changes.py",),
    "extra_services/memory/sqlite_tables.py": ("tests/unit/test_memory_store_contract.py",),
    "extra_services/memory/redis_store.py": ("tests/unit/test_memory_store_contract.py",),
}
#: Exit codes of a mutant's tests, as mutmut keeps them; others are kills.
SURVIVED, NO_TESTS = 0, 33
#: Those of mutants whose tests did not end, such as an endless loop's: kills, unless the machine is too busy.
OUT_OF_TIME = (-24, 24, 36, 152, 255)


def main() -> None:
    """Run the mutants, print the figures, and exit with 0 or 1."""
    parser = argparse.ArgumentParser(prog="mutation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("modules", nargs="*", help="parts of the names of modules; absent: all of MODULES")
    parser.add_argument("--sample", type=int, default=60, help="mutants of each module; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    # Not resolved: a link is how Python finds its virtual environment.
    parser.add_argument(
        "--python", type=os.path.abspath, default=sys.executable, help="the Python that has mutmut"
    )
    options = parser.parse_args()
    wanted = options.modules or [""]
    chosen = [module for module in MODULES if any(part in module for part in wanted)]
    poor = [module for module in chosen if _killed(module, options) < LEAST_KILLED]
    if poor:
        sys.exit(f"fewer than {LEAST_KILLED:.0%} of the mutants were killed in {', '.join(poor)}")


def _killed(module: str, options: argparse.Namespace) -> float:
    """Run mutants of one module, print what became of them, and return the share that was killed."""
    _prepare(module)
    # A name that no mutant has: mutmut makes the mutants, finds the tests of each, and stops.
    _mutmut(options.python, "run", "--max-children", "1", "none")
    names = sorted(_exit_codes(module))
    sample = (
        names
        if not options.sample
        else random.Random(options.seed).sample(names, min(options.sample, len(names)))
    )
    print(f"{module}: {len(sample)} of {len(names)} mutants", flush=True)
    _mutmut(options.python, "run", "--max-children", "1", *sample)
    codes = _exit_codes(module)
    if any(codes[name] is None for name in sample):
        sys.exit(f"{module}: mutmut did not run all mutants: see {WORK / 'mutmut.log'}")
    alive = [name for name in sample if codes[name] in (SURVIVED, NO_TESTS)]
    for name in alive:
        print(f"{name}: {'no test reaches it' if codes[name] == NO_TESTS else 'survived'}")
        print(_mutmut(options.python, "show", name))
    killed = 1 - len(alive) / len(sample)
    late = sum(codes[name] in OUT_OF_TIME for name in sample)
    print(
        f"{module}: {len(sample) - len(alive)} of {len(sample)} killed, {killed:.0%};"
        f" {late} of them because their tests did not end in time",
        flush=True,
    )
    return killed


def _prepare(module: str) -> None:
    """Copy packages and tests to WORK, and write the settings of pytest and mutmut."""
    shutil.rmtree(WORK, ignore_errors=True)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, WORK / Path(package).name)
    shutil.copytree(ROOT / "tests", WORK / "tests")
    # The tests import from it: Python must find it when it starts.
    (WORK / "mutants" / "tests").mkdir(parents=True)
    settings = {
        "source_paths": [module.partition("/")[0]],
        "only_mutate": [module],
        "also_copy": [Path(package).name for package in PACKAGES],
        "pytest_add_cli_args": ["-q", "-x", "-p", "no:cacheprovider"],
        # Mutants get this many times the seconds that their tests took: on a busy machine few are too slow.
        "timeout_multiplier": 60.0,
        "pytest_add_cli_args_test_selection": list(MODULES[module]),
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    own = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (WORK / "pyproject.toml").write_text("\n".join([own, "[tool.mutmut]", *lines, ""]), encoding="utf-8")


def _mutmut(python: str, *arguments: str) -> str:
    path = os.pathsep.join([str(WORK / "mutants"), str(WORK / "mutants" / "tests")])
    done = subprocess.run(
        [python, "-m", "mutmut", *arguments],
        cwd=WORK,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    log = WORK / "mutmut.log"
    with log.open("a", encoding="utf-8") as file:
        file.write(done.stdout + done.stderr)
    return done.stdout


def _exit_codes(module: str) -> dict[str, int | None]:
    """Return mutant -> exit code of its tests, None if they did not run."""
    path = WORK / "mutants" / f"{module}.meta"
    if not path.is_file():
        sys.exit(f"mutmut made no mutants of {module}: see {WORK / 'mutmut.log'}")
    codes: dict[str, int | None] = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
    return codes


if __name__ == "__main__":
    main()
