"""TRL's own trainer and rollout loop, which get their completions given."""

import asyncio
import queue
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import trl
from accelerate import PartialState
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.async_grpo.async_rollout_worker import RolloutGroup as AsyncGroup
from trl.experimental.async_grpo.async_rollout_worker import TrainingSequence, _AsyncRolloutLoop

from extra_client.integrations import NoveltyScoring
from extra_client.integrations.contract import RolloutGroup
from extra_client.integrations.trl import FINAL_ANSWERS, NoveltyAdvantage, novelty_reward
from extra_client.integrations.trl_async import NoveltyRolloutLoop
from support.generation_models import EOS, make_model


class Given:
    """Before a trainer: its completions are given."""

    completions: Sequence[str] = ()

    def _generate_single_turn(self, *_: Any, **__: Any) -> Any:
        tokenizer: Any = self.processing_class  # type: ignore[attr-defined]
        return [[*tokenizer(text)["input_ids"], EOS] for text in self.completions], None


class Plain(Given, trl.GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer."""


class WithNovelty(NoveltyAdvantage, Plain):
    """The mixin in its place."""


class AfterNormalization:
    """NoveltyAdvantage in GRPOTrainer."""

    cannot: ClassVar[Mapping[str, str]] = {"images": "the model of these tests reads texts alone"}

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        with tempfile.TemporaryDirectory() as folder:
            make_model(Path(folder), max_position_embeddings=1024)
            return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def step(
        self, scoring: NoveltyScoring | None, groups: Sequence[RolloutGroup], number: int
    ) -> list[list[float]]:
        """Return advantages; 0 for a completion that TRL leaves out."""
        size, rows = len(groups[0].texts), rows_of(groups)
        with tempfile.TemporaryDirectory() as folder:
            arguments = trl.GRPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=False,
                report_to="none",
                per_device_train_batch_size=len(rows),
                num_generations=size,
                max_completion_length=512,
            )
            inputs = [{"prompt": group.prompt, "solution": group.reference} for group, _ in rows]
            kind: Any = Plain if scoring is None else WithNovelty
            model, tokenizer = self._model
            trainer = kind(
                model,
                rewarded(rows),
                args=arguments,
                train_dataset=Dataset.from_list(inputs),
                processing_class=tokenizer,
                **({} if scoring is None else {"novelty": scoring, "reference": "solution"}),
            )
        trainer.completions = [group.texts[row] for group, row in rows]
        trainer.state.global_step = number
        trainer.model.train()
        advantages = trainer._generate_and_score_completions(inputs)["advantages"]
        return [list(each) for each in np.nan_to_num(advantages.numpy()).reshape(-1, size)]


class BeforeNormalization:
    """novelty_reward, called as TRL calls it: the weighted sum of both rewards."""

    cannot: ClassVar[Mapping[str, str]] = {
        "beta": "TRL normalizes the reward of a function",
        "twice": "the completions of one prompt in a call are one group",
    }

    def step(
        self, scoring: NoveltyScoring | None, groups: Sequence[RolloutGroup], number: int
    ) -> list[list[float]]:
        """Return rewards; without the bonus where the function gives none."""
        size, rows = len(groups[0].texts), rows_of(groups)
        correct = rewarded(rows)
        columns: dict[str, Any] = {
            "prompts": [group.prompt for group, _ in rows],
            "completions": [group.texts[row] for group, row in rows],
            "solution": [group.reference for group, _ in rows],
        }
        rewards = np.array([each or 0.0 for each in correct(**columns)])
        if scoring is not None:
            reward = novelty_reward(scoring, correct=correct, reference="solution")
            state = SimpleNamespace(global_step=number)
            rewards += [each or 0.0 for each in asyncio.run(reward(trainer_state=state, **columns))]
        return [list(each) for each in rewards.reshape(-1, size)]


class AsynchronousTrainer:
    """The rollout loop of the asynchronous trainer, in this process."""

    cannot: ClassVar[Mapping[str, str]] = {
        "images": "TRL's asynchronous trainer reads texts alone",
        "resume": "TRL's rollout worker knows no steps",
    }

    @cached_property
    def _tokenizer(self) -> Any:
        PartialState()  # As the trainer has done: TRL's logger needs it.
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = AutoTokenizer.from_pretrained(make_model(Path(folder)))
        templates = Path(trl.__file__).parent / "chat_templates"
        tokenizer.chat_template = (templates / "qwen3.jinja").read_text(encoding="utf-8")
        return tokenizer

    def step(
        self, scoring: NoveltyScoring | None, groups: Sequence[RolloutGroup], number: int
    ) -> list[list[float]]:
        """Return advantages."""
        return [self._scored(scoring, group) for group in groups]

    def _scored(self, scoring: NoveltyScoring | None, group: RolloutGroup) -> list[float]:
        rows = rows_of([group])
        options: dict[str, Any] = {
            "model_name": "model",
            "dataset": Dataset.from_list([{"prompt": "p"}]),
            "reward_funcs": [rewarded(rows)],
            "processing_class": self._tokenizer,
            "eos_token_ids": [EOS],
            "metrics_queue": queue.Queue(),
        }
        shared = ("rollout_buffer", "model_version_value", "heartbeat_value", "failed_event")
        options |= dict.fromkeys((*shared, "exception_info_queue"))
        loop: Any
        # As add_novelty decides it.
        if scoring is None or not scoring.active:
            loop = _AsyncRolloutLoop(**options)
        else:
            novelty = {
                "scoring": scoring,
                "correct_by": None,
                "answers": FINAL_ANSWERS,
                "reference": "solution",
            }
            loop = NoveltyRolloutLoop(novelty=novelty, **options)
        size = len(rows)
        sequence = TrainingSequence(
            rollout_id=0, input_ids=[2, 3], completion_mask=[0, 1], old_log_probs=[0.0, -0.5]
        )
        made = AsyncGroup(
            prompts=[[{"role": "user", "content": group.prompt}]] * size,
            reward_kwargs={"solution": [group.reference] * size},
            completions=[[{"role": "assistant", "content": text}] for text in group.texts],
            completions_ids=[[2, 3]] * size,
            completions_sequences=[[sequence]] * size,
            tool_call_counts=[0] * size,
            tool_failure_counts=[0] * size,
            model_version=0,
            group_id=0,
            env_rewards=[None] * size,
            rollout_rewards=[None] * size,
        )
        return [sample.advantage for sample in asyncio.run(loop._score_group(made))]


def rows_of(groups: Sequence[RolloutGroup]) -> list[tuple[RolloutGroup, int]]:
    """Return the rollouts of groups, each as its group and its place there."""
    return [(group, row) for group in groups for row in range(len(group.texts))]


def rewarded(rows: Sequence[tuple[RolloutGroup, int]]) -> Any:
    """Return a reward function that knows what is correct, and logs the final answers."""

    def given(completions: Sequence[Any], log_extra: Any = None, **_: Any) -> list[float | None]:
        if log_extra is not None:
            log_extra(FINAL_ANSWERS, [group.answers[row] for group, row in rows])
        verdicts = [group.correct[row] for group, row in rows]
        return [None if right is None else float(right) for right in verdicts]

    return given
