"""OpenRLHF's samples generator, with the rollouts of the services.

OpenRLHF asks its generator for the experiences of a batch. Training and evaluation both call
`_generate_vllm`, the one method that is replaced. Prompts are sent as token ids, guided prompts take the
last places, groups return verified and scored, and their advantages are computed while they are groups.
OpenRLHF's own code then turns each rollout into an Experience: prompt and prefix are context (outside the
action range), the log-probabilities are the engine's, and the advantage travels in `info`.

With `rollout.max_staleness` K the rollouts of K later steps have begun when a step is trained
(`rollouts.steps_ahead`). Writes to a memory wait for their own step, and a checkpoint records the data
position and the queue from before those rollouts began, so that it never holds half a step. With K = 1 new
weights wait for these rollouts, so that each is of one version and a run can be repeated; with more, the
weights are delivered at once and samples in flight go on with them.
"""

import contextvars
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

from extra_client import FinishReason, request_scope
from extra_rl.tokens import encode_prompts
from extra_trainer.config import Config
from extra_trainer.data.problems import answer_of_label, prompt_identity
from extra_trainer.exploration.advantage import StepAdvantages, step_advantages
from extra_trainer.exploration.explorer import Explorer
from extra_trainer.exploration.guided_queue import queue_state
from extra_trainer.exploration.recording import prefix_choice_records, rollout_records
from extra_trainer.exploration.results import GroupNovelty
from extra_trainer.exploration.step_metrics import (
    advantage_metrics,
    outcome_metrics,
    step_metrics,
    version_metrics,
)
from extra_trainer.exploration.step_novelty import StepNovelty
from extra_trainer.openrlhf.replacements import take_prompts
from extra_trainer.rollouts.collector import (
    Collected,
    Group,
    RolloutCollector,
    RolloutError,
    RolloutRequest,
    Sampling,
)
from extra_trainer.rollouts.steps_ahead import BegunStep, StepsAhead
from extra_trainer.runs.folder import RunFolder

Result = TypeVar("Result")

#: Keeps the seeds of evaluation apart from those of training steps.
EVALUATION_SEED = 2**32


@dataclass(frozen=True)
class DataPosition:
    """The state of OpenRLHF's data loader and of the guided queue, from which a resumed run continues."""

    dataloader: dict[str, Any]
    queue: list[dict[str, Any]]
    #: Prompts that wait for a success (exploration.rescues).
    unrescued: list[str]


@dataclass(frozen=True)
class FinishedStep:
    """The scored groups of a step, which are still to be recorded and to feed the prefix memory."""

    step: int
    groups: list[Group]
    novelty: list[GroupNovelty]
    advantages: StepAdvantages


@dataclass
class StepCollection:
    """The collection of one step's groups, running or finished."""

    #: Prompts taken from the data, including those that guided prompts replaced.
    prompts: int
    #: Whether the pass over the data ended.
    exhausted: bool
    collected: Future[Collected]
    novelty: StepNovelty


@dataclass
class PolicyState:
    """Progress of training, shared by trainer and generator."""

    #: Steps completed.
    step: int = 0
    #: Version of the weights that the generation service serves.
    version: int = 0


class ExTraSamplesGenerator(SamplesGenerator):  # type: ignore[misc]
    """Generates training batches and evaluation sets through the services."""

    def __init__(
        self,
        base: SamplesGenerator,
        config: Config,
        collector: RolloutCollector,
        explorer: Explorer,
        policy: PolicyState,
        folder: RunFolder,
    ) -> None:
        super().__init__(
            base.strategy, base.prompts_dataloader, base.eval_dataloader, base.tokenizer, vllm_engines=[]
        )
        self._config = config
        self._collector = collector
        self._explorer = explorer
        self._policy = policy
        self._folder = folder
        folder.write_vocabulary(explorer.tokens.pieces)
        ahead = config.rollout.max_staleness
        # One thread for the rollouts of each step that has begun, one for the prefix memory.
        self._background = ThreadPoolExecutor(ahead + 2, thread_name_prefix="exploration")
        self._ahead: StepsAhead[StepCollection, RolloutRequest] = StepsAhead(ahead)
        self._to_feed: FinishedStep | None = None
        self._feeding: Future[int] | None = None
        #: Metrics of the last training batch; complete after `settle`.
        self.metrics: dict[str, float] = {}
        #: Where the next step begins; set by `settle`.
        self.position = DataPosition({}, [], [])

    def generate_samples(self, **generate_kwargs: Any) -> Any:
        """Generate a batch as OpenRLHF does; the shuffle depends only on seed and pass over the data."""
        if getattr(self, "_dataloader_iter", None) is None:
            steps = self._config.rollout.steps_per_pass(len(self.prompts_dataloader))
            torch.manual_seed(self._config.seed * 1_000_003 + self._policy.step // steps)
        return super().generate_samples(**generate_kwargs)

    def _generate_vllm(
        self, dataloader_iter: Any, num_prompts: int, dynamic_filtering: bool, **generate_kwargs: Any
    ) -> tuple[list[Experience], int, bool]:
        if dataloader_iter is getattr(self, "_eval_dataloader_iter", None):
            return self._evaluate(dataloader_iter, num_prompts, generate_kwargs)
        self.settle()
        step = self._policy.step + 1
        self._ahead.fill(step, lambda number: self._begin(dataloader_iter, num_prompts, number))
        collection = self._ahead.take(self._policy.version).work
        if collection is None:
            return [], 0, True
        self._raise_if_failed()
        clock = self._folder.clock()
        collected = collection.collected.result()
        waited = clock()
        finished = self._finish(collection, collected, step)
        # Of rollouts that began during an update, only the time that the step waited for them counts.
        self.metrics["seconds/generation"] = min(waited, collected.generation_seconds)
        experiences = self._experiences(finished.groups, finished.advantages, generate_kwargs)
        return experiences, collection.prompts, collection.exhausted

    def wait_for_rollouts(self) -> float:
        """Wait until no rollouts are generated, and return the seconds; a later call raises their error."""
        clock = self._folder.clock()
        wait([step.work.collected for step in self._ahead.begun if step.work is not None])
        return clock()

    def _raise_if_failed(self) -> None:
        """Raise the error of a later step's rollouts now: training until its turn would be lost time."""
        for step in self._ahead.begun:
            if step.work is not None and step.work.collected.done():
                step.work.collected.result()

    def begin_feeding(self) -> None:
        """Start to feed the prefix memory with the last training batch, in the background."""
        if self._to_feed is not None:
            finished = self._to_feed
            self._feeding = self._submit(finished.step, lambda: self._feed(finished))
            self._to_feed = None

    def _feed(self, finished: FinishedStep) -> int:
        """Record the step, which takes a second for millions of tokens, and feed the prefix memory."""
        recording = self._config.recording
        recorded = recording.records(finished.step)
        if recorded:
            records = rollout_records(finished.groups, finished.novelty, finished.advantages)
            self._folder.write_rollouts(finished.step, records)
        queued = self._explorer.feed(finished.groups, finished.step)
        if recorded:
            self._folder.write_prefix_choices(finished.step, prefix_choice_records(self._explorer.choices))
            if recording.keep is not None:
                self._folder.keep_records(recording.keep)
        return queued

    def settle(self) -> None:
        """Wait until the prefix memory is fed; then `metrics` and `position` are complete."""
        self.begin_feeding()
        if self._feeding is None:
            return
        clock = self._folder.clock()
        self.metrics["guided_queued"] = float(self._feeding.result())
        self._feeding = None
        self.metrics["guided_waiting"] = float(len(self._explorer.queue.waiting))
        self.metrics["seconds/prefix_wait"] = clock()
        dataloader, queue = self._ahead.position(
            self.prompts_dataloader.state_dict, list(self._explorer.queue.waiting)
        )
        self.position = DataPosition(dataloader, queue_state(queue), self._explorer.rescues.state())

    def _begin(
        self, dataloader_iter: Any, num_prompts: int, step: int
    ) -> BegunStep[StepCollection, RolloutRequest]:
        """Take the prompts of `step` and start to collect their rollouts in the background."""
        version, before = self._policy.version, self.prompts_dataloader.state_dict()
        prompts, labels, exhausted = take_prompts(dataloader_iter, num_prompts)
        # The rest of a pass, if it does not fill a batch, is left out: it would leave gradients behind for
        # the next update. The next pass is shuffled differently and leaves out other prompts.
        if len(prompts) < num_prompts:
            return BegunStep(step, version, before, (), None)
        requests = self._explorer.plan(
            [self._request(prompt, label) for prompt, label in zip(prompts, labels, strict=True)]
        )
        novelty = StepNovelty(self._explorer, step, requests)
        sampling, rollout = self._sampling(self._config.seed * 1_000_003 + step), self._config.rollout
        on_group = None if rollout.max_staleness else novelty.add
        collected = self._submit(
            step,
            lambda: self._collector.collect(
                requests,
                sampling,
                version,
                on_group,
                novelty.prepare,
                weights_may_change=rollout.keeps_in_flight,
            ),
        )
        work = StepCollection(len(prompts), exhausted, collected, novelty)
        guided = tuple(request for request in requests if request.guided)
        return BegunStep(step, version, before, guided, work)

    def _submit(self, step: int, work: Callable[[], Result]) -> Future[Result]:
        """Run `work` in the background; the request ids of its calls name `step`."""
        with request_scope(self._scope(step)):
            return self._background.submit(contextvars.copy_context().run, work)

    def _scope(self, step: int) -> str:
        """Return the beginning of the request ids of a step's calls."""
        return f"{self._explorer.launch_id}/step-{step}"

    def _finish(self, collection: StepCollection, collected: Collected, step: int) -> FinishedStep:
        """Score the groups that are not scored yet, and compute the step's advantages and metrics."""
        groups = collected.groups
        self._check_undecided(groups)
        self._check_versions(groups)
        clock = self._folder.clock()
        with request_scope(self._scope(step)):
            novelty = collection.novelty.finish(groups)
        novelty_wait = collected.on_group_wait_seconds + clock()
        advantages = step_advantages(
            groups,
            novelty,
            self._config.novelty,
            self._config.outcome,
            divide_by_std=self._config.optimization.divide_by_std,
            seed=self._config.seed,
            step=step,
            rollout=self._config.rollout,
        )
        self.metrics = {
            **step_metrics(groups, novelty),
            **advantage_metrics(advantages),
            **self._outcome_metrics(groups, novelty, advantages),
            **version_metrics(groups, self._policy.version),
            "seconds/verification_wait": collected.verification_wait_seconds,
            "seconds/novelty_wait": novelty_wait,
        }
        # The prefix memory is fed later; the result is needed when the next step begins.
        self._to_feed = FinishedStep(step, groups, novelty, advantages)
        return self._to_feed

    def _outcome_metrics(
        self, groups: list[Group], novelty: list[GroupNovelty], advantages: StepAdvantages
    ) -> dict[str, float]:
        if not self._config.outcome.enabled:
            return {}
        rescued = self._explorer.rescues.update(groups, novelty)
        return {**outcome_metrics(novelty, advantages), "outcome_rescued": float(rescued)}

    def _experiences(
        self, groups: list[Group], advantages: StepAdvantages, generate_kwargs: dict[str, Any]
    ) -> list[Experience]:
        return [
            self._experience(
                group,
                sample,
                correct,
                {"advantage": float(advantages.advantages[place, sample])},
                generate_kwargs,
            )
            for place, group in enumerate(groups)
            for sample, correct in enumerate(group.results)
        ]

    def _request(self, prompt: str, label: str) -> RolloutRequest:
        templated = self._config.data.apply_chat_template
        (tokens,) = encode_prompts(self.tokenizer, [prompt], templated=templated)
        most = self._config.rollout.prompt_max_tokens
        if len(tokens) > most:
            raise RolloutError(
                f"a prompt has {len(tokens)} tokens, more than rollout.prompt_max_tokens ({most}): "
                f"{prompt[:200]!r}"
            )
        return RolloutRequest(prompt, prompt_identity(prompt), tuple(tokens), answer_of_label(label))

    def _evaluate(
        self, dataloader_iter: Any, num_prompts: int, generate_kwargs: dict[str, Any]
    ) -> tuple[list[Experience], int, bool]:
        prompts, labels, exhausted = take_prompts(dataloader_iter, num_prompts)
        if not prompts:
            return [], 0, True
        requests = [self._request(prompt, label) for prompt, label in zip(prompts, labels, strict=True)]
        sampling = Sampling(
            n=generate_kwargs["n_samples_per_prompt"],
            max_tokens=self._config.rollout.response_max_tokens,
            temperature=generate_kwargs["temperature"],
            seed=EVALUATION_SEED + self._policy.step,
        )
        with request_scope(f"{self._explorer.launch_id}/evaluation-{self._policy.step}"):
            groups = self._collector.collect(requests, sampling, self._policy.version).groups
        experiences = self._experiences(groups, StepAdvantages.zeros(groups), generate_kwargs)
        return experiences, len(prompts), exhausted

    def _sampling(self, seed: int) -> Sampling:
        rollout = self._config.rollout
        return Sampling(
            n=rollout.samples_per_prompt,
            max_tokens=rollout.response_max_tokens,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            seed=seed,
            mask_cut_off=rollout.overlong == "mask",
        )

    def _check_undecided(self, groups: list[Group]) -> None:
        undecided = [verdict for group in groups for verdict in group.verdicts if verdict.correct is None]
        total = sum(len(group.rollouts) for group in groups)
        if len(undecided) > self._config.services.max_undecided * total:
            example = undecided[0]
            raise RolloutError(
                f"{len(undecided)} of {total} rollouts got no verdict, more than services.max_undecided "
                f"({self._config.services.max_undecided:.0%}); the first: {example.status} {example.detail}"
            )

    def _check_versions(self, groups: list[Group]) -> None:
        """Check that no rollout is older than the bound, or newer than the policy.

        Raises:
            RolloutError: One is; the message says which.
        """
        newest, most = self._policy.version, self._config.rollout.max_staleness
        for rollout in (rollout for group in groups for rollout in group.rollouts):
            first, changes = rollout.policy_version, rollout.policy_changes
            last = changes[-1].policy_version if changes else first
            if not newest - most <= first <= last <= newest:
                raise RolloutError(
                    f"a rollout is of policy versions {first} to {last}, the policy has version {newest} and "
                    f"rollout.max_staleness is {most}: does another run update the weights of this "
                    "generation service?"
                )

    def _experience(
        self,
        group: Group,
        sample: int,
        correct: bool | None,
        info: dict[str, float],
        generate_kwargs: dict[str, Any],
    ) -> Experience:
        """Return one rollout as an Experience with the entries `info`, the same keys for every sample."""
        request, rollout = group.request, group.rollouts[sample]
        context = [*request.prompt_tokens, *request.prefix_tokens]
        tokens = [*context, *rollout.token_ids.tolist()]
        # An undecided rollout has no reward, and its advantage is 0. The group's pass rate stands in for the
        # reward where OpenRLHF averages rewards for its logs.
        reward = float(correct) if correct is not None else group.outcome.pass_rate
        if math.isnan(reward):
            reward = 0.0
        response = {
            "observation_tokens": tokens,
            "action_ranges": [(len(context), len(tokens))],
            "rollout_log_probs": [0.0] * len(context) + rollout.logprobs.tolist(),
            "prompt": request.prompt,
            "label": request.answer,
            "reward": reward,
            "scores": reward,
            "truncated": rollout.finish_reason is FinishReason.LENGTH,
            "extra_logs": info,
        }
        return self._process_response_into_experience(response, **generate_kwargs)
