"""A study of whether prefixes will pay, before a training run is spent on it: rescue rates per policy.

A frozen policy model passes over problems as a training run would. In each pass every problem is sampled
without a prefix. The hard ones feed one prefix memory per selection policy and are sampled once more from the
prefix that it selects; the outcomes are reported to it. Selection policy `none` is the control: the prompt
from its start again. Only the choice of the prefix differs, so the figures measure the value of the choice.
Along a rollout the chance of success is a martingale: a prefix of the model's own rollouts succeeds on
average as often as the bare prompt, and one of a rollout known to be wrong less often. So prefixes pay only
as far as a policy chooses better than at random.

A finished pass is in the output folder, with the memories; the same command continues with the next one.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from extra_client import NamespaceClient, NoveltyClient, PrefixClient, VerificationClient, VerifyOptions
from extra_rl.config_file import ConfigError
from extra_rl.tokens import TokenTexts, encode_prompts
from extra_rl.vocabulary import Method, SelectionPolicy
from extra_trainer.config import NoveltyConfig, PrefixConfig
from extra_trainer.data.problems import Problem, prompt_identity
from extra_trainer.evaluation.evaluator import digest
from extra_trainer.evaluation.journal import differences
from extra_trainer.evaluation.pass_at_k import bootstrap_means
from extra_trainer.evaluation.result import Estimate, estimate
from extra_trainer.exploration.explorer import Explorer
from extra_trainer.rollouts.collector import Group, Increments, RolloutCollector, RolloutRequest, Sampling
from extra_trainer.rollouts.generation_pool import GenerationPool
from extra_trainer.runs.folder import write_whole

#: The selection policies; the control comes first.
POLICIES = (
    SelectionPolicy.NONE,
    SelectionPolicy.RANDOM,
    SelectionPolicy.SHORTEST,
    SelectionPolicy.SMOOTHED_ENTROPY,
    SelectionPolicy.OUTCOME_AWARE,
)
#: As many as a large training step samples.
PROMPTS_PER_CALL = 256


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Retry(_Record):
    """A hard prompt sampled once more."""

    policy: SelectionPolicy
    #: From 1.
    number: int
    problem: str
    prefix_tokens: int
    #: Of the samples with a verdict.
    samples: int
    correct: int


class StudyPass(_Record):
    """One pass over the problems."""

    problems: int
    hard: int
    #: Mean tokens of the hard prompts' samples, which the prefixes are parts of.
    hard_tokens: float
    retries: tuple[Retry, ...]


class StudyJournal(_Record):
    """The content of rescue.json in the output folder; `asked` determines every figure in it."""

    asked: dict[str, Any]
    passes: tuple[StudyPass, ...] = ()


@dataclass(frozen=True)
class PolicyResult:
    """The result of one selection policy."""

    policy: SelectionPolicy
    retries: int
    #: Share of retries with a correct sample, and share of correct samples, averaged over retries.
    rescued: Estimate
    pass_rate: Estimate
    #: Mean tokens of a prefix, as a share of the mean tokens of a hard prompt's sample.
    prefix_share: float
    #: Paired differences of both shares to those of `none`; None for `none` itself.
    rescued_difference: Estimate | None
    pass_rate_difference: Estimate | None


@dataclass
class RescueStudy:
    """Passes of one model over problems, through real services."""

    generation: GenerationPool
    verification: VerificationClient
    #: Address of the novelty service, whose prefix memories are this study's alone.
    novelty: str
    tokenizer: Any
    sampling: Sampling
    prefix: PrefixConfig
    #: Comparison of samples with reference answers.
    method: Method = Method.MATH
    #: Conventions of that comparison.
    options: VerifyOptions = field(default_factory=VerifyOptions)
    #: Whether the problems' prompts come from the tokenizer's chat template.
    templated: bool = False
    #: Called with the number of new samples.
    progress: Callable[[int], None] = field(default=lambda samples: None)

    def run(self, problems: Sequence[Problem], passes: int, path: Path, weights: str) -> list[PolicyResult]:
        """Make the passes that the journal does not hold yet.

        Args:
            problems: The problems, each with another prompt.
            passes: Passes in all, those in the journal included.
            path: The journal, rescue.json.
            weights: Identity of the model's weights.

        Returns:
            The result of each policy; empty if no prompt was hard.

        Raises:
            ConfigError: If the journal was made with other settings.
        """
        asked = self._asked(problems, weights)
        journal = _read(path, asked)
        made = len(journal.passes)
        requests = [self._request(problem) for problem in problems]
        tokens = TokenTexts(self.tokenizer)
        explorers = {policy: self._explorer(policy, made, len(problems), tokens) for policy in POLICIES}
        version = self.generation.get_info().policy_version
        for number in range(made + 1, passes + 1):
            one = self._pass(requests, explorers, number, version)
            for policy, explorer in explorers.items():
                memories = NamespaceClient(self.novelty, explorer.novelty.namespace)
                memories.copy_to(_snapshot(policy, number), replace=True)
            journal = journal.model_copy(update={"passes": (*journal.passes, one)})
            write_whole(path, journal.model_dump_json(indent=1))
            for policy in POLICIES:
                NamespaceClient(self.novelty, _snapshot(policy, number - 1)).delete()
        return rows(journal)

    def _pass(
        self,
        requests: list[RolloutRequest],
        explorers: dict[SelectionPolicy, Explorer],
        number: int,
        version: int,
    ) -> StudyPass:
        groups = self._collect(requests, f"{number}/unguided", version)
        hard = [group for group in groups if group.outcome.hard]
        retries = []
        for policy, explorer in explorers.items():
            explorer.feed(hard, step=2 * number)
            guided = self._collect(explorer.queue.take(len(hard)), f"{number}/{policy}", version)
            explorer.feed(guided, step=2 * number + 1)
            retries += [_retry(policy, number, group) for group in guided]
        lengths = [len(rollout.token_ids) for group in hard for rollout in group.rollouts]
        return StudyPass(
            problems=len(groups),
            hard=len(hard),
            hard_tokens=float(np.mean(lengths)) if lengths else 0.0,
            retries=tuple(retries),
        )

    def _collect(self, requests: list[RolloutRequest], what: str, version: int) -> list[Group]:
        groups = []
        for start in range(0, len(requests), PROMPTS_PER_CALL):
            seed = int(digest([self.sampling.seed, what, start])[:16], 16)
            collector = RolloutCollector(
                self.generation,
                self.verification,
                progress=Increments(self.progress),
                method=self.method,
                options=self.options,
            )
            some = requests[start : start + PROMPTS_PER_CALL]
            groups += collector.collect(some, replace(self.sampling, seed=seed), version).groups
        return groups

    def _request(self, problem: Problem) -> RolloutRequest:
        (tokens,) = encode_prompts(self.tokenizer, [problem.prompt], templated=self.templated)
        return RolloutRequest(problem.prompt, prompt_identity(problem.prompt), tuple(tokens), problem.answer)

    def _explorer(self, policy: SelectionPolicy, passes: int, problems: int, tokens: TokenTexts) -> Explorer:
        """With its memories as they were after so many passes; a pass that was stopped may have left more."""
        memories = NamespaceClient(self.novelty, f"rescue-{policy}")
        memories.delete()
        if passes:
            NamespaceClient(self.novelty, _snapshot(policy, passes)).copy_to(memories.namespace)
        else:
            memories.create()
        config = self.prefix.model_copy(
            update={"policy": policy, "warmup_steps": 0, "queue_capacity": problems}
        )
        memory = NoveltyClient(self.novelty, memories.namespace)
        prefixes = PrefixClient(self.novelty, memories.namespace)
        # A pass that is made again is new writes.
        launch = uuid.uuid4().hex
        return Explorer(NoveltyConfig(enabled=False), config, memory, prefixes, tokens, launch)

    def _asked(self, problems: Sequence[Problem], weights: str) -> dict[str, Any]:
        """Return everything that determines the figures of a pass, as JSON."""
        sampling = self.sampling
        return {
            "weights": weights,
            "problems": digest([[p.id, p.prompt, p.answer] for p in problems]),
            "references": str(self.options.references),
            "verifier": self.options.verifier,
            "samples_per_prompt": sampling.n,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
            "min_segment_tokens": self.prefix.min_segment_tokens,
            "method": str(self.method),
        }


def _snapshot(policy: SelectionPolicy, passes: int) -> str:
    return f"rescue-{policy}@{passes}"


def _retry(policy: SelectionPolicy, number: int, group: Group) -> Retry:
    return Retry(
        policy=policy,
        number=number,
        problem=group.request.prompt_id,
        prefix_tokens=len(group.request.prefix_tokens),
        samples=group.outcome.decided,
        correct=group.outcome.correct,
    )


def _read(path: Path, asked: dict[str, Any]) -> StudyJournal:
    if not path.exists():
        return StudyJournal(asked=asked)
    journal = StudyJournal.model_validate_json(path.read_bytes())
    if differing := differences(journal.asked, asked):
        raise ConfigError(
            f"{path} is of another study: " + "; ".join(differing) + ". Choose another output folder"
        )
    return journal


def rows(journal: StudyJournal) -> list[PolicyResult]:
    """Return the result of each policy, with 95 % bootstrap intervals over the retries that all have."""
    made = [retry for one in journal.passes for retry in one.retries]
    retries = {
        policy: {(retry.number, retry.problem): retry for retry in made if retry.policy == policy}
        for policy in POLICIES
    }
    # A rollout without a newline has no prefix to continue from: its prompt is compared for no policy.
    common = sorted(set.intersection(*(set(found) for found in retries.values())))
    common = [key for key in common if all(found[key].samples for found in retries.values())]
    if not common:
        return []
    table = {policy: [found[key] for key in common] for policy, found in retries.items()}
    hard_tokens = np.average(
        [one.hard_tokens for one in journal.passes], weights=[one.hard for one in journal.passes]
    )
    rates = {policy: np.array([r.correct / r.samples for r in found]) for policy, found in table.items()}
    rescued = {policy: (values > 0).astype(np.float64) for policy, values in rates.items()}
    return [
        PolicyResult(
            policy=policy,
            retries=len(common),
            rescued=_estimate(rescued[policy]),
            pass_rate=_estimate(rates[policy]),
            prefix_share=float(np.mean([r.prefix_tokens for r in table[policy]]) / hard_tokens),
            rescued_difference=_difference(rescued, policy),
            pass_rate_difference=_difference(rates, policy),
        )
        for policy in POLICIES
    ]


def _difference(
    shares: dict[SelectionPolicy, NDArray[np.float64]], policy: SelectionPolicy
) -> Estimate | None:
    if policy is SelectionPolicy.NONE:
        return None
    return _estimate(shares[policy] - shares[SelectionPolicy.NONE])


def _estimate(values: NDArray[np.float64]) -> Estimate:
    return estimate(values.mean(), bootstrap_means(values[None, :], (0,))[:, 0])
