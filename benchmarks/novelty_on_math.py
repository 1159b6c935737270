"""What is found novel among real solutions: scores `rollouts_math.jsonl` and prints docs/novelty-on-math.md.

    python benchmarks/novelty_on_math.py FOLDER_OF_THE_DATA > docs/novelty-on-math.md

Of each problem's eight responses the first four are remembered, then the other four are scored as one group,
only correct ones counting: so a rollout is compared with what was stored and with its siblings.
"""

import itertools
import json
import sys
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

#: Characters shown of a text, and of them how many before the difference.
EXCERPT, LEAD = 130, 25
METRICS = (Metric.EMBEDDING, Metric.MEAN_COSINE, Metric.CLUSTER_SIZE)
WINDOWS = (TextWindow.REFERENCE, TextWindow.WHOLE)


@dataclass(frozen=True)
class Scored:
    """A correct response that was scored, and its nearest neighbour."""

    prompt_id: str
    text: str
    novelty: float
    nearest: Nearest
    #: The whole text of the nearest neighbour.
    nearest_text: str


def read(path: Path) -> dict[str, list[dict[str, str]]]:
    """Responses by problem, in order of sample."""
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        groups[row["prompt_id"]].append(row)
    return groups


def group(rows: list[dict[str, str]]) -> RolloutGroup:
    """Responses as the service takes them."""
    correct = np.array([bool(row["correct"]) for row in rows])
    return RolloutGroup(rows[0]["prompt_id"], correct, texts=[row["response"] for row in rows])


def score(
    memory: Memory, data: dict[str, list[dict[str, str]]], metric: Metric, window: TextWindow
) -> list[Scored]:
    """The correct ones of each problem's last four responses."""
    scorer, name = NoveltyScorer(memory), f"{metric}-{window}"
    memory.create_namespace(name, NamespaceSettings(min_history=1, text_window=window))
    scorer.score(
        name, [group(rows[:4]) for rows in data.values()], ScoringOptions(mode=ScoreMode.REMEMBER_ONLY)
    )
    answers, _ = scorer.score(
        name, [group(rows[4:]) for rows in data.values()], ScoringOptions(metric, explain=True)
    )
    scored = []
    for answer, rows in zip(answers, data.values(), strict=True):
        assert isinstance(answer, GroupScores)
        if not answer.memory_before and metric is Metric.EMBEDDING:
            continue
        stored = [row["response"] for row in rows[:4] if row["correct"]]
        for row, novelty, nearest in zip(rows[4:], answer.novelty.tolist(), answer.nearest, strict=True):
            if nearest is not None:
                near = (
                    stored[nearest.number]
                    if nearest.kind == "solution"
                    else rows[4 + nearest.number]["response"]
                )
                scored.append(Scored(row["prompt_id"], row["response"], novelty, nearest, near))
    return scored


def differing(text: str, other: str) -> tuple[str, str]:
    """The two texts from where they begin to differ, as table cells."""
    text, other = " ".join(text.split()), " ".join(other.split())
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False))
    start = max(0, sum(1 for _ in alike) - LEAD)
    return cell(text, start), cell(other, start)


def cell(text: str, start: int) -> str:
    """Part of a text, fit for a table."""
    part = text[start : start + EXCERPT].replace("|", "\\|").replace("`", " ")
    return f"`{'… ' if start else ''}{part}`"


def row(scored: Scored) -> str:
    """A line of the table of examples."""
    own, other = differing(scored.text, scored.nearest_text)
    where = f"{scored.nearest.kind} {scored.nearest.number}"
    return f"| {scored.novelty:.3f} | {scored.prompt_id} | {own} | {where} | {other} |"


def main(folder: Path) -> None:
    """Prints the page."""
    data = read(folder / "rollouts_math.jsonl")
    embedder = Embedder("all-MiniLM-L6-v2")
    with tempfile.TemporaryDirectory() as store:
        memory = Memory(SqliteStore(Path(store)), embedder)
        results = {
            (metric, window): score(memory, data, metric, window) for metric in METRICS for window in WINDOWS
        }
        memory.close()
    main_result = results[Metric.EMBEDDING, TextWindow.REFERENCE]
    print("# What is found novel among real solutions\n")
    print(
        f"{len(data)} MATH problems with 8 responses each of a Qwen2.5-Math model. Of each problem the"
        " correct ones of the first four responses were remembered, then those of the other four scored as"
        " one group (memory policy `correct`, `min_history` 1, raw scale). Made by\n\n"
        "    python benchmarks/novelty_on_math.py FOLDER_OF_THE_DATA > docs/novelty-on-math.md\n"
    )
    print("## How large the values are\n")
    print("| metric | text window | responses | mean | median | 90th percentile | largest |")
    print("|---|---|---|---|---|---|---|")
    for (metric, window), scored in results.items():
        values = np.array([one.novelty for one in scored])
        quantiles = " | ".join(f"{value:.3f}" for value in np.percentile(values, [50, 90, 100]))
        print(f"| `{metric}` | `{window}` | {len(values)} | {values.mean():.3f} | {quantiles} |")
    both = np.array([[one.novelty for one in results[Metric.EMBEDDING, window]] for window in WINDOWS])
    ranks = both.argsort(axis=1).argsort(axis=1)
    print(
        f"\nRank correlation of the two windows' novelties: {np.corrcoef(ranks)[0, 1]:.2f}. Raw distances are"
        " small: with alpha = 0.1 they add next to nothing to advantages of size 1. That is what the scale"
        " `running_mean` is for.\n"
    )
    main_result.sort(key=lambda one: -one.novelty)
    head = "| novelty | problem | response | nearest | which reads |\n|---|---|---|---|---|"
    for title, chosen in (("most", main_result[:12]), ("least", main_result[-6:])):
        print(f"## The {title} novel\n\n{head}")
        print("\n".join(row(one) for one in chosen) + "\n")
    print(
        "A *solution* was stored before, its number counting the prompt's solutions from 0; a *sibling* is of"
        " the same group, its number the place in the group. Both texts are shown from where they begin to"
        " differ; compared are the first 256 word pieces of the last 512 (window `reference`)."
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
