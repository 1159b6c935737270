"""Make docs/images/inspect.png: the page of a prompt in the inspector, for README.md.

`python scripts/make_picture.py` takes a prompt of tests/data/demo_run with a hard group that a guided group
continued; `RUN PROMPT_ID` another one. Needs Debian's `chromium`.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from support.browser import CHROMIUM, FLAGS
from support.inspector_server import DEMO, inspecting

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "inspect.png"
WIDTH, HEIGHT = 1440, 1435
PROMPT = "5ccea5bf0f139012f9e2bc9bcd729ae4"


def main(run: str = str(DEMO), prompt_id: str = PROMPT) -> None:
    """Write the picture of a prompt's page in the run folder `run`."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.png"
        with inspecting(Path(run), Path(folder)) as address:
            _take(f"{address}/prompt/{prompt_id}", whole)
        # The page has few colours: with a palette the file is a third of the size.
        picture = Image.open(whole).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        PICTURE.parent.mkdir(exist_ok=True)
        picture.save(PICTURE, optimize=True)


def _take(address: str, path: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(address)
        page.wait_for_selector("svg.map")
        page.screenshot(path=path)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
