"""Speed of the inspector's page on a run with 100,000 rollouts: `extra-rl bench inspect --json`.

A run folder of that size is made up and indexed; then headless Chromium opens the list several times without
a cache and clicks through its filters. First paint is the browser's first-contentful-paint, `rows_visible`
the time until the first rows of the table are drawn; a filter is timed from the click (or the last key) until
two frames after the list has changed, all by the page's clock. The same is measured on a run of a tenth of
the size, to show which times depend on it. Needs Debian's `chromium` and the package playwright.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from playwright.sync_api import Browser, Page, sync_playwright

from extra_rl.vocabulary import FinishReason, VerdictStatus
from extra_trainer.runs.folder import RunFolder
from extra_trainer.runs.schema import RolloutRecord, pack_array
from support.browser import FLAGS
from support.inspector_server import inspecting

STEPS, GROUPS, SAMPLES, TOKENS = 100, 128, 8, 120
PROMPTS = 2000
#: Most seconds to the first paint, and for a filter, that are acceptable.
FIRST_PAINT_LIMIT, FILTER_LIMIT = 2.0, 0.3
#: Resolves with the milliseconds from what `act` does until the list has changed and was drawn.
TIMED = """(act) => new Promise((resolve) => {
  const found = document.getElementById("found");
  const started = performance.now();
  const drawn = () => resolve(performance.now() - started);
  new MutationObserver((_, observer) => {
    observer.disconnect();
    requestAnimationFrame(() => requestAnimationFrame(drawn));
  }).observe(found, {childList: true, characterData: true, subtree: true});
  if (act.button) {
    [...document.querySelectorAll("button")].find((b) => b.textContent.trim() === act.button).click();
  } else {
    const input = document.querySelector("input[type=search]");
    input.value = act.search;
    input.dispatchEvent(new Event("input", {bubbles: true}));
  }
})"""


def make_run(path: Path, steps: int) -> None:
    """Write a run folder of made-up rollouts, with as many steps."""
    random = np.random.default_rng(0)
    path.mkdir()
    folder = RunFolder(path)
    folder.config.write_text(
        yaml.safe_dump({"name": "made-up", "seed": 0, "prefix": {"min_segment_tokens": 8}})
    )
    words = [f"{first}{second}" for first in ["so", "then", "thus", "now", "here"] for second in range(100)]
    folder.write_vocabulary(words)
    texts = [" ".join(random.choice(words, TOKENS)) for _ in range(512)]
    tokens = pack_array(random.integers(0, len(words), TOKENS, dtype=np.int32))
    entropies = pack_array(random.exponential(0.3, TOKENS).astype(np.float16))
    rates = random.beta(0.6, 0.6, PROMPTS)
    for step in range(1, steps + 1):
        prompts = random.integers(0, PROMPTS, GROUPS)
        solved = random.random((GROUPS, SAMPLES)) < rates[prompts][:, None]
        folder.write_rollouts(
            step,
            (
                RolloutRecord(
                    prompt_id=f"prompt-{prompt}",
                    prompt=f"What is {prompt} times {prompt % 97} plus {prompt % 13}?",
                    answer=str(prompt * (prompt % 97) + prompt % 13),
                    guided=place >= GROUPS - 8,
                    prefix_id="",
                    prefix_tokens=0,
                    group=place,
                    sample=sample,
                    text=texts[int(random.integers(len(texts)))],
                    finish_reason=FinishReason.STOP,
                    status=_status(random, right),
                    unparseable_side=None,
                    extracted=str(prompt),
                    rule="integer",
                    detail="",
                    normalized_response=str(prompt),
                    normalized_answer=str(prompt * (prompt % 97) + prompt % 13),
                    novelty=round(float(random.exponential(0.05)), 6)
                    if right and random.random() < 0.3
                    else 0.0,
                    suspicious="",
                    new_steps=(),
                    behind_answer=0,
                    nearest=None,
                    times_given=None,
                    outcome_bonus=0.0,
                    policy_version=step,
                    tokens=TOKENS,
                    mean_entropy=0.3,
                    packed_token_ids=tokens,
                    packed_entropies=entropies,
                )
                for place, prompt in enumerate(prompts.tolist())
                for sample, right in enumerate(solved[place].tolist())
            ),
        )


def _status(random: np.random.Generator, right: bool) -> VerdictStatus:
    if right:
        return VerdictStatus.CORRECT
    return VerdictStatus.TIMEOUT if random.random() < 0.002 else VerdictStatus.WRONG


def measure(steps: int, repeats: int) -> dict[str, Any]:
    """Return the figures of a run of so many steps, in seconds."""
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        run = Path(temporary) / "run"
        make_run(run, steps)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        try:
            with inspecting(run, Path(temporary) / "cache") as address:
                started = time.monotonic()
                _wait_for_index(browser, address, steps * GROUPS * SAMPLES)
                indexing = time.monotonic() - started
                paints = [_paints(browser, address) for _ in range(repeats)]
                filters = _filters(browser, address, repeats)
        finally:
            browser.close()
    return {
        "rollouts": steps * GROUPS * SAMPLES,
        "indexing": indexing,
        "first_paint": statistics.median(first for first, _ in paints),
        "rows_visible": statistics.median(rows for _, rows in paints),
        "filters": filters,
    }


def _wait_for_index(browser: Browser, address: str, rollouts: int) -> None:
    page = browser.new_page()
    page.goto(f"{address}/?view=rollouts")
    page.wait_for_function(
        "(text) => document.getElementById('found')?.textContent === text",
        arg=f"{rollouts:,} rollouts",
        timeout=300_000,
    )
    page.close()


def _paints(browser: Browser, address: str) -> tuple[float, float]:
    """Return the seconds to the first contentful paint, and to the rows; nothing is cached."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.goto(f"{address}/?view=rollouts")
    page.wait_for_selector("tbody a")
    rows = page.evaluate("new Promise(done => requestAnimationFrame(() => done(performance.now())))")
    first = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    context.close()
    return first / 1000, rows / 1000


def _filters(browser: Browser, address: str, repeats: int) -> dict[str, float]:
    """Return name of a filter -> median of its seconds, each applied to the whole list."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(f"{address}/?view=rollouts")
    page.wait_for_selector("tbody a")
    # Wait until the page's connection answers.
    _act(page, {"button": "Hard"})
    _act(page, {"button": "All"})
    acts = {
        **{name.lower(): {"button": name} for name in ("Hard", "Rescued", "Most novel", "Undecided")},
        "search, many": {"search": "so1"},
        "search, few": {"search": "1999 times"},
    }
    times: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(repeats):
        for name, act in acts.items():
            times[name].append(_act(page, act))
            _act(page, {"button": "All"} if "button" in act else {"search": ""})
    page.close()
    return {name: statistics.median(values) for name, values in times.items()}


def _act(page: Page, act: dict[str, str]) -> float:
    milliseconds: float = page.evaluate(TIMED, act)
    return milliseconds / 1000


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON (the only format)")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    small, large = (measure(steps, options.repeats) for steps in (STEPS // 10, STEPS))
    slowest = max(large["filters"].values())
    ratios = {
        "first_paint_of_limit": large["first_paint"] / FIRST_PAINT_LIMIT,
        "slowest_filter_of_limit": slowest / FILTER_LIMIT,
        "first_paint_large_over_small": large["first_paint"] / small["first_paint"],
    }
    print(
        json.dumps({"ratios": ratios, "figures": {"seconds": large, "seconds_of_a_tenth": small}}, indent=1)
    )


if __name__ == "__main__":
    main()
