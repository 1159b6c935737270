"""Novelty of real solutions: score `rollouts_math.jsonl`, print the tables of docs/novelty-on-math.md.

    extra-rl bench novelty-on-math FOLDER_OF_THE_DATA > tables.md

Each problem has eight responses. The first four are stored, then the other four are scored as one group. Only
correct responses count. So a rollout is compared with the stored solutions and with its siblings.
"""

import argparse
import itertools
import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from extra_rl.vocabulary import Metric, ScoreMode, TextWindow
from extra_services.memory.embedding import Embedder
from extra_services.memory.memory import Memory
from extra_services.memory.records import NamespaceSettings
from extra_services.memory.sqlite_store import SqliteStore
from extra_services.novelty.request import GroupScores, Nearest, RolloutGroup, ScoringOptions
from extra_services.novelty.scoring import NoveltyScorer

#: Characters of an excerpt, and how many of them are before the first difference.
EXCERPT, LEAD = 130, 25
METRICS = (Metric.EMBEDDING, Metric.MEAN_COSINE, Metric.CLUSTER_SIZE)
WINDOWS = (TextWindow.REFERENCE, TextWindow.WHOLE)
#: It reads whole texts, whatever the window.
CHOSEN = (Metric.DERIVATION, TextWindow.WHOLE)


@dataclass(frozen=True)
class ScoredResponse:
    """A scored correct response and its nearest neighbour."""

    prompt_id: str
    text: str
    novelty: float
    nearest: Nearest
    #: The whole text of the nearest neighbour.
    nearest_text: str
    new_steps: list[str]


def read(path: Path) -> dict[str, list[dict[str, str]]]:
    """Return the responses by problem, in the order of the samples."""
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        groups[row["prompt_id"]].append(row)
    return groups


def group(rows: list[dict[str, str]]) -> RolloutGroup:
    """Return responses as a group for the scorer."""
    correct = np.array([bool(row["correct"]) for row in rows])
    return RolloutGroup(
        rows[0]["prompt_id"],
        correct,
        texts=[row["response"] for row in rows],
        problem=rows[0]["problem"],
        reference_answer=rows[0]["answer"],
    )


def score(
    memory: Memory, data: dict[str, list[dict[str, str]]], metric: Metric, window: TextWindow
) -> tuple[list[ScoredResponse], list[tuple[str, str]]]:
    """Score the last four responses of each problem.

    Returns:
        The correct ones, and prompt and reason of those that were left out as suspicious.
    """
    scorer, name = NoveltyScorer(memory), f"{metric}-{window}"
    memory.create_namespace(name, NamespaceSettings(min_history=1, text_window=window))
    scorer.score(
        name,
        [group(rows[:4]) for rows in data.values()],
        ScoringOptions(metric, mode=ScoreMode.REMEMBER_ONLY),
    )
    answers, _ = scorer.score(
        name, [group(rows[4:]) for rows in data.values()], ScoringOptions(metric, explain=True)
    )
    scored: list[ScoredResponse] = []
    left_out: list[tuple[str, str]] = []
    for answer, rows in zip(answers, data.values(), strict=True):
        assert isinstance(answer, GroupScores)
        left_out += [(rows[0]["prompt_id"], reason) for reason in answer.suspicious if reason]
        if not answer.memory_before and metric is Metric.EMBEDDING:
            continue
        stored = [row["response"] for row in rows[:4] if row["correct"]]
        if answer.memory_before != len(stored):
            # Some of them were suspicious, so the numbers of the others are not known.
            stored = []
        steps = answer.new_steps or [[] for _ in rows[4:]]
        for row, novelty, nearest, new in zip(
            rows[4:], answer.novelty.tolist(), answer.nearest, steps, strict=True
        ):
            if nearest is not None:
                near = nearest.excerpt
                if nearest.kind == "sibling":
                    near = rows[4 + nearest.number]["response"]
                elif stored:
                    near = stored[nearest.number]
                scored.append(ScoredResponse(row["prompt_id"], row["response"], novelty, nearest, near, new))
    return scored, left_out


def differing(text: str, other: str) -> tuple[str, str]:
    """Return both texts, from shortly before their first difference, as table cells."""
    text, other = " ".join(text.split()), " ".join(other.split())
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False))
    start = max(0, sum(1 for _ in alike) - LEAD)
    return cell(text, start), cell(other, start)


def cell(text: str, start: int) -> str:
    """Return an excerpt of `text` as a table cell."""
    part = text[start : start + EXCERPT].replace("|", "\\|").replace("`", " ")
    return f"`{'… ' if start else ''}{part}`"


def row(scored: ScoredResponse) -> str:
    """Return a row of the table of examples."""
    own, other = differing(scored.text, scored.nearest_text)
    where = f"{scored.nearest.kind} {scored.nearest.number}"
    steps = ", ".join(f"`{step}`".replace("|", "\\|") for step in scored.new_steps[:3])
    return f"| {scored.novelty:.3f} | {scored.prompt_id} | {steps} | {own} | {where} | {other} |"


Results = dict[tuple[Metric, TextWindow], tuple[list[ScoredResponse], list[tuple[str, str]]]]


def score_all(data: dict[str, list[dict[str, str]]]) -> Results:
    """Score the data with each metric and window."""
    embedder = Embedder("all-MiniLM-L6-v2")
    with tempfile.TemporaryDirectory() as store:
        memory = Memory(SqliteStore(Path(store)), embedder)
        kinds = [CHOSEN, *itertools.product(METRICS, WINDOWS)]
        results = {kind: score(memory, data, *kind) for kind in kinds}
        memory.close()
    return results


def main(folder: Path) -> None:
    """Print the tables."""
    data = read(folder / "rollouts_math.jsonl")
    results = score_all(data)
    main_result, left_out = results[CHOSEN]
    print("# Novelty of real solutions\n")
    print(
        f"The data are {len(data)} MATH problems with 8 responses each of a Qwen2.5-Math model. For each"
        " problem, the correct ones of the first four responses were stored, and then the correct ones of the"
        " other four were scored as one group (memory policy `correct`, `min_history` 1, raw scale)."
        " The tables are printed by\n\n"
        "    extra-rl bench novelty-on-math FOLDER_OF_THE_DATA\n"
    )
    print("## Size of the values\n")
    print("| metric | text window | responses | mean | median | 90th percentile | largest |")
    print("|---|---|---|---|---|---|---|")
    for (metric, window), (scored, _) in results.items():
        values = np.array([one.novelty for one in scored])
        quantiles = " | ".join(f"{value:.3f}" for value in np.percentile(values, [50, 90, 100]))
        print(f"| `{metric}` | `{window}` | {len(values)} | {values.mean():.3f} | {quantiles} |")
    zero = np.mean([one.novelty == 0 for one in main_result])
    print(
        f"\n`derivation` got the problem and the reference answer; {zero:.0%} of its novelties are 0, and"
        f" {len(left_out)} responses were left out as suspicious. Raw distances of embeddings are small: with"
        " alpha = 0.1 they add almost nothing to advantages of size 1. The scale `running_mean` solves it.\n"
    )
    main_result.sort(key=lambda one: -one.novelty)
    head = "| novelty | problem | new steps | response | nearest | its text |\n|---|---|---|---|---|---|"
    for title, chosen in (("Most", main_result[:12]), ("Least", main_result[-6:])):
        print(f"## {title} novel by `derivation`\n\n{head}")
        print("\n".join(row(one) for one in chosen) + "\n")
    print(
        "A *solution* was stored before; its number counts the prompt's solutions from 0. A *sibling* is in"
        " the same group; its number is the place in the group. Both texts are shown from shortly before"
        " their first difference."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="extra-rl bench novelty-on-math",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where rollouts_math.jsonl is")
    main(parser.parse_args().folder)
