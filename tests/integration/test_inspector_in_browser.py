"""The inspector in a real browser, on a run that the trainer recorded."""

import hashlib
import json
import re
import runpy
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from extra_client.integrations import prompt_id
from extra_inspector import markup
from extra_trainer.runs.schema import unpack_array
from support.browser import accessibility_violations, browsing, keep, needs_chromium
from support.inspector_server import DEMO, inspecting
from support.recorded_logs import LOGS

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    before = _content(DEMO)
    with inspecting(DEMO, tmp_path_factory.mktemp("cache")) as where:
        yield where
    # It only looks.
    assert _content(DEMO) == before


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _records(kind: str) -> list[dict]:  # type: ignore[type-arg]
    return [
        {**json.loads(line), "step": int(path.stem.removeprefix("step-"))}
        for path in sorted((DEMO / kind).glob("*.jsonl"))
        for line in path.open()
    ]


def _followed() -> tuple[dict, dict]:  # type: ignore[type-arg]
    """A choice that a guided group grew from, and a rollout of that group."""
    rollouts = _records("rollouts")
    for choice in _records("prefixes"):
        for rollout in rollouts:
            same = rollout["prompt_id"] == choice["prompt_id"] and rollout["prefix_id"] == choice["selected"]
            if rollout["guided"] and same and rollout["step"] > choice["step"]:
                return choice, rollout
    raise AssertionError("the demo run holds no guided group")


def _open(page: Page, address: str, query: str = "") -> None:
    page.goto(f"{address}/?{query}")
    total = len(_records("rollouts"))
    expect(page.get_by_text(f"{total:,} rollouts", exact=False).first).to_be_visible(timeout=20_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_rollouts_are_filtered_searched_and_sorted(address: str, scheme: str) -> None:
    rollouts = _records("rollouts")
    with browsing(scheme, 1400) as page:
        _open(page, address)
        page.get_by_role("button", name="Rollouts").click()
        found = page.locator("#found")
        expect(found).to_have_text(f"{len(rollouts):,} rollouts")
        page.get_by_role("button", name="Most novel").click()
        novel = sorted((r["novelty"] for r in rollouts if r["novelty"] > 0), reverse=True)
        expect(found).to_have_text(re.compile(rf"^{len(novel)} rollout"))
        expect(page.locator("tbody tr").first).to_contain_text(f"{novel[0]:.4f}")
        page.get_by_role("button", name="Rescued").click()
        rescued = {(r["step"], r["group"]) for r in rollouts if r["guided"] and r["status"] == "correct"}
        expect(found).to_have_text(f"{sum((r['step'], r['group']) in rescued for r in rollouts)} rollouts")
        page.get_by_role("button", name="All", exact=True).click()
        page.get_by_label("Search").fill(rollouts[0]["prompt"].strip())
        expect(found).to_have_text(f"{sum(r['prompt'] == rollouts[0]['prompt'] for r in rollouts)} rollouts")
        page.wait_for_url(re.compile("q="))
        keep(page, f"inspect-list-{scheme}")
        assert accessibility_violations(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_hard_prompt_shows_its_split_its_candidates_and_what_grew(address: str, scheme: str) -> None:
    choice, grown = _followed()
    with browsing(scheme, 1400, 1000) as page:
        page.goto(f"{address}/prompt/{choice['prompt_id']}?step={choice['step']}&place={choice['group']}")
        split = page.locator(f"#sample-{choice['sample']}")
        expect(split.locator(".cut")).to_have_count(len(choice["lengths"]))
        shown = split.locator(".t").all_text_contents()
        record = next(
            r
            for r in _records("rollouts")
            if (r["step"], r["group"], r["sample"]) == (choice["step"], choice["group"], choice["sample"])
        )
        assert len(shown) == len(unpack_array(record["token_ids"], "<i4"))
        table = page.get_by_role("region", name="Candidate prefixes")
        expect(table.locator("tbody tr")).to_have_count(len(choice["candidates"]))
        chosen = next(c for c in choice["candidates"] if c["prefix_id"] == choice["selected"])
        row = table.locator("tr.chosen")
        expect(row).to_contain_text(f"{chosen['mean_entropy']:.3f}")
        expect(row).to_contain_text(f"{chosen['smoothed_entropy']:.3f}")
        keep(page, f"inspect-prompt-{scheme}")
        assert accessibility_violations(page) == []
        page.get_by_role("link", name=f"Step {grown['step']}", exact=True).click()
        heading = page.get_by_role("heading", name=f"Rollouts of step {grown['step']}: guided group")
        expect(heading).to_be_visible()
        expect(page.locator("#sample-0 .context")).to_have_count(grown["prefix_tokens"])
        expect(page.get_by_text("This group continues from a prefix of")).to_be_visible()


def test_a_solution_is_compared_with_what_was_nearest_when_it_came(address: str) -> None:
    novel = max(_records("rollouts"), key=lambda record: record["novelty"])
    with browsing("light", 1400, 1000) as page:
        page.goto(f"{address}/prompt/{novel['prompt_id']}?step={novel['step']}&place={novel['group']}")
        dots = page.locator("svg.map a")
        expect(dots.first).to_be_visible()
        expect(
            page.get_by_role("heading", name=f"novelty {novel['novelty']:.4f} when it came")
        ).to_be_visible()
        expect(page.locator(".diff ins").first).to_be_visible()
        # By keyboard: the map's solutions are links.
        dots.last.focus()
        label = dots.last.get_attribute("aria-label") or ""
        page.keyboard.press("Enter")
        number = label.split(",")[0]
        expect(page.get_by_role("heading", name=re.compile(rf"^{number}: novelty"))).to_be_visible()
        verdict = page.locator(f"#sample-{novel['sample']} header")
        expect(verdict).to_contain_text("correct")
        expect(verdict).to_contain_text(f"decided by {novel['rule']}")
        keep(page, "inspect-solutions")


def test_logs_of_another_trainer_show_what_they_hold_and_what_is_missing(tmp_path: Path) -> None:
    with inspecting(LOGS / "verl", tmp_path) as where, browsing("light", 1400, 1000) as page:
        page.goto(f"{where}/?view=rollouts")
        expect(page.locator("#found")).to_have_text("8 rollouts", timeout=20_000)
        expect(page.locator("tbody tr").filter(has_text="–")).to_have_count(8)
        expect(page.locator(".badge.correct")).to_have_count(2)
        assert accessibility_violations(page) == []
        first = json.loads((LOGS / "verl" / "2.jsonl").read_text().splitlines()[0])
        page.goto(where + markup.link(prompt_id(first["input"]), step=2))
        heading = page.get_by_role("heading", name="Rollouts of step 2: group, no verdicts")
        expect(heading).to_be_visible()
        expect(page.locator("#sample-1")).to_contain_text("no verdict")
        expect(page.locator("#sample-1")).to_contain_text("score -1")
        expect(page.locator("#sample-1")).to_contain_text("mean entropy –")
        # Other trainers have no prefixes and no memory, so nothing is said of them.
        expect(page.get_by_text("Memory of correct solutions")).to_have_count(0)
        keep(page, "inspect-imported")
        assert accessibility_violations(page) == []


def test_a_browser_with_the_token_is_let_in_and_no_other(tmp_path: Path) -> None:
    token = "extra_rl_for-this-test"
    sha256 = hashlib.sha256(token.encode()).hexdigest()
    with inspecting(DEMO, tmp_path, "--token-sha256", sha256) as where:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(where)
        asked = urllib.request.Request(where, headers={"Authorization": f"Bearer {token}"})
        assert urllib.request.urlopen(asked).status == 200
        with browsing() as page:
            page.goto(f"{where}/?token={token}")
            assert token not in page.url
            # The page's connection is let in too: it answers.
            page.get_by_role("button", name="Rollouts").click()
            expect(page.locator("#found")).to_have_text(re.compile(r"rollouts$"))


def test_a_prompt_that_is_not_there_is_said_to_be_so(address: str) -> None:
    with browsing() as page:
        page.goto(f"{address}/prompt/nothing")
        expect(page.get_by_role("heading", name="No such prompt")).to_be_visible()


@pytest.mark.slow
def test_a_run_of_a_hundred_thousand_rollouts_is_listed_and_filtered(tmp_path: Path) -> None:
    benchmark = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "inspect.py"))
    benchmark["make_run"](tmp_path / "run", benchmark["STEPS"])
    with inspecting(tmp_path / "run", tmp_path / "cache") as where, browsing("light", 1400) as page:
        page.goto(f"{where}/?view=rollouts")
        found = page.locator("#found")
        expect(found).to_have_text("102,400 rollouts", timeout=120_000)
        page.get_by_role("button", name="Undecided").click()
        expect(page.locator("tbody tr").first).to_contain_text("timeout")
        page.get_by_role("button", name="Most novel").click()
        page.get_by_role("button", name="Next page").click()
        expect(page.locator("tbody tr")).to_have_count(25)
        keep(page, "inspect-100000")
