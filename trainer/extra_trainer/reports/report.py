"""The report: a table for the terminal, report.md of one run, and report.html of one or several side by side.

Runs are grouped into arms (`arms`), figures are made of the arms (`figures`), and `pages` puts them into one
self-contained file. A run may be unfinished: what does not exist yet is left out.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from extra_rl.config_file import read_yaml
from extra_trainer.config import Config
from extra_trainer.evaluation.result import Evaluation
from extra_trainer.reports import figures
from extra_trainer.reports.arms import (
    SMOOTHED,
    UNSET,
    Arm,
    TrainedRun,
    differences,
    group_into_arms,
    over_runs,
    setting_text,
)
from extra_trainer.reports.figures import Figure
from extra_trainer.reports.pages import Section, page
from extra_trainer.runs.folder import RunFolder, write_whole
from extra_trainer.runs.schema import StepMetrics

#: Head of the summary table.
HEAD = ("", "before", "after")
#: Steps at each end of training that the table averages over.
ENDS = 5


def summary_table(folder: RunFolder, config: Config, before: Evaluation, after: Evaluation) -> Table:
    """Return the result of a run as a table for the terminal."""
    table = Table(
        title=f"{config.name}, seed {config.seed}: {after.problems} held-out problems", title_justify="left"
    )
    for column in HEAD:
        table.add_column(column, justify="left" if not column else "right")
    for row in summary_rows(folder, before, after):
        table.add_row(*row)
    return table


def summary_rows(folder: RunFolder, before: Evaluation, after: Evaluation) -> list[tuple[str, str, str]]:
    """Return rows of title, value before training or in the first steps, value after it or in the last."""
    metrics = folder.read_metrics()
    rows = _pass_rows(before, after)
    for title, name, number_format in (
        (f"training reward, first and last {ENDS} steps", "reward", "{:.3f}"),
        ("mean novelty of correct rollouts", "novelty", "{:.4f}"),
        ("token entropy (nats)", "entropy", "{:.3f}"),
    ):
        first, last = (_mean(steps, name) for steps in (metrics[:ENDS], metrics[-ENDS:]))
        rows.append((title, number_format.format(first), number_format.format(last)))
    guided = sum(step.guided_groups for step in metrics)
    rescued = sum(step.guided_rescued for step in metrics)
    rows.append(("guided groups, of them rescued", f"{guided:.0f}", f"{rescued:.0f}"))
    rows.append(("rollouts without a verdict", "", f"{sum(step.undecided for step in metrics):.0f}"))
    masked = np.array([step.value("masked") for step in metrics])
    if np.isfinite(masked).any():
        rows.append(("rollouts masked (rollout.overlong)", "", f"{np.nansum(masked):.0f}"))
    rows += [(f"seconds: {phase}", "", f"{total:.1f}") for phase, total in phase_seconds(metrics).items()]
    if before.undecided or after.undecided:
        rows.append(("evaluation samples without a verdict", str(before.undecided), str(after.undecided)))
    if before.refused or after.refused:
        rows.append(("evaluation problems refused", str(before.refused), str(after.refused)))
    rows.append(("seconds: evaluation", f"{before.seconds:.1f}", f"{after.seconds:.1f}"))
    return rows


def _pass_rows(before: Evaluation, after: Evaluation) -> list[tuple[str, str, str]]:
    """Return rows of pass@k of each set, and of their mean if there are several."""
    several = len(after.sets) > 1
    rows = [
        (f"pass@{k}, {name}" if several else f"pass@{k}", str(before.sets[name].pass_at[k]), str(estimate))
        for name, result in after.sets.items()
        for k, estimate in result.pass_at.items()
    ]
    if several:
        rows += [(f"pass@{k}, mean of sets", str(before.mean[k]), str(e)) for k, e in after.mean.items()]
    return rows


def phase_seconds(metrics: Sequence[StepMetrics]) -> dict[str, float]:
    """Return phase -> its seconds, summed over the steps."""
    phases = dict.fromkeys(phase for step in metrics for phase in step.seconds)
    return {phase: sum(step.seconds.get(phase, 0.0) for step in metrics) for phase in phases}


def write(folder: RunFolder) -> Path:
    """Write report.md and report.html of a finished run into its folder; return the HTML's path."""
    before, after = (Evaluation.load(folder.evaluation(when)) for when in ("before", "after"))
    config = read_yaml(folder.config)
    lines = [
        f"# {config['name']}, seed {config['seed']}",
        "",
        f"{after.problems} held-out problems, {after.samples_per_prompt} samples each; pass@k with 95 % "
        "bootstrap intervals over problems.",
        "",
    ]
    lines += [*markdown_table(HEAD, summary_rows(folder, before, after)), ""]
    (folder.path / "report.md").write_text("\n".join(lines), encoding="utf-8")
    return write_page([folder.path], folder.path / "report.html")


def write_all(paths: Sequence[Path], output: Path | None) -> Path:
    """Write what `extra-rl report` writes; return the HTML's path.

    Args:
        paths: Run folders. A single finished run gets a report.md too, if `output` is None.
        output: The HTML file; None: report.html in the folder of a single run, else in the working directory.

    Raises:
        ConfigError: A folder holds no run, or this release cannot read its records.
    """
    folder = RunFolder(paths[0])
    if len(paths) == 1 and folder.config.is_file():
        ended = folder.evaluation("before").is_file() and folder.evaluation("after").is_file()
        if ended and output is None:
            return write(folder)
        return write_page(paths, output or folder.path / "report.html")
    return write_page(paths, output or Path("report.html"))


def write_page(paths: Sequence[Path], output: Path) -> Path:
    """Write the page of the runs in `paths`, side by side; return `output`.

    Raises:
        ConfigError: A folder holds no run, or this release cannot read its records.
    """
    runs = [TrainedRun.read(path) for path in paths]
    arms = group_into_arms(runs)
    lead = f"{_counted(len(runs), 'run')} in {_counted(len(arms), 'arm')}. " if len(runs) > 1 else ""
    bands = "; bands are 95 % intervals over seeds" if any(len(arm.runs) > 1 for arm in arms) else ""
    lead += f"Curves are averaged over {SMOOTHED} steps{bands}."
    title = f"{arms[0].name}, seed {arms[0].seeds}" if len(runs) == 1 else "Runs side by side"
    foot = "extra-rl report " + " ".join(run.folder.path.name for run in runs)
    write_whole(output, page(title, _sections(arms), lead=lead, arms=[arm.name for arm in arms], foot=foot))
    return output


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _sections(arms: list[Arm]) -> list[Section]:
    made = [
        Section("Summary", figures.present([_summary(arms)])),
        Section("Training", figures.training_curves(arms)),
        Section("pass@k on held-out problems", figures.pass_curves(arms)),
        Section(
            "Groups all right, mixed and all wrong",
            figures.present(figures.group_shares(arm) for arm in arms),
            "GRPO learns from mixed groups alone; novelty gives all-right groups a gradient, and all-wrong "
            "ones feed the prefix memory. Rollouts without a verdict do not count.",
        ),
        Section(
            "Novelty",
            figures.present(
                make(arm)
                for make in (figures.novelty_bands, figures.suspicious, figures.new_steps)
                for arm in arms
            ),
            "How far correct rollouts lie from the solutions known for their prompt when they came, by the "
            "metric of the run (novelty.metric in its config).",
        ),
        Section("Guided groups", figures.guided(arms)),
        Section("Time", figures.present([figures.phases(arms)])),
        Section("Config", _config(arms)),
    ]
    return [section for section in made if section.figures]


def _summary(arms: list[Arm]) -> Figure:
    """Return a table with a row for each figure and a column for each arm.

    The columns of a single finished run are before and after training.
    """
    if len(arms) == 1 and len(arms[0].runs) == 1:
        run = arms[0].runs[0]
        if run.before and run.after:
            rows = [list(row) for row in summary_rows(run.folder, run.before, run.after)]
            return Figure("Summary", "", "", HEAD, rows)
    rows = [
        ["runs", *(", ".join(run.folder.path.name for run in arm.runs) for arm in arms)],
        ["seeds", *(arm.seeds for arm in arms)],
        ["steps", *(" to ".join(dict.fromkeys(map(str, _step_range(arm)))) for arm in arms)],
    ]
    for k in sorted({k for arm in arms for run in arm.runs if run.after for k in run.after.mean}):
        for when in ("before", "after"):
            rows.append([f"pass@{k} {when}", *(_over_seeds(arm, when, k) for arm in arms)])
    for title, name, number_format in (
        (f"reward, last {ENDS} steps", "reward", ".3f"),
        (f"token entropy (nats), last {ENDS} steps", "entropy", ".3f"),
        (f"novelty of correct rollouts, last {ENDS} steps", "novelty", ".4f"),
    ):
        values = [arm.values(name)[:, -ENDS:] for arm in arms]
        rows.append([title, *(f"{np.nanmean(v):{number_format}}" if v.size else "" for v in values)])
    for title, name in (("guided groups a run", "guided_groups"), ("rescued a run", "guided_rescued")):
        totals = [np.nansum(arm.values(name), axis=1) for arm in arms]
        rows.append([title, *(f"{total.mean():.0f}" for total in totals)])
    return Figure("Summary", "", "", ["", *(arm.name for arm in arms)], rows)


def _step_range(arm: Arm) -> tuple[int, int]:
    lengths = [len(run.metrics) for run in arm.runs]
    return min(lengths), max(lengths)


def _over_seeds(arm: Arm, when: str, k: int) -> str:
    """Return pass@k, mean of the sets, averaged over the arm's runs."""
    done = [run.before if when == "before" else run.after for run in arm.runs]
    estimates = [evaluation.mean[k] for evaluation in done if evaluation and k in evaluation.mean]
    if not estimates:
        return "not evaluated"
    mean, low, high = over_runs(np.array([[estimate.value] for estimate in estimates]))
    if low is None or high is None:
        return str(estimates[0])
    return f"{mean[0]:.1%} [{100 * low[0]:.1f}, {100 * high[0]:.1f}]"


def _config(arms: list[Arm]) -> list[Figure]:
    """Return tables of the settings that differ between the arms, and of all settings."""
    made = []
    if len(arms) > 1:
        differing = [[name, *row] for name, row in differences(arms).items()]
        made.append(Figure("What differs", "", "", ["setting", *(arm.name for arm in arms)], differing))
    settings = [arm.settings for arm in arms]
    names = dict.fromkeys(name for values in settings for name in values)
    rows = [[name, *(setting_text(values.get(name, UNSET)) for values in settings)] for name in names]
    note = "Without the seed, the run's name and the settings that only say where it ran."
    made.append(Figure("All settings", "", note, ["setting", *(arm.name for arm in arms)], rows))
    return made


def _mean(metrics: Sequence[StepMetrics], name: str) -> float:
    return float(np.mean([step.value(name) for step in metrics])) if metrics else float("nan")


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose first column is text and whose others are numbers."""
    return [
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
