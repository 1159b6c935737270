"""The figures of a report: data for Plotly, a sentence that describes it, and a table of its numbers.

Colours are names ("@c0", "@line") that the page replaces by those of a light or a dark screen. Every figure
has a table, for readers who cannot see it and for those who want to copy it; long tables are thinned to about
twenty rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extra_trainer.evaluation.pass_at_k import bootstrap_means, interval, problem_pass_at_k
from extra_trainer.reports.arms import Arm, Curve, TrainedRun, over_runs
from extra_trainer.runs.schema import PHASE_PREFIX

#: Metric -> title and unit of its curve, and number format.
CURVES = {
    "reward": ("Reward", "share of correct rollouts", ".3f"),
    "entropy": ("Token entropy", "nats", ".3f"),
    "novelty": ("Novelty of correct rollouts", "as the run's metric measures it, mean", ".4f"),
    "novelty_bonus": ("Novelty bonus", "mean over all rollouts", ".4f"),
    "outcome_groups": ("Groups with outcome novelty", "share of groups", ".3f"),
    "outcome_answers": ("Distinct wrong answers", "of a group with outcome novelty, mean", ".2f"),
    "outcome_bonus": ("Outcome bonus", "mean size over the rollouts that have one", ".4f"),
    "outcome_rescued": ("Prompts rescued", "first success after outcome novelty, prompts a step", ".2f"),
    "suspicious": ("Suspicious rollouts", "share of correct rollouts that get no novelty bonus", ".3f"),
    "behind_answer": ("Text behind the final answer", "characters, mean over correct rollouts", ".1f"),
    "response_tokens": ("Response length", "tokens", ".1f"),
    "masked": ("Masked rollouts", "cut off and left out, rollouts a step", ".1f"),
    "kl": ("KL from the start model", "nats a token", ".4f"),
}
#: Upper ends and names of the bands that novelties are counted in.
NOVELTY_BANDS = (1e-4, 0.01, 0.05, 0.2, np.inf)
BAND_NAMES = ("repeats", "to 0.01", "to 0.05", "to 0.2", "above 0.2")
#: Share of groups without any verdict from which a figure mentions them; less is rounding.
UNDECIDED_SHARE = 1e-6
#: Most points of a curve of counts, and most rows of a table.
POINTS = 24
ROWS = 20
#: Dashes of the arms' lines, so that they can be distinguished without their colours.
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
COLOURS = 8


@dataclass(frozen=True)
class Figure:
    """One figure. `head` and `rows` are its table; without `data` it is only the table."""

    title: str
    #: A sentence that replaces the picture for screen readers.
    description: str
    #: How to read it.
    note: str
    head: Sequence[str]
    rows: list[list[str]]
    data: list[dict[str, Any]] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)
    #: Whether it takes the whole width of the page.
    wide: bool = False


def training_curves(arms: Sequence[Arm]) -> list[Figure]:
    """Return a figure for each metric in CURVES that the runs have."""
    made = (_training_curve(arms, metric, *labels) for metric, labels in CURVES.items())
    return [figure for figure in made if figure is not None]


def _training_curve(
    arms: Sequence[Arm], metric: str, title: str, unit: str, number_format: str
) -> Figure | None:
    curves = {arm.name: curve for arm in arms if (curve := arm.curve(metric)) is not None}
    names = [arm.name for arm in arms]
    return curves_figure(title, unit, curves, names, number_format) if curves else None


def curves_figure(
    title: str, unit: str, curves: dict[str, Curve], arms: Sequence[str], number_format: str
) -> Figure:
    """Return a figure of curves over the steps.

    Args:
        title: Its title.
        unit: Unit of the values; may be empty.
        curves: Arm -> its curve.
        arms: All arms of the page; an arm's place among them decides its colour.
        number_format: Format specification of the values in the table.
    """
    data = [
        trace
        for name, curve in curves.items()
        for trace in _line(name, arms.index(name), curve.steps, (curve.mean, curve.low, curve.high))
    ]
    ends = [
        f"{name}: {c.mean[0]:{number_format}} at first, {c.mean[-1]:{number_format}} at last"
        for name, c in curves.items()
    ]
    return Figure(
        title,
        f"{title}{f' ({unit})' if unit else ''} by training step. {'; '.join(ends)}.",
        "",
        ["step", *_heads(curves)],
        _curve_rows(list(curves.values()), number_format),
        data,
        {"xaxis": {"title": "step"}, "yaxis": {"title": unit, "range": _range(list(curves.values()))}},
    )


def _range(curves: list[Curve]) -> list[float]:
    """Return the range of the axis: all means, and at most half their height more for the intervals.

    The interval of two seeds may be many times as high as the curves.
    """
    low = min(0.0, *(float(curve.mean.min()) for curve in curves))
    high = max(float(curve.mean.max()) for curve in curves)
    height = high - low or 1.0
    lows = [float(curve.low.min()) for curve in curves if curve.low is not None]
    highs = [float(curve.high.max()) for curve in curves if curve.high is not None]
    return [
        max(min([low, *lows]), low - height / 2 if low < 0 else 0.0),
        min(max([high, *highs]), high + height / 2) + 0.05 * height,
    ]


def _heads(curves: dict[str, Curve]) -> list[str]:
    return [
        head
        for name, curve in curves.items()
        for head in ([name] if curve.low is None else [name, f"{name}, 95 % interval"])
    ]


def _curve_rows(curves: list[Curve], number_format: str) -> list[list[str]]:
    longest = max(curves, key=lambda curve: len(curve.steps))
    rows = []
    for place in _thinned(len(longest.steps), ROWS):
        row = [f"{longest.steps[place]:g}"]
        for curve in curves:
            inside = place < len(curve.mean)
            row.append(f"{curve.mean[place]:{number_format}}" if inside else "")
            if curve.low is not None and curve.high is not None:
                ends = (curve.low[place], curve.high[place]) if inside else ()
                row.append(" to ".join(f"{end:{number_format}}" for end in ends))
        rows.append(row)
    return rows


def _thinned(count: int, most: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


Band = tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.float64] | None]


def _line(name: str, place: int, x: NDArray[np.float64], band: Band, dash: str = "") -> list[dict[str, Any]]:
    """Return the traces of a line and, behind it, its interval."""
    mean, low, high = band
    colour = f"@c{place % COLOURS}"
    shared = {"x": x.tolist(), "legendgroup": name, "meta": {"arm": name}}
    traces: list[dict[str, Any]] = []
    if low is not None and high is not None:
        edge = {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
        traces.append({**shared, **edge, "y": low.tolist()})
        traces.append(
            {**shared, **edge, "y": high.tolist(), "fill": "tonexty", "fillcolor": f"{colour}/0.16"}
        )
    line = {"color": colour, "width": 2, "dash": dash or DASHES[place % len(DASHES)]}
    traces.append({**shared, "y": mean.tolist(), "name": name, "mode": "lines", "line": line})
    return traces


def pass_curves(arms: Sequence[Arm]) -> list[Figure]:
    """Return figures of pass@k for each evaluation set, before (dotted) and after training."""
    names = dict.fromkeys(name for arm in arms for run in arm.runs if run.before for name in run.before.sets)
    figures = (_pass_curve(arms, name, several=len(names) > 1) for name in names)
    return [figure for figure in figures if figure is not None]


def _pass_curve(arms: Sequence[Arm], evaluation_set: str, *, several: bool) -> Figure | None:
    data, head, columns, sentences = [], ["k"], [], []
    ks: list[int] = []
    for place, arm in enumerate(arms):
        for when in ("before", "after"):
            made = _passes(arm.runs, when, evaluation_set)
            if made is None:
                continue
            found, band = made
            if len(found) > len(ks):
                ks = found
            name = f"{arm.name}, {when}"
            drawn = _line(
                name, place, np.array(found, dtype=np.float64), band, "dot" if when == "before" else ""
            )
            for trace in drawn:
                trace["meta"] = {"arm": arm.name}
            drawn[-1] |= {"mode": "lines+markers", "marker": {"size": 5 if when == "before" else 7}}
            data += drawn
            mean, low, high = band
            head += [name, "95 % interval"]
            columns.append((found, mean, low, high))
            sentences.append(f"{name}: pass@{found[0]} {mean[0]:.1%}, pass@{found[-1]} {mean[-1]:.1%}")
    if not data:
        return None
    rows = [[str(k), *(cell for column in columns for cell in _pass_cells(k, *column))] for k in ks]
    return Figure(
        f"pass@k, {evaluation_set}" if several else "pass@k",
        f"pass@k on held-out problems, by k. {'; '.join(sentences)}.",
        "Intervals at 95 %: over seeds (Student) where an arm has several runs, otherwise over problems "
        "(bootstrap).",
        head,
        rows,
        data,
        {
            "xaxis": {"title": "k", "type": "log", "tickvals": ks, "ticktext": [str(k) for k in ks]},
            "yaxis": {"title": "pass@k", "tickformat": ".0%"},
        },
        wide=True,
    )


def _pass_cells(
    k: int,
    ks: list[int],
    mean: NDArray[np.float64],
    low: NDArray[np.float64] | None,
    high: NDArray[np.float64] | None,
) -> list[str]:
    if k not in ks:
        return ["", ""]
    place = ks.index(k)
    ends = "" if low is None or high is None else f"{low[place]:.1%} to {high[place]:.1%}"
    return [f"{mean[place]:.1%}", ends]


def _passes(runs: list[TrainedRun], when: str, evaluation_set: str) -> tuple[list[int], Band] | None:
    """Return the values of k and the band of pass@k, from all runs that have that evaluation."""
    done = [run.before if when == "before" else run.after for run in runs]
    found = [(e.sets[evaluation_set], e.samples_per_prompt) for e in done if e and evaluation_set in e.sets]
    if not found:
        return None
    n = min(samples for _, samples in found)
    ks = sorted({2**power for power in range(n.bit_length()) if 2**power <= n} | {n})
    values = [
        np.stack([problem_pass_at_k(result.correct, samples, k) for k in ks]) for result, samples in found
    ]
    if len(values) > 1:
        return ks, over_runs(np.stack([each.mean(axis=1) for each in values]))
    means = bootstrap_means(values[0], (0,))
    low, high = zip(*(interval(means[:, place]) for place in range(len(ks))), strict=True)
    return ks, (values[0].mean(axis=1), np.array(low), np.array(high))


def group_shares(arm: Arm) -> Figure | None:
    """Return shares of groups all right, mixed and all wrong over the steps, averaged over the arm's runs."""
    if not arm.steps():
        return None
    shares = {
        name.replace("_", " "): arm.values(f"groups_{name}").mean(axis=0)
        for name in ("all_right", "mixed", "all_wrong")
    }
    windows = _windows(arm.steps())
    means = {name: np.array([values[a:b].mean() for a, b in windows]) for name, values in shares.items()}
    figure = _stacked(
        f"Groups: {arm.name}",
        "Groups of rollouts by outcome",
        windows,
        means,
        ("@right", "@mixed", "@wrong"),
        "share of groups",
        arm.name,
    )
    if np.sum(list(shares.values()), axis=0).min() > 1 - UNDECIDED_SHARE:
        return figure
    return replace(figure, note="The rest to 100 %: groups without any verdict.")


def novelty_bands(arm: Arm) -> Figure | None:
    """Return the distribution of correct rollouts' novelty over the steps, over the arm's runs."""
    novelties = [run.novelties for run in arm.runs]
    last = max((max(by_step, default=0) for by_step in novelties), default=0)
    if not last:
        return None
    windows = _windows(last)
    counts = np.zeros((len(windows), len(NOVELTY_BANDS)))
    for place, (start, end) in enumerate(windows):
        values = [
            by_step[step] for by_step in novelties for step in range(start + 1, end + 1) if step in by_step
        ]
        which = np.searchsorted(NOVELTY_BANDS, np.concatenate([*values, np.zeros(0)]))
        counts[place] = np.bincount(which, minlength=len(NOVELTY_BANDS))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    repeats, *new = zip(BAND_NAMES, shares.T, strict=True)
    figure = _stacked(
        f"Novelty: {arm.name}",
        "Correct rollouts by novelty, as measured",
        windows,
        # The most novel come first, next to the axis.
        dict([*reversed(new), repeats]),
        tuple(f"@s{band}" for band in reversed(range(len(BAND_NAMES)))),
        "share of correct rollouts",
        arm.name,
    )
    # Most are repeats: they are left out as the rest to 100 %, and the axis ends above the others.
    figure.layout["yaxis"]["range"] = [0, max(0.02, min(1.0, 1.1 * float((1 - repeats[1]).max())))]
    note = f"The rest to 100 %: repeats (up to {NOVELTY_BANDS[0]:g}).{_recorded(arm)}"
    return replace(figure, data=figure.data[:-1], note=note)


def _recorded(arm: Arm) -> str:
    """Return a sentence with the number of recorded steps, or "" if all are recorded."""
    made = sum(len(run.metrics) for run in arm.runs)
    missing = sum(run.folder.unrecorded_steps(len(run.metrics)) for run in arm.runs)
    if not missing:
        return ""
    return f" Of the {made - missing} of {made} steps whose rollouts are in the run folder (recording)."


def suspicious(arm: Arm) -> Figure | None:
    """Return a table of the reasons for which correct rollouts got no novelty bonus, over the arm's runs."""
    steps: dict[str, list[int]] = {}
    for run in arm.runs:
        for reason, found in run.suspicious.items():
            steps.setdefault(reason, []).extend(found)
    if not steps:
        return None
    total = sum(len(values) for run in arm.runs for values in run.novelties.values())
    rows = [
        [reason, f"{len(found):,}", f"{len(found) / total:.1%}", str(min(found)), str(max(found))]
        for reason, found in sorted(steps.items(), key=lambda item: -len(item[1]))
    ]
    head = ["reason", "rollouts", "of the correct ones", "first step", "last step"]
    note = "Correct rollouts that the novelty service found suspicious: no bonus, and not stored."
    note += _recorded(arm)
    return Figure(f"Suspicious rollouts: {arm.name}", "", note, head, rows[:ROWS])


def new_steps(arm: Arm) -> Figure | None:
    """Return a table of the most novel solutions whose new steps are named (metric derivation)."""
    found = [(run.folder.path.name, solution) for run in arm.runs for solution in run.explained]
    if not found:
        return None
    found.sort(key=lambda pair: -pair[1].novelty)
    rows = [
        [
            name,
            str(each.step),
            f"{each.group}, {each.sample}",
            f"{each.novelty:.3f}",
            ", ".join(each.new_steps),
        ]
        for name, each in found[:ROWS]
    ]
    head = ["run", "step", "group, sample", "novelty", "new steps"]
    note = "The most novel solutions, with numbers and relations that no remembered solution had."
    note += _recorded(arm)
    return Figure(f"New steps: {arm.name}", "", note, head, rows)


def _windows(steps: int) -> list[tuple[int, int]]:
    """Return at most POINTS ranges of steps (from 0, end not included) of about the same length."""
    ends = np.unique(np.linspace(0, steps, min(steps, POINTS) + 1).round().astype(int)).tolist()
    return list(pairwise(ends))


def _stacked(
    title: str,
    subject: str,
    windows: list[tuple[int, int]],
    shares: dict[str, NDArray[np.float64]],
    colours: tuple[str, ...],
    unit: str,
    arm: str,
) -> Figure:
    x = [(start + 1 + end) / 2 for start, end in windows]
    spans = [f"{start + 1}" if end == start + 1 else f"{start + 1} to {end}" for start, end in windows]
    data = [
        {
            "x": x,
            "y": values.tolist(),
            "name": name,
            "customdata": spans,
            "hovertemplate": "steps %{customdata}: %{y:.1%}",
            "mode": "lines",
            "line": {"width": 0.8, "color": "@page"},
            "fillcolor": colour,
            "stackgroup": "all",
            "meta": {"arm": arm},
        }
        for (name, values), colour in zip(shares.items(), colours, strict=True)
    ]
    ends = [f"{name} {values[0]:.0%} at first, {values[-1]:.0%} at last" for name, values in shares.items()]
    rows = [
        [span, *(f"{values[place]:.1%}" for values in shares.values())] for place, span in enumerate(spans)
    ]
    return Figure(
        title,
        f"{subject}, over training: {'; '.join(ends)}.",
        "",
        ["steps", *shares],
        rows,
        data,
        {
            "xaxis": {"title": "step"},
            "yaxis": {"title": unit, "tickformat": ".0%", "range": [0, 1]},
            "legend": {"traceorder": "normal"},
            "showlegend": True,
        },
    )


def guided(arms: Sequence[Arm]) -> list[Figure]:
    """Return the rescue rate of guided groups over the steps with Wilson's interval, and their number."""
    data, rows, sentences = [], [], []
    for place, arm in enumerate(arms):
        groups, rescued = (np.nansum(arm.values(f"guided_{name}"), axis=0) for name in ("groups", "rescued"))
        if not groups.sum():
            continue
        windows = [window for window in _windows(arm.steps()) if groups[slice(*window)].sum()]
        of, good = (np.array([v[a:b].sum() for a, b in windows]) for v in (groups, rescued))
        rate, low, high = _wilson(good, of)
        error = {
            "type": "data",
            "symmetric": False,
            "thickness": 1,
            "width": 3,
            "color": f"@c{place % COLOURS}",
        }
        data.append(
            {
                "x": [(a + 1 + b) / 2 for a, b in windows],
                "y": rate.tolist(),
                "name": arm.name,
                "mode": "lines+markers",
                "line": {"color": f"@c{place % COLOURS}", "dash": DASHES[place % len(DASHES)], "width": 2},
                "error_y": {**error, "array": (high - rate).tolist(), "arrayminus": (rate - low).tolist()},
                "meta": {"arm": arm.name},
            }
        )
        rows += [
            [arm.name, f"{a + 1} to {b}", f"{o:.0f}", f"{g:.0f}", f"{r:.0%}", f"{lo:.0%} to {hi:.0%}"]
            for (a, b), o, g, r, lo, hi in zip(windows, of, good, rate, low, high, strict=True)
        ]
        share = rescued.sum() / groups.sum()
        sentences.append(f"{arm.name}: {rescued.sum():.0f} of {groups.sum():.0f} rescued, {share:.0%}")
    if not data:
        return []
    rescue = Figure(
        "Rescue rate of guided groups",
        f"Share of guided groups with a correct rollout, over training. {'; '.join(sentences)}.",
        "Guided groups continue a hard prompt from a stored prefix; rescued are those with a correct "
        "rollout. Bars: Wilson's 95 % interval.",
        ["arm", "steps", "guided groups", "rescued", "rescue rate", "95 % interval"],
        rows,
        data,
        {"xaxis": {"title": "step"}, "yaxis": {"title": "rescue rate", "tickformat": ".0%", "range": [0, 1]}},
    )
    counted = [figure for figure in (_guided_counts(arms),) if figure]
    return [rescue, *counted]


def _guided_counts(arms: Sequence[Arm]) -> Figure | None:
    """Return the guided groups of a step and the rescued ones, averaged over runs."""
    data, rows = [], []
    for place, arm in enumerate(arms):
        for name, opacity in (("guided_groups", "/0.45"), ("guided_rescued", "")):
            values = arm.values(name)
            if not np.nansum(values):
                continue
            windows = _windows(arm.steps())
            mean = [float(np.nanmean(values[:, a:b])) for a, b in windows]
            kind = "guided" if name == "guided_groups" else "rescued"
            label = kind if len(arms) == 1 else f"{arm.name}, {kind}"
            x = [(a + 1 + b) / 2 for a, b in windows]
            bar = {"type": "bar", "name": label, "meta": {"arm": arm.name}, "offsetgroup": str(place)}
            data.append({**bar, "x": x, "y": mean, "marker": {"color": f"@c{place % COLOURS}{opacity}"}})
            rows += [[label, f"{a + 1} to {b}", f"{m:.2f}"] for (a, b), m in zip(windows, mean, strict=True)]
    if not data:
        return None
    return Figure(
        "Guided groups a step",
        "Guided groups a step over training, and how many of them were rescued.",
        "",
        ["groups", "steps", "groups a step"],
        rows,
        data,
        {
            "xaxis": {"title": "step"},
            "yaxis": {"title": "groups a step"},
            "barmode": "overlay",
            "showlegend": True,
        },
    )


def _wilson(good: NDArray[np.float64], of: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return the rate, and the bounds of Wilson's 95 % interval of it."""
    z = 1.96
    rate = good / of
    middle = (rate + z**2 / (2 * of)) / (1 + z**2 / of)
    half = z / (1 + z**2 / of) * np.sqrt(rate * (1 - rate) / of + z**2 / (4 * of**2))
    return rate, np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


def phases(arms: Sequence[Arm]) -> Figure | None:
    """Return the seconds of a step by phase, averaged over steps and runs."""
    arms = [arm for arm in arms if arm.steps()]
    found = {arm.name: _phase_means(arm) for arm in arms}
    names = sorted({name for means in found.values() for name in means})
    if not names:
        return None
    names.sort(key=lambda name: -sum(means.get(name, 0.0) for means in found.values()))
    order = list(reversed(found))
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name.replace("_", " "),
            "x": [found[arm].get(name, 0.0) for arm in order],
            "y": order,
            "marker": {"color": f"@c{place % COLOURS}", "line": {"color": "@page", "width": 1}},
            "hovertemplate": "%{x:.2f} s",
        }
        for place, name in enumerate(names)
    ]
    totals = {arm: sum(means.values()) for arm, means in found.items()}
    rows = [
        [name.replace("_", " "), *(f"{means.get(name, 0.0):.3f}" for means in found.values())]
        for name in names
    ]
    rows.append(["in all", *(f"{total:.3f}" for total in totals.values())])
    sentences = "; ".join(f"{arm}: {total:.2f} s" for arm, total in totals.items())
    return Figure(
        "Seconds by phase",
        f"Mean seconds of a training step, by phase. {sentences}. The longest: {names[0].replace('_', ' ')}.",
        'Phases named "wait" count only the time the step waited: services work while others generate.',
        ["phase", *found],
        rows,
        data,
        {
            "barmode": "stack",
            "xaxis": {"title": "seconds a step"},
            "yaxis": {"automargin": True},
            "height": 170 + 46 * len(order),
            "hovermode": "closest",
            "showlegend": True,
        },
        wide=True,
    )


def _phase_means(arm: Arm) -> dict[str, float]:
    phases = {phase for run in arm.runs for step in run.metrics for phase in step.seconds}
    # A step that lacks a phase spent no time in it.
    return {phase: float(np.nan_to_num(arm.values(PHASE_PREFIX + phase)).mean()) for phase in phases}


def present(figures: Iterable[Figure | None]) -> list[Figure]:
    """Return the figures that are not None."""
    return [figure for figure in figures if figure is not None]
