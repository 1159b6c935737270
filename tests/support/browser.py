"""A real browser for tests: Debian's Chromium, headless, without requests to other hosts."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_core_python.sync_playwright import Axe
from playwright.sync_api import Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
#: Folder of the screenshots; ignored by git.
ARTIFACTS = Path(__file__).resolve().parents[2] / "test-artifacts"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

#: Patience with a page: other work on the machine slows it down many times.
PAGE_MILLISECONDS = 120_000
expect.set_options(timeout=20_000)

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"
)


@contextmanager
def browsing(scheme: str = "light", width: int = 1280, height: int = 900) -> Iterator[Page]:
    """Yield a page in a new profile; errors that it logs, and requests to other hosts, fail the test."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})  # type: ignore[arg-type]
        context.set_default_timeout(PAGE_MILLISECONDS)
        page = context.new_page()
        failures: list[str] = []
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("console", lambda line: failures.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: failures.append(request.url) if _foreign(request.url) else None)
        yield page
        browser.close()
    assert failures == []


def _foreign(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:"))


def keep(page: Page, name: str, *, whole: bool = True) -> None:
    """Save a screenshot as `name`.png in the artifacts folder."""
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=whole)


def accessibility_violations(page: Page) -> list[str]:
    """Return the violations of WCAG 2.2 A and AA that axe-core finds; removes the figures from the page."""
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    # Figures have labels; axe-core would need seconds for their thousands of elements.
    page.evaluate("document.querySelectorAll('.plot[role=img]').forEach((plot) => plot.replaceChildren())")
    options = {"runOnly": {"type": "tag", "values": tags}, "resultTypes": ["violations"]}
    found: dict[str, Any] = Axe().run(page, options=options)
    return [
        f"{violation['id']}: {node['html'][:160]}: {node['failureSummary'][:200]}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]
