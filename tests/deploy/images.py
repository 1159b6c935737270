"""Builds the images that the container tests run: `python tests/deploy/images.py [--all]`.

The project's own come from deploy/Containerfile as they are. No registry of images can be assumed, so their
base, and Redis and Prometheus beside them, are made from Debian's packages. Where pip finds packages is this
machine's affair: its configuration goes into a build as secrets and mounts, and into no layer.
"""

import argparse
import configparser
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE = "localhost/extra-rl/test-base"
#: Image -> Containerfile and target.
STAND_INS = {
    "localhost/extra-rl/test-redis": ("tests/deploy/Containerfile", "redis"),
    "localhost/extra-rl/test-prometheus": ("tests/deploy/Containerfile", "prometheus"),
}
SUITE = {
    f"localhost/extra-rl/{name}": ("deploy/Containerfile", name)
    for name in ("client", "verification", "generation-cpu", "novelty")
}
TRAINER = {"localhost/extra-rl/trainer": ("deploy/Containerfile", "trainer")}

#: podman without systemd: no cgroup manager, no journal, and crun fails on some machines' cgroups.
CONTAINERS_CONF = """\
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
"""

LIMITS = (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def environment() -> dict[str, str]:
    """Return the environment of podman."""
    conf = Path(tempfile.gettempdir()) / f"extra-rl-containers-{os.getuid()}.conf"
    # podman's own defaults may be above what this process may give.
    files, processes = (min(16384, resource.getrlimit(kind)[1] % 2**63) for kind in LIMITS)
    conf.write_text(CONTAINERS_CONF.format(files=files, processes=processes))
    return {**os.environ, "CONTAINERS_CONF": str(conf), "BUILDAH_ISOLATION": "chroot"}


def build(wanted: dict[str, tuple[str, str]]) -> None:
    """Builds what is not there yet, or not any more as the sources are; prints how long each took."""
    if _run("podman", "image", "exists", BASE, check=False).returncode:
        _timed("base", _make_base)
    with tempfile.TemporaryDirectory() as folder:
        options = _package_options(Path(folder))
        for image, (file, target) in wanted.items():
            command = [
                "podman",
                "build",
                "--quiet",
                "--layers",
                "--format=docker",
                "--network=host",
                *options,
            ]
            command += [f"--build-arg=BASE={BASE}", f"--target={target}", f"--tag={image}", f"--file={file}"]
            _timed(target, partial(_run, *command, "."))


def _make_base() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, tar = Path(folder) / "root", Path(folder) / "base.tar"
        packages = "python3,python3-venv,ca-certificates"
        options = ("--variant=minbase", f"--include={packages}")
        # A mirror now and then lets one of a hundred packages fall: what is there is not fetched again.
        for last in (False, False, True):
            # Its own list of sources is then this machine's mirror too.
            if not _run("debootstrap", *options, "bookworm", root, *_mirror(), check=last).returncode:
                break
        left_out = ("./var/cache/apt/*", "./var/lib/apt/lists/*", "./dev/*", "./proc/*", "./sys/*")
        _run("tar", "-C", root, *(f"--exclude={pattern}" for pattern in left_out), "-cf", tar, ".")
        _run("podman", "import", "--quiet", tar, BASE)


def _mirror() -> list[str]:
    """Return the address of this machine's Debian packages; empty: debootstrap's default."""
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    if sources.is_file():
        for line in sources.read_text().splitlines():
            if line.startswith("URIs:"):
                return [line.split()[1]]
    return []


def _package_options(folder: Path) -> list[str]:
    """Build options that bring this machine's configuration of pip to the installers."""
    found = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    given = {}
    for line in found.stdout.splitlines():
        name, _, value = line.partition("=")
        given[name.rpartition(".")[2]] = value.strip("'")
    pip = configparser.RawConfigParser()
    pip["global"] = {name: given[name] for name in ("index-url", "trusted-host") if name in given}
    with (folder / "pip.conf").open("w") as file:
        pip.write(file)
    index = f'index-url = "{given["index-url"]}"\n' if "index-url" in given else ""
    (folder / "uv.toml").write_text(index)
    options = [f"--secret=id={name},src={folder / name}" for name in ("pip.conf", "uv.toml")]
    options.append(f"--volume={CERTIFICATES}:{CERTIFICATES}:ro")
    wheels = given.get("find-links")
    if wheels and Path(wheels).is_dir():
        options += [f"--volume={wheels}:/wheels:ro", "--build-arg=UV_FIND_LINKS=/wheels"]
        options.append("--build-arg=TORCH_BACKEND=")
    return options


def _timed(what: str, do: "object") -> None:
    started = time.monotonic()
    do()  # type: ignore[operator]
    print(f"{what}: {time.monotonic() - started:.0f} s", flush=True)


def _run(*command: "str | Path", check: bool = True) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [str(word) for word in command], cwd=ROOT, env=environment(), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    if check and result.returncode:
        sys.exit(f"{command[0]} failed:\n{result.stdout[-5000:]}")
    return result


def main() -> None:
    """Builds the images of `make test-containers`, or with --all of `make test-containers-all`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", action="store_true", help="only the base")
    parser.add_argument("--all", action="store_true", help="the trainer's too")
    given = parser.parse_args()
    build({} if given.base else {**STAND_INS, **SUITE, **(TRAINER if given.all else {})})


if __name__ == "__main__":
    main()
