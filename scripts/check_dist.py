"""Check the sdist and the wheel in dist/: names, contents, metadata. Run by `make dist`."""

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("extra_rl", "extra_client", "extra_services", "extra_cli", "extra_trainer", "extra_inspector")
#: Files that must be in the sdist, below its one folder.
SOURCES = ("LICENSE", "README.md", "pyproject.toml", "protos/extra_rl/v1/common.proto", "tests/conftest.py")
#: Largest size of a file for PyPI, in bytes, with room to spare.
LARGEST = 20 << 20


def problems(wheel: Path, sdist: Path) -> list[str]:
    """Return what is wrong with the two files."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    with tarfile.open(sdist) as archive_of_sources:
        sources = {name.partition("/")[2] for name in archive_of_sources.getnames()}
    tops = {name.partition("/")[0] for name in names}
    allowed = {*PACKAGES, f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"}
    found = [f"{wheel.name}: contains {name}" for name in sorted(tops - allowed)]
    found += [f"{wheel.name}: lacks {p}/py.typed" for p in PACKAGES if f"{p}/py.typed" not in names]
    if not any(name.endswith("licenses/LICENSE") for name in names):
        found.append(f"{wheel.name}: lacks the licence")
    found += [f"{sdist.name}: lacks {name}" for name in SOURCES if name not in sources]
    found += [f"{path.name}: too large" for path in (wheel, sdist) if path.stat().st_size > LARGEST]
    return found


def main() -> None:
    """Check what is in dist/."""
    wheels, sdists = list((ROOT / "dist").glob("*.whl")), list((ROOT / "dist").glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        sys.exit(f"dist/ must hold one wheel and one sdist, not {len(wheels)} and {len(sdists)}")
    sys.exit("\n".join(problems(wheels[0], sdists[0])) or 0)


if __name__ == "__main__":
    main()
