"""OpenRLHF's samples generator with our services behind it.

OpenRLHF asks its generator for the experiences of a batch; both training and evaluation pass through
`_generate_vllm`, which is the one method replaced. Prompts go out as token ids, guided prompts take the
last places, groups come back verified and scored, and OpenRLHF's own code turns each rollout into an
Experience: prompt and prefix are context (outside the action range), log-probabilities are the engine's.

With `rollout.overlap_update` the next step's rollouts are begun as soon as a step's are there, on the weights
of that moment. Everything that writes to a memory waits for their own step, and a checkpoint records the
data position and queue from before they were begun, so that it never holds half a step.
"""

import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator, _collect_prompt_batch

from extra_client import FinishReason, request_scope
from extra_trainer.config import Config
from extra_trainer.data.problems import prompt_identity
from extra_trainer.exploration.explorer import Explorer, StepNovelty, step_metrics
from extra_trainer.exploration.recording import prefix_choice_records, rollout_records
from extra_trainer.exploration.results import GroupNovelty
from extra_trainer.rollouts.collector import (
    Collected,
    Group,
    RolloutCollector,
    RolloutError,
    RolloutRequest,
    Sampling,
)
from extra_trainer.runs.folder import RunFolder

Result = TypeVar("Result")

#: Keeps the seeds of evaluation apart from those of training steps.
EVALUATION_SEED = 2**32


@dataclass(frozen=True)
class DataPosition:
    """Where a resumed run goes on: OpenRLHF's dataloader state, and the guided queue."""

    dataloader: dict[str, Any]
    queue: list[dict[str, Any]]


@dataclass
class Batch:
    """The prompts of one step, under way or done."""

    requests: list[RolloutRequest]
    #: Prompts taken from the data, guided ones included (they displace theirs).
    prompts: int
    exhausted: bool
    #: None if there are no prompts.
    collected: Future[Collected] | None
    novelty: StepNovelty


@dataclass
class PolicyState:
    """What changes as training goes on, shared by trainer and generator."""

    #: Steps completed.
    step: int = 0
    #: Version of the weights that the generation service must serve.
    version: int = 0


class ExTraSamplesGenerator(SamplesGenerator):  # type: ignore[misc]
    """Generates one training batch, or the evaluation set, through the services."""

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
        # One for rollouts, one for the prefix memory.
        self._background = ThreadPoolExecutor(2, thread_name_prefix="exploration")
        self._following: Batch | None = None
        self._to_feed: tuple[list[Group], list[GroupNovelty], int] | None = None
        self._feeding: Future[int] | None = None
        #: Metrics of the last training batch; whole once `settle` was called.
        self.metrics: dict[str, float] = {}
        #: Where the step after the last training batch begins; as of `settle`.
        self.position = DataPosition({}, [])

    def generate_samples(self, **generate_kwargs: Any) -> Any:
        """OpenRLHF's, with a shuffle that depends on the seed and the pass over the data alone."""
        if getattr(self, "_dataloader_iter", None) is None:
            steps = self._config.rollout.steps_per_pass(len(self.prompts_dataloader))
            torch.manual_seed(self._config.seed * 1_000_003 + self._policy.step // steps)
        return super().generate_samples(**generate_kwargs)

    def _generate_vllm(
        self, dataloader_iter: Any, num_prompts: int, dynamic_filtering: bool, **generate_kwargs: Any
    ) -> tuple[list[Experience], int, bool]:
        if dynamic_filtering:
            raise RolloutError(
                "dynamic filtering drops the all-wrong groups that prefixes come from: "
                "remove algo.dynamic_filtering_enable from the config's openrlhf section"
            )
        if dataloader_iter is getattr(self, "_eval_dataloader_iter", None):
            return self._evaluate(dataloader_iter, num_prompts, generate_kwargs)
        self.settle()
        batch = self._following or self._begin(dataloader_iter, num_prompts, self._policy.step + 1)
        self._following = None
        if batch.collected is None:
            return [], 0, True
        clock = self._folder.clock()
        collected = batch.collected.result()
        waited = clock()
        groups, novelty = self._finish(batch, collected, self._policy.step + 1)
        # Of rollouts that were begun during the update only what the step waited for.
        self.metrics["seconds/generation"] = min(waited, collected.generation_seconds)
        if self._config.rollout.overlap_update:
            self.settle()
            self._following = self._begin(dataloader_iter, num_prompts, self._policy.step + 2)
        experiences = self._experiences(groups, novelty, generate_kwargs)
        return experiences, batch.prompts, batch.exhausted

    def begin_feeding(self) -> None:
        """Has the groups of the last training batch feed the prefix memory, in the background."""
        if self._to_feed is not None:
            groups, novelty, step = self._to_feed
            self._feeding = self._submit(step, lambda: self._feed(groups, novelty, step))
            self._to_feed = None

    def _feed(self, groups: list[Group], novelty: list[GroupNovelty], step: int) -> int:
        """Also records the step, which takes a second for millions of tokens."""
        self._folder.write_rollouts(step, rollout_records(groups, novelty))
        queued = self._explorer.feed(groups, step)
        self._folder.write_prefix_choices(step, prefix_choice_records(self._explorer.choices))
        return queued

    def settle(self) -> None:
        """Waits for the prefix memory; then metrics are whole, and the queue and position the next step's."""
        self.begin_feeding()
        if self._feeding is None:
            return
        clock = self._folder.clock()
        self.metrics["guided_queued"] = float(self._feeding.result())
        self._feeding = None
        self.metrics["guided_waiting"] = float(len(self._explorer.queue.waiting))
        self.metrics["seconds/prefix_wait"] = clock()
        self.position = DataPosition(self.prompts_dataloader.state_dict(), self._explorer.queue.state())

    def _begin(self, dataloader_iter: Any, num_prompts: int, step: int) -> Batch:
        """Takes the prompts of `step` and has their rollouts collected in the background."""
        prompts, answers, _, exhausted = _collect_prompt_batch(dataloader_iter, num_prompts)
        # The rest of a pass that does not fill a batch would leave gradients behind for the next update:
        # it is left out, and another shuffle leaves out others.
        if len(prompts) < num_prompts:
            return Batch([], 0, True, None, StepNovelty(self._explorer, step))
        requests = self._explorer.plan(
            [self._request(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        )
        batch = Batch(requests, len(prompts), exhausted, None, StepNovelty(self._explorer, step))
        sampling, version = self._sampling(self._config.seed * 1_000_003 + step), self._policy.version
        on_group = None if self._config.rollout.overlap_update else batch.novelty.add
        batch.collected = self._submit(
            step,
            lambda: self._collector.collect(requests, sampling, version, on_group, batch.novelty.prepare),
        )
        return batch

    def _submit(self, step: int, work: Callable[[], Result]) -> Future[Result]:
        """Has `work` done in the background; the services are told that its calls are of `step`."""
        with request_scope(self._scope(step)):
            return self._background.submit(contextvars.copy_context().run, work)

    def _scope(self, step: int) -> str:
        """What the request ids of a step's calls begin with."""
        return f"{self._explorer.launch_id}/step-{step}"

    def _finish(
        self, batch: Batch, collected: Collected, step: int
    ) -> tuple[list[Group], list[GroupNovelty]]:
        """Scores what is not yet scored, and measures the step."""
        groups = collected.groups
        self._check_undecided(groups)
        clock = self._folder.clock()
        with request_scope(self._scope(step)):
            novelty = batch.novelty.finish(groups)
        self.metrics = {
            **step_metrics(groups, novelty),
            "policy_version": float(groups[0].rollouts[0].policy_version),
            "seconds/verification_wait": collected.verification_wait_seconds,
            "seconds/novelty_wait": collected.on_group_wait_seconds + clock(),
        }
        # What comes of it is needed when the next step begins.
        self._to_feed = groups, novelty, step
        return groups, novelty

    def _experiences(
        self, groups: list[Group], novelty: list[GroupNovelty], generate_kwargs: dict[str, Any]
    ) -> list[Experience]:
        return [
            self._experience(group, sample, scores, generate_kwargs)
            for group, scores in zip(groups, novelty, strict=True)
            for sample in range(len(group.rollouts))
        ]

    def _request(self, prompt: str, answer: str) -> RolloutRequest:
        tokens = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        most = self._config.rollout.prompt_max_tokens
        if len(tokens) > most:
            raise RolloutError(
                f"a prompt has {len(tokens)} tokens, more than rollout.prompt_max_tokens ({most}): "
                f"{prompt[:200]!r}"
            )
        return RolloutRequest(prompt, prompt_identity(prompt), tuple(tokens), answer)

    def _evaluate(
        self, dataloader_iter: Any, num_prompts: int, generate_kwargs: dict[str, Any]
    ) -> tuple[list[Experience], int, bool]:
        prompts, answers, _, exhausted = _collect_prompt_batch(dataloader_iter, num_prompts)
        if not prompts:
            return [], 0, True
        requests = [self._request(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        sampling = Sampling(
            n=generate_kwargs["n_samples_per_prompt"],
            max_tokens=self._config.rollout.response_max_tokens,
            temperature=generate_kwargs["temperature"],
            seed=EVALUATION_SEED + self._policy.step,
        )
        with request_scope(f"{self._explorer.launch_id}/evaluation-{self._policy.step}"):
            groups = self._collector.collect(requests, sampling, self._policy.version).groups
        nothing = [GroupNovelty.none(len(group.rollouts)) for group in groups]
        return self._experiences(groups, nothing, generate_kwargs), len(prompts), exhausted

    def _sampling(self, seed: int) -> Sampling:
        rollout = self._config.rollout
        return Sampling(
            n=rollout.samples_per_prompt,
            max_tokens=rollout.response_max_tokens,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            seed=seed,
        )

    def _check_undecided(self, groups: list[Group]) -> None:
        undecided = [
            verdict
            for group in groups
            for verdict, known in zip(group.verdicts, group.decided, strict=True)
            if not known
        ]
        total = sum(len(group.rollouts) for group in groups)
        if len(undecided) > self._config.services.max_undecided * total:
            example = undecided[0]
            raise RolloutError(
                f"{len(undecided)} of {total} rollouts got no verdict, more than services.max_undecided "
                f"({self._config.services.max_undecided:.0%}); the first: {example.status} {example.detail}"
            )

    def _experience(
        self, group: Group, sample: int, novelty: GroupNovelty, generate_kwargs: dict[str, Any]
    ) -> Experience:
        request, rollout = group.request, group.rollouts[sample]
        context = [*request.prompt_tokens, *request.prefix_tokens]
        tokens = [*context, *rollout.token_ids.tolist()]
        decided, correct = bool(group.decided[sample]), bool(group.correct[sample])
        # An undecided rollout has no reward. The group's pass rate stands in its place where OpenRLHF
        # averages rewards for its logs; the advantage of such a rollout is 0 (experience.py).
        reward = float(correct) if decided else float(np.nan_to_num(group.pass_rate))
        response = {
            "observation_tokens": tokens,
            "action_ranges": [(len(context), len(tokens))],
            "rollout_log_probs": [0.0] * len(context) + rollout.logprobs.tolist(),
            "prompt": request.prompt,
            "label": request.answer,
            "reward": reward,
            "scores": reward,
            "truncated": rollout.finish_reason is FinishReason.LENGTH,
            "extra_logs": {
                # Every sample has the same keys.
                "novelty": float(novelty.scaled[sample]),
                "reward_variance": novelty.reward_variance,
                "correct": float(correct),
                "decided": float(decided),
                "guided": float(request.guided),
                "entropy": float(rollout.entropies.mean()),
            },
        }
        return self._process_response_into_experience(response, **generate_kwargs)
