"""The result of an evaluation: pass@k per set with intervals, missing verdicts, and refused problems.

A refused problem and a sample without a verdict count as not solved, so the figures are lower bounds where
there are any; both counts are shown in every table. The result is made of the results of single problems
alone: it is the same whether they were evaluated in one launch or in ten.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from rich import box
from rich.table import Table

from extra_trainer.evaluation.pass_at_k import bootstrap_means, interval, problem_pass_at_k
from extra_trainer.runs.folder import write_whole


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProblemResult(_Result):
    """The result of one problem."""

    set: str
    #: Its place in the set, from 0.
    index: int
    #: The id in its file.
    id: str
    #: Problems of one group are also summarized together; "": of none.
    group: str = ""
    #: Numbers of samples: correct, without a verdict, and cut off at max_tokens or the context window.
    correct: int = 0
    undecided: int = 0
    cut_off: int = 0
    #: Tokens of all its samples.
    tokens: int = 0
    #: The reason why the generation service refused it; empty if it was sampled.
    refused: str = ""


class Estimate(_Result):
    """A figure in [0, 1] with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


class Refusal(_Result):
    """A problem that the generation service refused, with the reason."""

    index: int
    id: str
    reason: str


class GroupResult(_Result):
    """The result on the problems of a set that have the same group."""

    problems: int
    #: Share of correct samples.
    pass_at_1: float
    #: Share of problems without a correct sample.
    all_wrong: float


class SetResult(_Result):
    """The result on one set."""

    problems: int
    #: k -> pass@k.
    pass_at: dict[int, Estimate]
    #: Correct samples of each problem, in order.
    correct: list[int]
    undecided: int
    refused: list[Refusal]
    #: Share of samples cut off at max_tokens or the context window; None if there are no samples.
    cut_off: float | None
    mean_tokens: float | None
    #: Group -> result, of those problems that have one.
    groups: dict[str, GroupResult] = {}


class Evaluation(_Result):
    """The result of one evaluation."""

    #: Everything that determines the samples; see `evaluator.request`.
    request: dict[str, Any]
    policy_version: int
    samples_per_prompt: int
    sets: dict[str, SetResult]
    #: k -> mean of the sets' pass@k, with equal weights.
    mean: dict[int, Estimate]
    #: Wall time of all launches.
    seconds: float

    @property
    def problems(self) -> int:
        """Number of problems in all sets."""
        return sum(result.problems for result in self.sets.values())

    @property
    def undecided(self) -> int:
        """Number of samples without a verdict in all sets."""
        return sum(result.undecided for result in self.sets.values())

    @property
    def refused(self) -> int:
        """Number of problems that were refused in all sets."""
        return sum(len(result.refused) for result in self.sets.values())

    def save(self, path: Path) -> None:
        """Write the result as JSON."""
        write_whole(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Evaluation":
        """Read a result that `save` wrote."""
        return cls.model_validate_json(path.read_bytes())


def summarize(
    results: Iterable[ProblemResult], request: dict[str, Any], k: Sequence[int], seconds: float
) -> Evaluation:
    """Summarize the results of single problems, given in any order.

    Args:
        results: One result per problem.
        request: The request of the evaluation, see `evaluator.request`.
        k: The numbers k for which to estimate pass@k.
        seconds: Wall time of the evaluation.
    """
    n, seed = request["samples_per_prompt"], request["seed"]
    by_set: dict[str, list[ProblemResult]] = {name: [] for name in request["sets"]}
    for result in sorted(results, key=lambda result: result.index):
        by_set[result.set].append(result)
    sets, all_means = {}, []
    for number, (name, problems) in enumerate(by_set.items()):
        values = np.stack([problem_pass_at_k([p.correct for p in problems], n, each) for each in k])
        means = bootstrap_means(values, (seed, number))
        all_means.append(means)
        sets[name] = _set_result(problems, n, _estimates(k, values.mean(axis=1), means))
    values_of_mean = [float(np.mean([result.pass_at[each].value for result in sets.values()])) for each in k]
    return Evaluation(
        request=request,
        policy_version=request["policy_version"],
        samples_per_prompt=n,
        sets=sets,
        mean=_estimates(k, values_of_mean, np.mean(all_means, axis=0)),
        seconds=seconds,
    )


def estimate(value: float, means: NDArray[np.float64]) -> Estimate:
    """Return a figure with the 95 % interval of its bootstrap `means` [RESAMPLES]."""
    low, high = interval(means)
    return Estimate(value=float(value), low=low, high=high)


def _estimates(k: Sequence[int], values: Iterable[float], means: Any) -> dict[int, Estimate]:
    return {
        each: estimate(value, means[:, place])
        for place, (each, value) in enumerate(zip(k, values, strict=True))
    }


def _set_result(problems: list[ProblemResult], n: int, pass_at: dict[int, Estimate]) -> SetResult:
    samples = n * sum(not problem.refused for problem in problems)
    return SetResult(
        problems=len(problems),
        pass_at=pass_at,
        correct=[problem.correct for problem in problems],
        undecided=sum(problem.undecided for problem in problems),
        refused=[Refusal(index=p.index, id=p.id, reason=p.refused) for p in problems if p.refused],
        cut_off=sum(problem.cut_off for problem in problems) / samples if samples else None,
        mean_tokens=sum(problem.tokens for problem in problems) / samples if samples else None,
        groups=_group_results(problems, n),
    )


def _group_results(problems: list[ProblemResult], n: int) -> dict[str, GroupResult]:
    names = sorted({problem.group for problem in problems} - {""})
    members = {name: [problem for problem in problems if problem.group == name] for name in names}
    return {
        name: GroupResult(
            problems=len(some),
            pass_at_1=sum(problem.correct for problem in some) / (n * len(some)),
            all_wrong=sum(not problem.correct for problem in some) / len(some),
        )
        for name, some in members.items()
    }


def result_table(evaluation: Evaluation) -> Table:
    """Return the result as a table for the terminal: one row per set, and their mean."""
    table = Table(
        title=f"{evaluation.samples_per_prompt} samples a problem; [95 % bootstrap interval over problems]",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    ks = list(evaluation.mean)
    table.add_column("set", no_wrap=True)
    passes = (f"pass@{k}" for k in ks)
    counts = ("tokens\na sample", "cut off", "undecided\nsamples", "refused\nproblems")
    for column in ("problems", *passes, *counts):
        table.add_column(column, justify="right")
    for name, result in evaluation.sets.items():
        table.add_row(
            name,
            str(result.problems),
            *(str(result.pass_at[k]) for k in ks),
            "-" if result.mean_tokens is None else f"{result.mean_tokens:.0f}",
            "-" if result.cut_off is None else f"{result.cut_off:.0%}",
            str(result.undecided),
            str(len(result.refused)),
        )
    if len(evaluation.sets) > 1:
        table.add_section()
        figures = (str(evaluation.mean[k]) for k in ks)
        table.add_row(
            "mean of sets",
            str(evaluation.problems),
            *figures,
            "",
            "",
            str(evaluation.undecided),
            str(evaluation.refused),
        )
    return table


def group_table(evaluation: Evaluation) -> Table | None:
    """Return the groups of the problems as a table, the most often solved first; None if there are none."""
    groups = [
        (name, group, result)
        for name, evaluated in evaluation.sets.items()
        for group, result in evaluated.groups.items()
    ]
    if not groups:
        return None
    table = Table(title="Groups of problems", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("set", no_wrap=True)
    table.add_column("group", no_wrap=True)
    for column in ("problems", "correct samples", "all wrong"):
        table.add_column(column, justify="right")
    for name, group, result in sorted(groups, key=lambda row: (row[0], -row[2].pass_at_1)):
        table.add_row(name, group, str(result.problems), f"{result.pass_at_1:.1%}", f"{result.all_wrong:.0%}")
    return table


def outcome_lines(evaluation: Evaluation) -> list[str]:
    """Return a line for each set: problems all wrong, mixed and all right, and pass@n over pass@1."""
    n = evaluation.samples_per_prompt
    lines = []
    for name, result in evaluation.sets.items():
        wrong = sum(correct == 0 for correct in result.correct)
        right = sum(correct == n for correct in result.correct)
        total = max(1, result.problems)
        pass_at_1 = sum(result.correct) / (n * total)
        ratio = f"{(1 - wrong / total) / pass_at_1:.2f}" if pass_at_1 else "-"
        lines.append(
            f"{name}: {wrong / total:.0%} of the problems all wrong, "
            f"{(total - wrong - right) / total:.0%} mixed, {right / total:.0%} all right; "
            f"pass@{n} over pass@1: {ratio}"
        )
    return lines
