"""Check that the wheel installs and starts, for the client and for each extra, on each supported Python.

Run by `make check-install`. It builds the wheel and makes empty environments with uv:

- the client alone, on each Python, with the newest dependencies and with the oldest ones that pyproject.toml
  allows: an RPC through the generated stubs, the help within a second, and for each command that needs an
  extra one sentence that names it;
- each light extra: it installs, and all its modules can be imported;
- each heavy extra, and the combinations that README.md recommends for one environment: uv resolves them, from
  wheels alone, but downloads nothing.

A Python that uv does not find here is not downloaded: its extras are resolved for that version, and the
output says so. EXPECTED_FAILURES lists what does not resolve, with the reason.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
#: Where the CUDA wheels of vLLM's dependencies can be installed: glibc of 2024 or newer.
PLATFORM = "x86_64-manylinux_2_39"

#: Light extras, installed together with those that they are for -> packages whose modules must be importable.
LIGHT = {
    "server": "extra_services.runtime",
    "server,tracing": "extra_services.runtime",
    "verification": "extra_services.verification",
    "http": "extra_services.gateway",
    "server,redis": "extra_services.memory.redis_store",
    "onnx": "onnxruntime.capi.onnxruntime_pybind11_state",
    "inspect": "extra_inspector",
    "eval": "extra_trainer.commands.evaluate",
}
#: Resolved only: each brings torch or more.
HEAVY = (
    "novelty",
    "generation",
    "vllm",
    "trainer",
    "trl",
    "verl",
    "vllm,novelty,verification,redis,tracing,inspect,eval",
)
#: Packages that come as source only.
SOURCE_ONLY = {"trainer": ("deepspeed", "transformers-stream-generator")}
#: (extra, Python) -> the reason why it does not resolve.
EXPECTED_FAILURES = {("trainer", "3.13"): "openrlhf 0.11.2 has wheels for Python 3.10 to 3.12 only"}

#: Commands that need an extra -> the extra that the message names.
COMMANDS = {
    "serve novelty": "novelty",
    "serve verification": "verification",
    "serve generation": "generation",
    "token NAME": "server",
    "train CONFIG": "trainer",
    "report RUN": "trainer",
    "experiment CONFIG": "trainer",
    "inspect RUN": "inspect",
    "eval OUT --data D": "eval",
    "rescue OUT --data D --model M": "eval,generation,novelty,verification",
    "check-data FILE": "eval,verification",
    "reverify RUN": "eval,verification",
}
HELP_SECONDS = 1.0

#: An RPC through the stubs, in one process: a method that the server lacks is an error of the client.
ROUND_TRIP = """
import sys, tempfile
from concurrent.futures import ThreadPoolExecutor
import google.protobuf, grpc, numpy
from extra_client import ExtraError, NamespaceClient
from extra_rl.v1 import namespace_pb2_grpc as stubs
server = grpc.server(ThreadPoolExecutor(1))
stubs.add_NamespaceServiceServicer_to_server(stubs.NamespaceServiceServicer(), server)
address = f"unix:{tempfile.mkdtemp()}/socket"
server.add_insecure_port(address)
server.start()
try:
    with NamespaceClient(address, "any") as client:
        client.describe()
except ExtraError as error:
    assert "unknown to the server" in str(error), error
else:
    sys.exit("no error")
server.stop(0)
print(f"protobuf {google.protobuf.__version__}, grpcio {grpc.__version__}, numpy {numpy.__version__}")
"""
IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(getattr(package, "__path__", []), package.__name__ + "."):
    # Loaded by pytest alone, which no extra installs.
    if not module.name.endswith((".pytest_plugin", ".verifier_contract")):
        importlib.import_module(module.name)
"""


class Failures:
    """Runs checks, prints one line each, and counts those that failed."""

    def __init__(self) -> None:
        self.count = 0

    def report(self, name: str, problem: str, note: str = "") -> None:
        """Print the outcome of the check `name`; an empty problem is a success."""
        self.count += bool(problem)
        print(
            f"{'FAILED' if problem else 'ok':7} {name}{f': {note}' if note and not problem else ''}",
            flush=True,
        )
        if problem:
            print("        " + "\n        ".join(problem.strip().splitlines()[-12:]), flush=True)


def run(*command: str | Path, **settings: object) -> tuple[str, str]:
    """Run a command; return its standard output and, if it failed, what it printed on standard error."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **settings
    )  # type: ignore[call-overload]
    return done.stdout, "" if done.returncode == 0 else done.stderr or done.stdout or "failed"


def environment(folder: Path, python: str, requirement: str, *flags: str) -> tuple[Path, str]:
    """Make an environment with the requirement; return its programs' folder and the problem, if any."""
    _, problem = run("uv", "venv", "--quiet", "--no-project", "--python", python, folder)
    if not problem:
        _, problem = run(
            "uv", "pip", "install", "--quiet", "--python", folder / "bin/python", *flags, requirement
        )
    return folder / "bin", problem


def install_client(folder: Path, python: str, wheel: Path, resolution: str) -> tuple[Path, str]:
    """Make an environment with the client and the newest or oldest dependencies; return as `environment`."""
    programs, problem = environment(
        folder,
        python,
        str(ROOT / "pyproject.toml"),
        "--resolution",
        resolution,
        "--only-binary",
        ":all:",
        "-r",
    )
    if not problem:
        _, problem = run(
            "uv", "pip", "install", "--quiet", "--python", programs / "python", "--no-deps", wheel
        )
    return programs, problem


def check_commands(bin_folder: Path, python: str, failures: Failures) -> None:
    """Check the help, and the sentence of each command that needs an extra."""
    run(bin_folder / "extra-rl", "--help")  # compiles the modules
    start = time.monotonic()
    _, problem = run(bin_folder / "extra-rl", "--help")
    seconds = time.monotonic() - start
    if seconds > HELP_SECONDS:
        problem = problem or f"took {seconds:.2f} s"
    failures.report(f"Python {python}, extra-rl --help", problem, f"{seconds * 1000:.0f} ms")
    wrong = []
    for command, extra in COMMANDS.items():
        _, message = run(bin_folder / "extra-rl", *command.split())
        if len(message.splitlines()) != 1 or f"pip install 'extra-rl[{extra}]'" not in message:
            wrong.append(f"extra-rl {command}: {message.strip()[-300:] or 'no message'}")
    _, message = run(
        bin_folder / "extra-rl", "health", "novelty", "--target", "localhost:1", "--timeout", "1"
    )
    if len(message.splitlines()) != 1:
        wrong.append(f"extra-rl health: {message}")
    failures.report(
        f"Python {python}, commands without their extras", "\n".join(wrong), f"{len(COMMANDS)} messages"
    )


def check_resolution(wheel: Path, extra: str, python: str, failures: Failures) -> None:
    """Check that the extra resolves for a Python from wheels alone, or does not for the known reason."""
    command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", python]
    command += ["--python-platform", PLATFORM, "--only-binary", ":all:"]
    for package in SOURCE_ONLY.get(extra, ()):
        command += ["--no-binary", package]
    if extra == "trainer":
        command += ["--overrides", str(ROOT / "requirements/overrides.txt")]
    resolved, problem = run(*command, "-", input=f"extra-rl[{extra}] @ {wheel.as_uri()}")
    reason = EXPECTED_FAILURES.get((extra, python))
    if reason is None:
        failures.report(
            f"Python {python}, [{extra}] resolves", problem, f"{len(resolved.splitlines())} packages"
        )
    else:
        unexpected = "" if problem else "it resolves now: remove it from EXPECTED_FAILURES"
        failures.report(f"Python {python}, [{extra}] does not resolve", unexpected, reason)


def find(python: str) -> str | None:
    """Return the path of the interpreter of a version, or None. uv does not look into pyenv's folders."""
    of_pyenv = (Path.home() / ".pyenv" / "versions").glob(f"{python}.*/bin/python")
    found, _ = run("uv", "python", "find", "--no-project", "--no-python-downloads", python)
    return found.strip() or next(map(str, of_pyenv), None)


def check_python(wheel: Path, python: str, folder: Path, failures: Failures) -> None:
    """Check everything that is installed, on one Python."""
    found = find(python)
    if found is None:
        print(f"        Python {python} is not here: resolved only", flush=True)
        check_resolution(wheel, "server", python, failures)
    else:
        print(f"        Python {python} is {found}", flush=True)
        for resolution in ("highest", "lowest-direct"):
            programs, problem = install_client(folder / f"client-{resolution}", found, wheel, resolution)
            note = ""
            if not problem:
                note, problem = run(programs / "python", "-W", "error", "-c", ROUND_TRIP)
            failures.report(f"Python {python}, client, {resolution}", problem, note.strip())
        check_commands(folder / "client-highest" / "bin", python, failures)
        for extra, package in LIGHT.items():
            programs, problem = environment(folder / extra, found, f"extra-rl[{extra}] @ {wheel.as_uri()}")
            if not problem:
                _, problem = run(programs / "python", "-c", IMPORT_ALL, package)
            failures.report(f"Python {python}, [{extra}]", problem, f"imports {package}")
    for extra in HEAVY:
        check_resolution(wheel, extra, python, failures)


def main() -> None:
    """Check a wheel, by default a new one."""
    parser = argparse.ArgumentParser(description="Check that the wheel installs")
    parser.add_argument("--wheel", type=Path, help="default: build one")
    parser.add_argument("--python", action="append", help=f"default: {', '.join(PYTHONS)}")
    options = parser.parse_args()
    failures = Failures()
    with tempfile.TemporaryDirectory(prefix="extra-rl-install-") as name:
        folder = Path(name)
        wheel = options.wheel
        if wheel is None:
            _, problem = run("uv", "build", "--quiet", "--wheel", "--out-dir", folder / "dist", ROOT)
            if problem:
                sys.exit(problem)
            (wheel,) = (folder / "dist").glob("*.whl")
        for python in options.python or PYTHONS:
            check_python(wheel.resolve(), python, folder / python, failures)
    sys.exit(f"{failures.count} checks failed" if failures.count else 0)


if __name__ == "__main__":
    main()
