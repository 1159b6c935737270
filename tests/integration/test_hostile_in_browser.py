"""The hostile strings of tests/support in a real browser: inspector and report run none of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from extra_inspector import markup
from extra_trainer.reports import report
from extra_trainer.runs.folder import RunFolder
from support.browser import browsing, needs_chromium
from support.hostile_texts import HOSTILE
from support.inspector_server import inspecting
from support.run_folders import rollout_record, write_run

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a prompt for each string, and one whose rollouts hold all of them."""
    path = write_run(tmp_path_factory.mktemp("runs") / "run", name=HOSTILE[0], steps=2)
    records = [
        rollout_record(
            prompt_id=prompt,
            prompt=text,
            answer=text,
            group=group,
            sample=sample,
            text=text,
            extracted=text,
            rule=text,
            detail=text,
            normalized_response=text,
            normalized_answer=text,
            new_steps=(text,),
            novelty=0.5,
        )
        for group, (prompt, texts) in enumerate([("all", HOSTILE), *((text, [text]) for text in HOSTILE)])
        for sample, text in enumerate(texts)
    ]
    RunFolder(path).write_rollouts(1, records)
    return path


@pytest.fixture(scope="module")
def address(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with inspecting(run, tmp_path_factory.mktemp("cache")) as where:
        yield where


def _assert_nothing_ran(page: Page) -> None:
    assert page.evaluate("window.stolen") is None
    assert page.locator("[onerror], [onload], iframe, object, embed").count() == 0


def test_the_inspector_runs_no_text(address: str) -> None:
    with browsing() as page:
        page.goto(f"{address}/")
        expect(page.locator("tbody tr").first).to_be_visible(timeout=20_000)
        _assert_nothing_ran(page)
        page.goto(f"{address}{markup.link('all')}")
        expect(page.locator("article.rollout")).to_have_count(len(HOSTILE), timeout=20_000)
        expect(page.get_by_text(HOSTILE[0], exact=False).first).to_be_visible()
        _assert_nothing_ran(page)
        for text in HOSTILE[::10]:
            page.goto(f"{address}{markup.link(text)}")
            expect(page.locator("article.rollout")).to_have_count(1, timeout=20_000)
            _assert_nothing_ran(page)


def test_the_report_runs_no_text(run: Path, tmp_path: Path) -> None:
    file = report.write_page([run], tmp_path / "report.html")
    with browsing() as page:
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-drawn]")
        _assert_nothing_ran(page)
