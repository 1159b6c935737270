"""OpenRLHF's samples generator with our services behind it.

OpenRLHF asks its generator for the experiences of a batch; both training and evaluation pass through
`_generate_vllm`, which is the one method replaced. Prompts go out as token ids, guided prompts take the
last places, groups come back verified and scored, and OpenRLHF's own code turns each rollout into an
Experience: prompt and prefix are context (outside the action range), log-probabilities are the engine's.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator, _collect_prompt_batch

from extra_client import FinishReason, Rollout
from extra_trainer.config import Config
from extra_trainer.data import prompt_identity
from extra_trainer.exploration import Explorer, step_metrics
from extra_trainer.rollout import Collected, Group, RolloutCollector, RolloutError, RolloutRequest, Sampling
from extra_trainer.run_folder import RunFolder

#: Keeps the seeds of evaluation apart from those of training steps.
EVALUATION_SEED = 2**32


@dataclass
class PolicyState:
    """What changes as training goes on, shared by trainer and generator."""

    #: Steps completed.
    step: int = 0
    #: Version of the weights that the generation service must serve.
    version: int = 0


class ExTraSamplesGenerator(SamplesGenerator):
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
        #: Metrics of the last training batch.
        self.metrics: dict[str, float] = {}

    def _generate_vllm(
        self, dataloader_iter: Any, num_prompts: int, dynamic_filtering: bool, **generate_kwargs: Any
    ) -> tuple[list[Experience], int, bool]:
        if dynamic_filtering:
            raise RolloutError(
                "dynamic filtering drops the all-wrong groups that prefixes come from: "
                "remove algo.dynamic_filtering_enable from the config's openrlhf section"
            )
        prompts, answers, _, exhausted = _collect_prompt_batch(dataloader_iter, num_prompts)
        if not prompts:
            return [], 0, True
        batch = [self._request(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        if dataloader_iter is getattr(self, "_eval_dataloader_iter", None):
            groups, novelty = self._evaluate(batch, generate_kwargs), None
        else:
            groups, novelty = self._train(batch)
        experiences = [
            self._experience(group, sample, 0.0 if novelty is None else novelty[row, sample], generate_kwargs)
            for row, group in enumerate(groups)
            for sample in range(len(group.rollouts))
        ]
        return experiences, len(prompts), exhausted

    def _request(self, prompt: str, answer: str) -> RolloutRequest:
        tokens = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        most = self._config.rollout.prompt_max_tokens
        if len(tokens) > most:
            raise RolloutError(
                f"a prompt has {len(tokens)} tokens, more than rollout.prompt_max_tokens ({most}): "
                f"{prompt[:200]!r}"
            )
        return RolloutRequest(prompt, prompt_identity(prompt), tuple(tokens), answer)

    def _train(self, batch: list[RolloutRequest]) -> tuple[list[Group], NDArray[np.float64]]:
        step = self._policy.step + 1
        collected = self._collector.collect(
            self._explorer.plan(batch),
            self._sampling(self._config.seed * 1_000_003 + step),
            self._policy.version,
        )
        self._check_undecided(collected.groups)
        clock = self._folder.clock()
        novelty = self._explorer.score(collected.groups, step)
        novelty_seconds = clock()
        queued = self._explorer.feed(collected.groups, step)
        self.metrics = {
            **step_metrics(collected.groups, novelty, queued, len(self._explorer.queue.waiting)),
            "policy_version": float(self._policy.version),
            **_seconds(collected, novelty_seconds, clock()),
        }
        self._folder.write_rollouts(step, collected.groups, novelty)
        return collected.groups, novelty

    def _evaluate(self, batch: list[RolloutRequest], generate_kwargs: dict[str, Any]) -> list[Group]:
        sampling = Sampling(
            n=generate_kwargs["n_samples_per_prompt"],
            max_tokens=self._config.rollout.response_max_tokens,
            temperature=generate_kwargs["temperature"],
            seed=EVALUATION_SEED + self._policy.step,
        )
        return self._collector.collect(batch, sampling, self._policy.version).groups

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
        self, group: Group, sample: int, novelty: float, generate_kwargs: dict[str, Any]
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
            "extra_logs": _info(rollout, novelty, correct, decided, request.guided),
        }
        return self._process_response_into_experience(response, **generate_kwargs)


def _info(rollout: Rollout, novelty: float, correct: bool, decided: bool, guided: bool) -> dict[str, float]:
    """Per-sample values that travel with the experience; every sample has the same keys."""
    return {
        "novelty": float(novelty),
        "correct": float(correct),
        "decided": float(decided),
        "guided": float(guided),
        "entropy": float(rollout.entropies.mean()),
    }


def _seconds(collected: Collected, novelty: float, prefix: float) -> dict[str, float]:
    return {
        "seconds/generation": collected.generation_seconds,
        "seconds/verification_wait": collected.verification_wait_seconds,
        "seconds/novelty": novelty,
        "seconds/prefix": prefix,
    }
