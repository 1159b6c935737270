"""The evidence of an experiment: results of its runs, paired differences, table, curves, page.

A finished run becomes one small file, RESULTS/ARM/seed-N.json, which can be committed; its run folder can be
deleted. The summary is made from these files alone, so a long table can be collected in parts, on several
machines or at several times. Arms are compared by pairs of runs of one seed; the 95 % interval of the
difference is Student's, over seeds, and a single pair has none. Only runs with the same settings and the same
start model are compared: each result contains both, and a result made with others is refused.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from extra_rl.config_file import ConfigError
from extra_trainer.evaluation.evaluator import weights_identity
from extra_trainer.evaluation.result import Evaluation
from extra_trainer.reports import pages, report
from extra_trainer.reports.arms import SMOOTHED, Curve, over_runs, smoothed
from extra_trainer.reports.bonus import bonus_summary
from extra_trainer.reports.figures import Figure, curves_figure
from extra_trainer.runs.folder import RunFolder, write_whole

#: Metrics of a step that are drawn, and the titles of their curves.
CURVES = {
    "reward": "Reward: pass rate of training rollouts",
    "entropy": "Token entropy (nats)",
    "groups_all_right": "Share of groups all right",
    "groups_all_wrong": "Share of groups all wrong",
    "novelty_bonus": "Mean bonus of all rollouts",
    "novelty": "Mean novelty of correct rollouts",
    "response_tokens": "Response length (tokens)",
    "guided_rescued": "Guided groups with a success",
}
#: Metrics of a step that a result keeps.
KEPT = (*CURVES, "groups_mixed", "guided_groups", "guided_queued")


class Result(BaseModel):
    """The result of one run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arm: str
    seed: int
    #: The run's config, without the sections that only say where it ran.
    config: dict[str, Any]
    #: `weights_identity` of its start model; one recipe makes different ones on different machines.
    start_model: str
    #: "pass@k" -> its value on the held-out problems, as a fraction.
    before: dict[str, float]
    after: dict[str, float]
    #: Correct samples of each held-out problem after training, in order.
    correct: list[int]
    #: Metric -> its value at each step.
    steps: dict[str, list[float]]
    #: Which rollouts received the novelty bonus (`bonus.bonus_summary`); empty without one.
    paid: dict[str, float]
    #: Tokens sampled in training, prefixes not counted.
    generated_tokens: int
    #: Optimizer steps.
    updates: int
    #: Wall time of the training steps.
    seconds: float

    def figures(self) -> dict[str, float]:
        """Return the figures that arms are compared by, as fractions.

        They are pass@k after training, and the share of training groups that were mixed: the verdicts of
        other groups give no gradient. Results made before the share was recorded have no group without a
        decided rollout, and theirs is the rest of the shares of groups all right and all wrong.
        """
        mixed = self.steps.get("groups_mixed")
        if mixed is not None:
            return {**self.after, "groups_mixed": float(np.mean(mixed))}
        all_alike = np.add(self.steps["groups_all_right"], self.steps["groups_all_wrong"])
        return {**self.after, "groups_mixed": 1.0 - float(all_alike.mean())}

    def save(self, results: Path) -> None:
        """Write it to its file in the folder `results`.

        Raises:
            ConfigError: The results there began with another start model.
        """
        if any(other.start_model != self.start_model for other in read(results)):
            raise ConfigError(
                f"{self.arm}, seed {self.seed} began with another start model than the results in {results},"
                " and differences between them would mean little: give the folder that holds theirs as"
                " --cache, or choose another --output"
            )
        path = result_path(results, self.arm, self.seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, self.model_dump_json() + "\n")


def result_path(results: Path, arm: str, seed: int) -> Path:
    """Return the path of a run's result."""
    return results / arm / f"seed-{seed}.json"


def result_of(folder: RunFolder, arm: str, seed: int, config: dict[str, Any]) -> Result:
    """Return the result of a finished run.

    Args:
        folder: The run's folder.
        arm: Name of its arm.
        seed: Its seed.
        config: Its config, without the sections that only say where it ran.
    """
    metrics = folder.read_metrics()
    before, after = (Evaluation.load(folder.evaluation(when)) for when in ("before", "after"))
    rollouts = config["rollout"]["prompts_per_step"] * config["rollout"]["samples_per_prompt"]
    optimization = config["optimization"]
    batches = config["rollout"]["prompts_per_step"] // optimization["minibatch_prompts"]
    paid = bonus_summary(rollouts_of_step for _, rollouts_of_step in folder.read_rollouts())
    return Result(
        arm=arm,
        seed=seed,
        config=config,
        start_model=weights_identity(folder.start_model),
        before=_passes(before),
        after=_passes(after),
        correct=[count for result in after.sets.values() for count in result.correct],
        steps={name: [_kept(step.value(name)) for step in metrics] for name in KEPT},
        paid={name: round(value, 4) for name, value in paid.items()},
        generated_tokens=round(sum(step.response_tokens for step in metrics) * rollouts),
        updates=len(metrics) * batches * optimization["updates_per_batch"],
        seconds=round(sum(step.total_seconds for step in metrics), 1),
    )


def _kept(value: float) -> float:
    """Return a metric's value as a result keeps it: JSON has no NaN, which a missing metric is."""
    return 0.0 if math.isnan(value) else round(value, 6)


def read(results: Path) -> list[Result]:
    """Return all results in a folder, by arm and seed."""
    found = [Result.model_validate_json(path.read_bytes()) for path in sorted(results.glob("*/seed-*.json"))]
    return sorted(found, key=lambda result: (result.arm, result.seed))


def summarize(found: Iterable[Result], baselines: Iterable[str]) -> dict[str, Any]:
    """Return the figures of each arm and its paired differences to each baseline.

    Args:
        found: The results.
        baselines: Arms to compare with; those without results are left out.

    Returns:
        "arms": arm -> its seeds and their figures; "differences": arm -> metric -> paired difference to the
        first baseline; "differences_to_BASELINE" the same for each other baseline.
    """
    by_arm: dict[str, dict[int, Result]] = {}
    for result in found:
        by_arm.setdefault(result.arm, {})[result.seed] = result
    arms = {arm: _arm(list(runs.values())) for arm, runs in by_arm.items()}
    differences = {
        baseline: {
            arm: _differences(runs, by_arm[baseline]) for arm, runs in by_arm.items() if arm != baseline
        }
        for baseline in baselines
        if baseline in by_arm
    }
    first, *others = differences.items() or [("", {})]
    return {
        "arms": arms,
        "differences": first[1],
        **{f"differences_to_{baseline}": values for baseline, values in others},
    }


def paired(differences: list[float]) -> dict[str, Any]:
    """Return mean, Student's 95 % interval ([None, None] for one) and number of paired differences."""
    (mean,), low, high = over_runs(np.array(differences)[:, None])
    interval = [None, None] if low is None or high is None else [float(low[0]), float(high[0])]
    return {"mean": float(mean), "interval": interval, "seeds": len(differences)}


def table(summary: dict[str, Any], baselines: Iterable[str]) -> list[list[str]]:
    """Return the table of a report, its head first.

    Args:
        summary: What `summarize` returned.
        baselines: The baselines that it was given.
    """
    metrics = list(next(iter(summary["arms"].values()))["metrics"])
    others = [name for name in summary if name.startswith("differences_to_")]
    first = [baseline for baseline in baselines if baseline in summary["arms"]][:1]
    compared_with = [*first, *(name.removeprefix("differences_to_") for name in others)]
    head = ["arm", "seeds", *metrics]
    head += [f"{metric} - {baseline}" for baseline in compared_with for metric in metrics]
    head += ["tokens (millions)", "guided groups", "rescued"]
    rows = []
    for arm, figures in summary["arms"].items():
        row = [arm, str(len(figures["seeds"]))]
        row += [f"{100 * np.mean(figures[metric]):.1f}" for metric in metrics]
        for name in ("differences", *others) if first else ():
            row += [_difference_text(summary[name].get(arm, {}).get(metric)) for metric in metrics]
        rescue = figures["rescue_rate"]
        row += [
            f"{np.mean(figures['generated_tokens']) / 1e6:.2f}",
            f"{np.mean(figures['guided_groups']):.0f}",
            "-" if rescue is None else f"{100 * rescue:.0f} %",
        ]
        rows.append(row)
    return [head, *rows]


def start(summary: dict[str, Any]) -> dict[str, float]:
    """Return pass@k of the start model, as fractions: all results began with the same one.

    Args:
        summary: What `summarize` returned.
    """
    before: dict[str, float] = next(iter(summary["arms"].values()))["before"]
    return before


def bonus_table(summary: dict[str, Any]) -> list[list[str]]:
    """Return the bonus summary of each arm that has a bonus, its head first; empty if none has."""
    arms = {arm: figures["paid"] for arm, figures in summary["arms"].items() if figures["paid"]}
    if not arms:
        return []
    names = list(next(iter(arms.values())))
    return [["arm", *names], *([arm, *(f"{paid[name]:.3f}" for name in names)] for arm, paid in arms.items())]


def write(results: Path, output: Path, baselines: Iterable[str], command: str) -> dict[str, Any]:
    """Write summary.json, curves.json, table.md and report.html of the results.

    Args:
        results: Folder of the results.
        output: Folder to write to.
        baselines: Arms that the others are compared with.
        command: The command that made the results, for the page.

    Returns:
        The summary.
    """
    found = read(results)
    baselines = list(baselines)
    summary = {"command": command, **summarize(found, baselines)}
    curves = _curves(found)
    rows = table(summary, baselines)
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / "summary.json", json.dumps(summary, indent=1) + "\n")
    write_whole(output / "curves.json", json.dumps(curves) + "\n")
    write_whole(output / "table.md", _markdown(rows, bonus_table(summary), command))
    write_whole(output / "report.html", _page(rows, curves, command))
    return summary


def _passes(evaluation: Evaluation) -> dict[str, float]:
    return {f"pass@{k}": estimate.value for k, estimate in evaluation.mean.items()}


def _arm(runs: list[Result]) -> dict[str, Any]:
    figures = [run.figures() for run in runs]
    metrics = list(figures[0])
    guided = [sum(run.steps["guided_groups"]) for run in runs]
    rescued = sum(sum(run.steps["guided_rescued"]) for run in runs)
    names = dict.fromkeys(name for run in runs for name in run.paid)
    paid = {name: float(np.mean([run.paid[name] for run in runs if run.paid])) for name in names}
    return {
        "seeds": [run.seed for run in runs],
        "metrics": metrics,
        **{metric: [one[metric] for one in figures] for metric in metrics},
        "before": runs[0].before,
        "generated_tokens": [run.generated_tokens for run in runs],
        "updates": [run.updates for run in runs],
        "guided_groups": guided,
        "rescue_rate": rescued / sum(guided) if sum(guided) else None,
        "paid": paid,
        "seconds": [run.seconds for run in runs],
    }


def _differences(runs: dict[int, Result], baseline: dict[int, Result]) -> dict[str, Any]:
    pairs = [(run.figures(), baseline[seed].figures()) for seed, run in runs.items() if seed in baseline]
    if not pairs:
        return {}
    return {
        metric: paired([ours[metric] - theirs[metric] for ours, theirs in pairs]) for metric in pairs[0][0]
    }


def _difference_text(difference: dict[str, Any] | None) -> str:
    if difference is None:
        return "-"
    low, high = difference["interval"]
    mean = f"{100 * difference['mean']:+.1f}"
    return mean if low is None else f"{mean} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _curves(found: list[Result]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return arm -> metric -> mean, low and high over seeds (one standard error to each side), by step."""
    by_arm: dict[str, list[Result]] = {}
    for result in found:
        by_arm.setdefault(result.arm, []).append(result)
    return {
        arm: {name: _band([run.steps[name] for run in runs]) for name in CURVES}
        for arm, runs in by_arm.items()
    }


def _band(runs: list[list[float]]) -> dict[str, list[float]]:
    values = smoothed(np.array(runs))
    mean = values.mean(axis=0)
    error = values.std(axis=0, ddof=1) / np.sqrt(len(runs)) if len(runs) > 1 else np.zeros_like(mean)
    return {
        name: np.round(part, 5).tolist()
        for name, part in (("mean", mean), ("low", mean - error), ("high", mean + error))
    }


def _markdown(rows: list[list[str]], paid: list[list[str]], command: str) -> str:
    head, *body = rows
    lines = report.markdown_table(head, body)
    notes = (
        "pass@k on the held-out problems, and the share of training groups that were mixed (right and wrong "
        "rollouts: those with a gradient of the verdicts), in percent, mean over seeds. Differences in "
        "points, paired by seed, with Student's 95 % interval. Made with"
    )
    lines += ["", notes, "", f"    {command}", ""]
    if paid:
        lines += ["What the bonus was paid for (`bonus.py` says what each figure is), mean over seeds:", ""]
        lines += [*report.markdown_table(paid[0], paid[1:]), ""]
    return "\n".join(lines)


def _page(rows: list[list[str]], curves: dict[str, dict[str, dict[str, list[float]]]], command: str) -> str:
    head, *body = rows
    return pages.page(
        "Experiment",
        [
            pages.Section("Results", [Figure("Results", "", "", head, body)]),
            pages.Section("Training", [_figure(name, title, curves) for name, title in CURVES.items()]),
        ],
        lead=f"Curves are averaged over {SMOOTHED} steps; bands are a standard error over seeds each way.",
        commands=[command],
        arms=list(curves),
    )


def _figure(name: str, title: str, curves: dict[str, dict[str, dict[str, list[float]]]]) -> Figure:
    drawn = {
        arm: Curve(
            np.arange(len(c[name]["mean"]), dtype=np.float64) + SMOOTHED, *map(np.array, _band_of(c[name]))
        )
        for arm, c in curves.items()
    }
    return curves_figure(title, "", drawn, list(curves), ".3f")


def _band_of(curve: dict[str, list[float]]) -> tuple[list[float], list[float], list[float]]:
    return curve["mean"], curve["low"], curve["high"]
