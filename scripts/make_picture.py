"""Makes docs/images/inspect.png: the page of a prompt in the inspector, as README.md shows it.

`python scripts/make_picture.py RUN PROMPT_ID` on a recorded run, such as that of `make demo`; a prompt with a
hard group that something grew from and a few different solutions shows most. Needs Debian's `chromium`.
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "inspect.png"
WIDTH, HEIGHT = 1440, 1435


def main(run: str, prompt_id: str) -> None:
    """Writes the picture."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "extra_cli", "inspect", run, "--port", str(port), "--cache", folder]
        server = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            _take(f"http://127.0.0.1:{port}/prompt/{prompt_id}", Path(folder) / "whole.png")
            # Some flat colours: a palette holds them, in a third of the bytes.
            picture = (
                Image.open(Path(folder) / "whole.png").convert("RGB").quantize(128, dither=Image.Dither.NONE)
            )
            PICTURE.parent.mkdir(exist_ok=True)
            picture.save(PICTURE, optimize=True)
        finally:
            server.terminate()
            server.wait()


def _take(address: str, path: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        # The server starts, and reads the run.
        for _ in range(30):
            try:
                page.goto(address)
                page.wait_for_selector("svg.map", timeout=2000)
                break
            except Exception:  # refused, or not indexed yet
                time.sleep(1)
        page.screenshot(path=path)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
