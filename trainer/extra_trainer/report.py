"""The report of a run: a table for the terminal, report.md, and a self-contained report.html with curves."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from rich.table import Table

from extra_trainer.config import Config
from extra_trainer.evaluation_result import Evaluation
from extra_trainer.run_folder import RunFolder

#: Title of a curve -> the metrics drawn in it.
CURVES = {
    "Reward (pass rate of training rollouts)": ("reward",),
    "Groups all right, all wrong": ("groups_all_right", "groups_all_wrong"),
    "Novelty among correct rollouts": ("novelty",),
    "Guided groups, rescued": ("guided_groups", "guided_rescued"),
    "Token entropy (nats)": ("entropy",),
    "Response length (tokens)": ("response_tokens",),
}
#: Head of the summary's table.
HEAD = ("", "before", "after")
#: Steps at each end of training that the table averages over.
ENDS = 5


def summary_table(folder: RunFolder, config: Config, before: Evaluation, after: Evaluation) -> Table:
    """What the run came to, for the terminal."""
    table = Table(
        title=f"{config.name}, seed {config.seed}: {after.problems} held-out problems", title_justify="left"
    )
    for column in HEAD:
        table.add_column(column, justify="left" if not column else "right")
    for row in summary_rows(folder, before, after):
        table.add_row(*row)
    return table


def summary_rows(folder: RunFolder, before: Evaluation, after: Evaluation) -> list[tuple[str, str, str]]:
    """Rows (what, before or first steps, after or last steps)."""
    records = folder.read_metrics()
    rows = _pass_rows(before, after)
    for title, name, form in (
        (f"training reward, first and last {ENDS} steps", "reward", "{:.3f}"),
        ("mean novelty of correct rollouts", "novelty", "{:.4f}"),
        ("token entropy (nats)", "entropy", "{:.3f}"),
    ):
        rows.append(
            (title, form.format(_mean(records[:ENDS], name)), form.format(_mean(records[-ENDS:], name)))
        )
    guided = sum(record["guided_groups"] for record in records)
    rescued = sum(record["guided_rescued"] for record in records)
    rows.append(("guided groups, of them rescued", f"{guided:.0f}", f"{rescued:.0f}"))
    rows.append(("rollouts without a verdict", "", f"{sum(record['undecided'] for record in records):.0f}"))
    rows += [(f"seconds: {phase}", "", f"{total:.1f}") for phase, total in phase_seconds(records).items()]
    if before.undecided or after.undecided:
        rows.append(("evaluation samples without a verdict", str(before.undecided), str(after.undecided)))
    if before.refused or after.refused:
        rows.append(("evaluation problems refused", str(before.refused), str(after.refused)))
    rows.append(("seconds: evaluation", f"{before.seconds:.1f}", f"{after.seconds:.1f}"))
    return rows


def _pass_rows(before: Evaluation, after: Evaluation) -> list[tuple[str, str, str]]:
    """pass@k of each set, and of their mean if there are several."""
    several = len(after.sets) > 1
    rows = [
        (f"pass@{k}, {name}" if several else f"pass@{k}", str(before.sets[name].pass_at[k]), str(estimate))
        for name, result in after.sets.items()
        for k, estimate in result.pass_at.items()
    ]
    if several:
        rows += [(f"pass@{k}, mean of sets", str(before.mean[k]), str(e)) for k, e in after.mean.items()]
    return rows


def phase_seconds(records: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of training by phase, summed over the steps."""
    names = dict.fromkeys(name for record in records for name in record if name.startswith("seconds/"))
    return {name.removeprefix("seconds/"): sum(r.get(name, 0.0) for r in records) for name in names}


def write(folder: RunFolder, config: Config) -> Path:
    """Writes report.md and report.html from what the run folder holds; returns the HTML's path."""
    before, after = (Evaluation.load(folder.evaluation(when)) for when in ("before", "after"))
    rows = summary_rows(folder, before, after)
    title = f"{config.name}, seed {config.seed}"
    lines = [
        f"# {title}",
        "",
        f"{after.problems} held-out problems, {after.samples_per_prompt} samples each; pass@k with 95 % "
        "bootstrap intervals over problems.",
        "",
    ]
    lines += [*markdown_table(HEAD, rows), ""]
    (folder.path / "report.md").write_text("\n".join(lines), encoding="utf-8")
    where = folder.path / "report.html"
    where.write_text(page(title, HEAD, rows, _figure(folder.read_metrics())), encoding="utf-8")
    return where


def _mean(records: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([record[name] for record in records])) if records else float("nan")


def _figure(records: list[dict[str, Any]]) -> go.Figure:
    figure = make_subplots(rows=-(-len(CURVES) // 2), cols=2, subplot_titles=list(CURVES))
    steps = [record["step"] for record in records]
    for place, names in enumerate(CURVES.values()):
        for name in names:
            values = [record[name] for record in records]
            figure.add_scatter(x=steps, y=values, name=name, row=place // 2 + 1, col=place % 2 + 1)
    figure.update_layout(height=900, showlegend=False, template="plotly_white")
    figure.update_xaxes(title_text="step")
    return figure


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table whose first column is text and whose others are figures."""
    return [
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def page(
    title: str, head: Sequence[str], rows: Iterable[Sequence[str]], figure: go.Figure, note: str = ""
) -> str:
    """A self-contained page of a table and a figure; `note` is HTML that comes first."""
    names = "".join(f"<th>{name}</th>" for name in head)
    cells = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    plots = figure.to_html(full_html=False, include_plotlyjs=True)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:16px sans-serif;margin:2em auto;max-width:1100px}"
        "td,th{padding:.2em 1em;text-align:right}"
        "td:first-child{text-align:left}</style>"
        f"<h1>{title}</h1>{note}<table><tr>{names}</tr>{cells}</table>{plots}</html>"
    )
