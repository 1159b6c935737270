"""The report in a real browser: complete without a network, in light and dark, by keyboard, accessible."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from extra_trainer.reports import report
from support.browser import accessibility_violations, browsing, keep, needs_chromium
from support.run_folders import write_run

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms, one of them of two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        write_run(folder / name, seed=seed, alpha=alpha)
        for name, seed, alpha in (("plain-0", 0, 0.0), ("plain-1", 1, 0.0), ("extra-0", 0, 0.1))
    ]
    return report.write_page(runs, folder / "report.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_in_light_and_dark_and_asks_for_nothing(page_file: Path, scheme: str) -> None:
    with browsing(scheme) as page:
        page.goto(page_file.as_uri())
        page.wait_for_selector("html[data-drawn]")
        assert page.locator("figure").count() == page.locator("figure .cartesianlayer").count()
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 22, 29)"}[scheme]
        keep(page, f"report-{scheme}")
        assert accessibility_violations(page) == []


def test_colours_follow_the_system_while_the_page_is_open(page_file: Path) -> None:
    with browsing("light") as page:
        page.goto(page_file.as_uri())
        ink = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
        light = page.evaluate(ink)
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(f"light => {ink} !== light", arg=light)


def test_it_is_used_by_keyboard(page_file: Path) -> None:
    with browsing() as page:
        page.goto(page_file.as_uri())
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
        lines = page.locator("figure").first.locator(".scatterlayer .trace.scatter")
        shown = lines.count()
        page.get_by_role("checkbox").last.focus()
        page.keyboard.press("Space")
        expect(lines).to_have_count(shown - 1)
        page.locator("summary").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("details[open] table").count() == 1


def test_every_figure_has_a_sentence_and_a_table(page_file: Path) -> None:
    with browsing() as page:
        page.goto(page_file.as_uri())
        for figure in page.locator("figure").all():
            assert len(figure.locator(".plot[role=img]").get_attribute("aria-label") or "") > 40
            assert figure.locator("details tbody tr").count() > 0
