"""OpenRLHF's PPO trainer, with the services in place of its engines and ExTra around each step.

A Ray actor class like the original, subclassed through `__ray_actor_class__`. OpenRLHF's own loop runs
unchanged; replaced are where samples come from, how advantages are made, and where new weights go. State
that a resumed run needs travels in OpenRLHF's checkpoints, and a checkpoint comes with a snapshot of the
memories: a copy of the run's namespace under a name that carries the step.
"""

import gc
from typing import Any

import ray
from openrlhf.trainer.ppo_trainer import PPOTrainer
from transformers import set_seed

from extra_client import (
    MemoryPolicy,
    NamespaceClient,
    NamespaceSettings,
    NoveltyClient,
    PrefixClient,
    VerificationClient,
    request_scope,
)
from extra_rl.tokens import TokenTexts
from extra_trainer.config import Config
from extra_trainer.exploration.explorer import Explorer
from extra_trainer.launch.run import Run
from extra_trainer.openrlhf.by_length import loader_by_length
from extra_trainer.openrlhf.experience import ExTraExperienceMaker
from extra_trainer.openrlhf.samples import ExTraSamplesGenerator, PolicyState
from extra_trainer.rollouts.collector import RolloutCollector
from extra_trainer.rollouts.generation_pool import GenerationPool
from extra_trainer.rollouts.outages import patiently

#: Key of our state among OpenRLHF's client states.
STATE = "extra_rl"


class ExTraTrainer(PPOTrainer.__ray_actor_class__):  # type: ignore[misc]
    """GRPO with ExTra. Arguments are PPOTrainer's, and the run."""

    def __init__(self, *arguments: Any, run: Run, **generate_kwargs: Any) -> None:
        # OpenRLHF seeds its model workers, but not this process, which shuffles the prompts.
        set_seed(run.config.seed)
        super().__init__(*arguments, **generate_kwargs)
        # Not None: then weights are broadcast after each update, through the method below.
        self.vllm_engines: list[Any] = []
        self._run = run
        self._policy = PolicyState()
        services = run.config.services
        self._generation = GenerationPool(
            run.generation, run.config.weights_delivery, services.patience(services.generation)
        )
        self._patience = services.patience(services.novelty)
        self._settings = _namespace_settings(run.config)
        explorer = Explorer(
            run.config.novelty,
            run.config.prefix,
            NoveltyClient(
                run.novelty, run.namespace, settings=self._settings, patience=self._patience or None
            ),
            PrefixClient(run.novelty, run.namespace, patience=self._patience or None),
            TokenTexts(self.tokenizer),
            run.launch_id,
        )
        collector = RolloutCollector(
            self._generation,
            VerificationClient(run.verification),
            patience=services.patience(services.verification),
        )
        self._explorer = explorer
        self.samples_generator: Any = ExTraSamplesGenerator(
            self.samples_generator, run.config, collector, explorer, self._policy, run.folder
        )
        self.experience_maker: Any = ExTraExperienceMaker(self.experience_maker, run.config)

    def fit(self, global_step: int = 0) -> None:
        """OpenRLHF's loop, once the services are known to match this policy."""
        self._generation.check_vocabulary(self.tokenizer.get_vocab())
        self._on_workers(_make_quick)
        super().fit(global_step)

    def broadcast_to_vllm(self) -> None:
        """Writes the policy's weights and has all generation replicas serve them, as the next version."""
        self._generation.begin_delivery()
        ray.get(self.actor_model_group.async_save_model())
        folder = self._run.folder
        with request_scope(f"{self._run.launch_id}/step-{self._policy.step + 1}"):
            update = self._generation.deliver(folder.weights, folder.policy_path, self._policy.version + 1)
        self._policy.version = update.policy_version

    def train_step(self, rollout_samples: Any, global_step: int) -> tuple[dict[str, Any], int]:
        """OpenRLHF's; also tells the generator which step comes next."""
        status, step = super().train_step(rollout_samples, global_step)
        self._policy.step = step
        return status, step

    def ppo_train(self, global_steps: int) -> dict[str, Any]:
        """OpenRLHF's, with workers whose random states depend on the seed and the step alone.

        The prefix memory is fed meanwhile: before, policy and reference both compute log-probabilities, and
        on a small machine no processor is free.
        """
        self.samples_generator.begin_feeding()
        self._on_workers(_seed_worker, self._run.config.seed * 1_000_003 + global_steps)
        status: dict[str, Any] = super().ppo_train(global_steps)
        return status

    def save_logs_and_checkpoints(
        self,
        global_step: int,
        logs_dict: dict[str, Any] | None = None,
        client_states: dict[str, Any] | None = None,
    ) -> None:
        """Adds the exploration metrics and our state; a checkpoint also snapshots the memories."""
        self.samples_generator.settle()
        memory = self._memories(self._run.namespace).describe()
        metrics = {
            **self.samples_generator.metrics,
            "memory_solutions": float(memory.solutions),
            "memory_prefixes": float(memory.prefixes),
            "generation_replicas": float(len(self._generation.serving)),
            **_phases(logs_dict or {}),
        }
        position = self.samples_generator.position
        states = {
            **(client_states or {}),
            "data_loader_state_dict": position.dataloader,
            STATE: {"queue": position.queue},
        }
        if global_step % self.args.ckpt.save_steps == 0:
            self._copy(self._memories(self._run.namespace), self._snapshot(global_step))
        super().save_logs_and_checkpoints(global_step, {**(logs_dict or {}), **metrics}, states)
        if global_step % self.args.ckpt.save_steps == 0:
            self._memories(
                self._snapshot(global_step - self.args.ckpt.save_steps * self.args.ckpt.max_num)
            ).delete()
        self._run.folder.append_metrics({"step": global_step, **_numbers(logs_dict or {}), **metrics})

    def init_checkpoint_states(self) -> dict[str, Any]:
        """OpenRLHF's states; queue and memories are put back as they were at the checkpoint.

        Without a checkpoint the memories begin empty: an earlier launch may have left something in them.
        """
        states: dict[str, Any] = super().init_checkpoint_states()
        step = states["global_step"]
        self._policy.step = step
        # A resumed run goes on counting where it was, unless the service has seen later versions.
        self._policy.version = max(step, self._generation.policy_version())
        if step:
            self._explorer.queue.restore(states[STATE]["queue"])
            self._copy(self._memories(self._snapshot(step)), self._run.namespace)
        else:
            memories = self._memories(self._run.namespace)
            memories.delete()
            memories.create(self._settings)
            # With a checkpoint OpenRLHF calls it itself.
            self.broadcast_to_vllm()
        return states

    def _on_workers(self, function: Any, *arguments: Any) -> None:
        """Calls `function(worker, *arguments)` in every worker of the policy."""
        workers = self.actor_model_group._actor_handlers
        ray.get([worker.__ray_call__.remote(function, *arguments) for worker in workers])

    def _snapshot(self, step: int) -> str:
        return f"{self._run.namespace}@{step}"

    def _memories(self, namespace: str) -> NamespaceClient:
        return NamespaceClient(self._run.novelty, namespace, patience=self._patience or None)

    def _copy(self, source: NamespaceClient, destination: str) -> None:
        """Nobody else writes to a run's memories, and now it does not: a copy may be repeated."""
        patiently(lambda: source.copy_to(destination, replace=True), source.wait_for_ready, self._patience)


def _seed_worker(worker: Any, seed: int) -> None:
    set_seed(seed)


def _make_quick(worker: Any) -> None:
    from openrlhf.trainer.ray import ppo_actor

    strategy = worker.strategy
    samples_per_update = strategy.accumulated_gradient * strategy.micro_train_batch_size
    ppo_actor.DataLoader = loader_by_length(samples_per_update)
    # OpenRLHF collects garbage whenever it saves the weights, here after each step: 0.3 s to look through all
    # that torch, transformers and DeepSpeed keep for as long as the process lives. Frozen, it is passed over.
    gc.collect()
    gc.freeze()


def _namespace_settings(config: Config) -> NamespaceSettings:
    minimum = config.novelty.min_history
    return NamespaceSettings(
        memory_capacity=config.novelty.memory_capacity,
        min_history=config.rollout.samples_per_prompt if minimum is None else minimum,
        memory_policy=MemoryPolicy(config.novelty.memory_policy),
        prefix_capacity=config.prefix.memory_capacity,
    )


def _phases(status: dict[str, Any]) -> dict[str, float]:
    """OpenRLHF's timings under our names."""
    names = {"make_experience": "experience", "ppo_train": "update", "broadcast": "weights"}
    return {
        f"seconds/{ours}": status[f"timing/{theirs}"]
        for theirs, ours in names.items()
        if f"timing/{theirs}" in status
    }


def _numbers(status: dict[str, Any]) -> dict[str, float]:
    kept = (
        "kl",
        "actor_grad_norm",
        "policy_loss",
        "ppo_clip_ratio",
        "actor_lr",
        "advantage",
        "novelty_bonus",
    )
    return {key: float(status[key]) for key in kept if key in status}
