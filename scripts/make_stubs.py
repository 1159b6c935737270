"""Generate the Python stubs of protos/extra_rl/v1 into contract/extra_rl/v1.

Run by `make protos`; with --check it generates into a temporary folder and fails if the committed stubs
differ, which is what CI runs. The generators are those of requirements/stubs.txt, in an environment that uv
makes and caches: they are older than the packages that the stubs are tested with, because stubs run on later
releases of protobuf and grpcio but not on earlier ones.
"""

import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STUBS = ROOT / "contract" / "extra_rl" / "v1"


def generate(out: Path) -> None:
    """Write the stubs of all protos below `out`.

    Raises:
        SystemExit: uv is missing, or a generator failed; it has printed why.
    """
    # `make` installs uv beside the interpreter, in an environment that need not be activated.
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        sys.exit("uv is missing: pip install uv")
    protos = sorted(str(path) for path in (ROOT / "protos").rglob("*.proto"))
    outputs = [f"--{kind}_out={out}" for kind in ("python", "grpc_python")]
    # quiet keeps the plug-in from printing a line a file; mypy_grpc types servicers and stubs, sync and aio.
    outputs += [f"--mypy_out=quiet:{out}", f"--mypy_grpc_out=quiet:{out}"]
    command = [uv, "run", "--quiet", "--isolated", "--no-project", "--python", sys.executable]
    command += ["--with-requirements", str(ROOT / "requirements" / "stubs.txt"), "python"]
    command += ["-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", *outputs, *protos]
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit("the stubs could not be generated")


def check() -> None:
    """Fail if the committed stubs are not what the protos give."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / "extra_rl" / "v1"
        names = sorted(path.name for path in fresh.iterdir())
        committed = sorted(p.name for p in STUBS.iterdir() if "_pb2" in p.name)
        _, differing, missing = filecmp.cmpfiles(fresh, STUBS, names, shallow=False)
    stale = {*differing, *missing, *(set(committed) ^ set(names))}
    if stale:
        sys.exit(f"stubs are stale, run `make protos`: {sorted(stale)}")


if __name__ == "__main__":
    check() if "--check" in sys.argv[1:] else generate(ROOT / "contract")
