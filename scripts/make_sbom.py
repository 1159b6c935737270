"""Write a software bill of materials of each image, dist/sbom/IMAGE.cdx.json (CycloneDX). Run by `make dist`.

It lists the packages of the image's lock with their versions and hashes, so that they can be looked up in a
database of vulnerabilities without the image. The tool is run by uvx and not installed.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from extra_rl import __version__

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "dist" / "sbom"
TOOL = "cyclonedx-bom==7.5.0"
#: Locks of the images that a release is deployed as; the others are of tools.
IMAGES = ("client", "generation-cpu", "generation-cuda", "novelty", "trainer", "verification")


def make(image: str) -> None:
    """Write the file of one image.

    Raises:
        SystemExit: The tool failed, or left out a package of the lock.
    """
    lock, file = ROOT / "requirements" / f"{image}.lock", OUT / f"{image}.cdx.json"
    # `make` installs uv beside the interpreter, in an environment that need not be activated.
    uvx = shutil.which("uvx", path=str(Path(sys.executable).parent)) or shutil.which("uvx")
    if uvx is None:
        sys.exit("uvx is missing: pip install uv")
    command = [uvx, "--quiet", "--from", TOOL, "cyclonedx-py", "requirements", str(lock)]
    command += ["--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "library", "--output-reproducible"]
    command += ["--spec-version", "1.6", "--output-file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{TOOL} failed for {lock.name}:\n{done.stderr}")
    content = json.loads(file.read_text(encoding="utf-8"))
    content["metadata"]["component"]["version"] = __version__
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    found = {(each["name"], each.get("version")) for each in content["components"]}
    pinned = set(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", lock.read_text(encoding="utf-8"), re.MULTILINE))
    if found != pinned:
        sys.exit(f"{file.name} differs from {lock.name}: {sorted(found ^ pinned)}")


def main() -> None:
    """Write all files."""
    OUT.mkdir(parents=True, exist_ok=True)
    for image in IMAGES:
        make(image)
    print(f"{len(IMAGES)} bills of materials in {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
