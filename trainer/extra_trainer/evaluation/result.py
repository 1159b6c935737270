"""What an evaluation came to: pass@k per set with intervals, and all that is missing behind the figures.

A refused problem and a sample without a verdict count as not solved, so figures are lower bounds where there
are any; both are counted beside them, in every table. Made from the results of the single problems alone:
evaluated in one go or in ten, the same.
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
    """What came of one problem."""

    set: str
    #: Its place in the set, from 0.
    index: int
    #: As in its file.
    id: str
    #: Samples found correct, samples without a verdict, samples that reached max_tokens or the window.
    correct: int = 0
    undecided: int = 0
    cut_off: int = 0
    #: Tokens of all its samples.
    tokens: int = 0
    #: Why the generation service did not take it; empty if it was sampled.
    refused: str = ""


class Estimate(_Result):
    """A figure in [0, 1] with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


class Refusal(_Result):
    """A problem that was not sampled, and why."""

    index: int
    id: str
    reason: str


class SetResult(_Result):
    """The result on one set."""

    problems: int
    #: k -> pass@k.
    pass_at: dict[int, Estimate]
    #: Correct samples of each problem, in order.
    correct: list[int]
    undecided: int
    refused: list[Refusal]
    #: Share of samples that reached max_tokens or the window; None if there are no samples.
    cut_off: float | None
    mean_tokens: float | None


class Evaluation(_Result):
    """The result of one evaluation."""

    #: What was evaluated and how; see `evaluate.request`.
    request: dict[str, Any]
    policy_version: int
    samples_per_prompt: int
    sets: dict[str, SetResult]
    #: k -> mean of the sets' pass@k, each set counting the same.
    mean: dict[int, Estimate]
    #: Wall time, over all launches.
    seconds: float

    @property
    def problems(self) -> int:
        """Problems of all sets."""
        return sum(result.problems for result in self.sets.values())

    @property
    def undecided(self) -> int:
        """Samples without a verdict, over all sets."""
        return sum(result.undecided for result in self.sets.values())

    @property
    def refused(self) -> int:
        """Problems that were not sampled, over all sets."""
        return sum(len(result.refused) for result in self.sets.values())

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        write_whole(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Evaluation":
        """What `save` wrote."""
        return cls.model_validate_json(path.read_bytes())


def summarize(
    results: Iterable[ProblemResult], request: dict[str, Any], k: Sequence[int], seconds: float
) -> Evaluation:
    """The evaluation whose problems came out as in `results`, in whatever order they are."""
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
    """A figure with the interval of its bootstrap `means` [RESAMPLES]."""
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
    )


def result_table(evaluation: Evaluation) -> Table:
    """The result for the terminal: a row a set, and their mean."""
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
