"""Generates the Python stubs of protos/extra_rl/v1 into contract/extra_rl/v1.

Run by `make protos`; with --check it generates into a temporary folder and fails if the committed stubs
differ, which is what CI runs.
"""

import filecmp
import os
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
STUBS = ROOT / "contract" / "extra_rl" / "v1"


def generate(out: Path) -> None:
    protos = sorted(str(path) for path in (ROOT / "protos").rglob("*.proto"))
    outputs = [f"--{kind}_out={out}" for kind in ("python", "grpc_python")]
    # quiet keeps the plug-in from printing a line a file; mypy_grpc types servicers and stubs, sync and aio.
    outputs += [f"--mypy_out=quiet:{out}", f"--mypy_grpc_out=quiet:{out}"]
    # protoc finds its plug-ins on PATH, where those of an environment that is not activated are not.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if protoc.main(["protoc", f"-I{ROOT / 'protos'}", *outputs, *protos]) != 0:
        sys.exit("protoc failed")


def check() -> None:
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
