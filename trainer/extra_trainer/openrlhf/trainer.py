"""OpenRLHF's PPO trainer, with the services in place of its engines and ExTra around each step.

OpenRLHF's own loop runs unchanged. Replaced are the source of the samples, their advantages, and the delivery
of new weights. The state that a resumed run needs is stored in OpenRLHF's checkpoints, and each checkpoint
comes with a snapshot of the memories: a copy of the run's namespace whose name ends in the step.
"""

import gc
from typing import Any

import ray
from openrlhf.trainer.ppo_trainer import PPOTrainer
from transformers import set_seed

from extra_client import (
    InFlight,
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
from extra_trainer.openrlhf import replacements, threads
from extra_trainer.openrlhf.experience import ExTraExperienceMaker
from extra_trainer.openrlhf.old_log_probs import from_own_pass, single_update
from extra_trainer.openrlhf.run import Run
from extra_trainer.openrlhf.samples import ExTraSamplesGenerator, PolicyState
from extra_trainer.rollouts.collector import RolloutCollector
from extra_trainer.rollouts.generation_pool import GenerationPool
from extra_trainer.rollouts.outages import retried_call
from extra_trainer.runs.schema import StepMetrics

#: Key of our state in OpenRLHF's client states.
STATE = "extra_rl"


class ExTraTrainer(PPOTrainer.__ray_actor_class__):  # type: ignore[misc]
    """GRPO with ExTra; takes the arguments of PPOTrainer, and the run."""

    def __init__(self, *arguments: Any, run: Run, **generate_kwargs: Any) -> None:
        # OpenRLHF seeds its model workers, but not this process, which shuffles the prompts.
        set_seed(run.config.seed)
        super().__init__(*arguments, **generate_kwargs)
        # Not None, so that OpenRLHF calls broadcast_to_vllm after each update.
        self.vllm_engines: list[Any] = []
        self._run = run
        self._policy = PolicyState()
        services = run.config.services
        self._generation = GenerationPool(
            run.generation, run.config.weights_delivery, services.patience(services.generation)
        )
        self._refused = 0
        #: Seconds that the last delivery of weights waited for rollouts.
        self._rollout_wait = 0.0
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
            run.config.outcome,
        )
        collector = RolloutCollector(
            self._generation,
            VerificationClient(run.verification),
            method=run.config.data.verification_method,
            options=run.config.data.verify_options,
            patience=services.patience(services.verification),
        )
        self._explorer = explorer
        self.samples_generator: Any = ExTraSamplesGenerator(
            self.samples_generator, run.config, collector, explorer, self._policy, run.folder
        )
        self.experience_maker: Any = ExTraExperienceMaker(self.experience_maker)

    def fit(self, global_step: int = 0) -> None:
        """Check that the generation service has this policy's vocabulary, then run OpenRLHF's loop."""
        self._generation.check_vocabulary(self.tokenizer.get_vocab())
        workers = self._run.config.ray.gpus_per_node
        self._on_workers(_prepare_worker, workers)
        rollout = self.args.rollout
        if self.reference_model_group is not None and single_update(
            self.args, rollout.batch_size * rollout.n_samples_per_prompt
        ):
            # The policy computes nothing beside it.
            self._on_workers(_forward_on_all_cores, workers, group=self.reference_model_group)
        super().fit(global_step)

    def broadcast_to_vllm(self) -> None:
        """Write the policy's weights and deliver them to all generation replicas as the next version."""
        self._generation.begin_delivery()
        ray.get(self.actor_model_group.async_save_model())
        in_flight = InFlight.KEEP if self._run.config.rollout.keeps_in_flight else InFlight.WAIT
        if in_flight is InFlight.WAIT:
            # The service alone would finish only what is in its batch with the old weights, not what waits.
            self._rollout_wait = self.samples_generator.wait_for_rollouts()
        folder, version = self._run.folder, self._policy.version + 1
        with request_scope(f"{self._run.launch_id}/step-{self._policy.step + 1}"):
            update = self._generation.deliver(folder.weights, folder.policy_path, version, in_flight)
        self._policy.version = update.policy_version

    def train_step(self, rollout_samples: Any, global_step: int) -> tuple[dict[str, Any], int]:
        """Run OpenRLHF's step and record its number for the generator."""
        status, step = super().train_step(rollout_samples, global_step)
        self._policy.step = step
        return status, step

    def ppo_train(self, global_steps: int) -> dict[str, Any]:
        """Run OpenRLHF's update; the workers' random states depend only on the seed and the step.

        The prefix memory is fed during the update, not earlier: while policy and reference both compute
        log-probabilities, a small machine has no processor free.
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
        """Log exploration metrics too, and save checkpoints with our state and snapshots of the memories."""
        self.samples_generator.settle()
        memory = self._memories(self._run.namespace).describe()
        metrics = {
            **self.samples_generator.metrics,
            "memory_solutions": float(memory.solutions),
            "memory_prefixes": float(memory.prefixes),
            "generation_replicas": float(len(self._generation.serving)),
            "rollouts_refused": float(self._newly_refused()),
            **_phases(logs_dict or {}),
        }
        metrics["seconds/generation"] += self._rollout_wait
        metrics["seconds/weights"] -= self._rollout_wait
        position = self.samples_generator.position
        states = {
            **(client_states or {}),
            "data_loader_state_dict": position.dataloader,
            STATE: {"queue": position.queue, "unrescued": position.unrescued},
        }
        if global_step % self.args.ckpt.save_steps == 0:
            self._copy(self._memories(self._run.namespace), self._snapshot(global_step))
        super().save_logs_and_checkpoints(global_step, {**(logs_dict or {}), **metrics}, states)
        if global_step % self.args.ckpt.save_steps == 0:
            self._memories(
                self._snapshot(global_step - self.args.ckpt.save_steps * self.args.ckpt.max_num)
            ).delete()
        self._run.folder.append_metrics(
            StepMetrics.from_json({"step": global_step, **_numbers(logs_dict or {}), **metrics})
        )

    def init_checkpoint_states(self) -> dict[str, Any]:
        """Return OpenRLHF's states; restore queue and memories as they were at the checkpoint.

        Without a checkpoint the memories are emptied: an earlier launch may have written to them.
        """
        states: dict[str, Any] = super().init_checkpoint_states()
        step = states["global_step"]
        self._policy.step = step
        # A resumed run continues to count versions, unless the service has had later ones.
        self._policy.version = max(step, self._generation.policy_version())
        if step:
            self._explorer.queue.restore(states[STATE]["queue"])
            self._explorer.rescues.restore(states[STATE]["unrescued"])
            self._copy(self._memories(self._snapshot(step)), self._run.namespace)
        else:
            memories = self._memories(self._run.namespace)
            memories.delete()
            memories.create(self._settings)
            # With a checkpoint OpenRLHF calls it itself.
            self.broadcast_to_vllm()
        return states

    def _newly_refused(self) -> int:
        """Return how many samples were refused for their older weights since the last call."""
        before, self._refused = self._refused, self._generation.refused
        return self._refused - before

    def _on_workers(self, function: Any, *arguments: Any, group: Any = None) -> None:
        """Call `function(worker, *arguments)` in every worker of a group, or of the policy."""
        workers = replacements.workers_of(group or self.actor_model_group)
        ray.get([worker.__ray_call__.remote(function, *arguments) for worker in workers])

    def _snapshot(self, step: int) -> str:
        return f"{self._run.namespace}@{step}"

    def _memories(self, namespace: str) -> NamespaceClient:
        return NamespaceClient(self._run.novelty, namespace, patience=self._patience or None)

    def _copy(self, source: NamespaceClient, destination: str) -> None:
        """Nobody else writes to a run's memories, and now it does not: a copy may be repeated."""
        retried_call(lambda: source.copy_to(destination, replace=True), source.wait_for_ready, self._patience)


def _seed_worker(worker: Any, seed: int) -> None:
    set_seed(seed)


def _prepare_worker(worker: Any, workers: int) -> None:
    replacements.install(policy_worker=worker)
    worker.trainer.ppo_train = threads.on_all_cores(worker.trainer.ppo_train, workers)
    worker.trainer.actor_loss_fn = from_own_pass(worker.trainer.actor_loss_fn)
    # OpenRLHF collects garbage whenever it saves the weights, here after each step. It takes 0.3 s to look
    # through all objects that torch, transformers and DeepSpeed keep for good; frozen ones are skipped.
    gc.collect()
    gc.freeze()


def _forward_on_all_cores(worker: Any, workers: int) -> None:
    worker.forward = threads.on_all_cores(worker.forward, workers)


def _namespace_settings(config: Config) -> NamespaceSettings:
    minimum = config.novelty.min_history
    return NamespaceSettings(
        memory_capacity=config.novelty.memory_capacity,
        min_history=config.rollout.samples_per_prompt if minimum is None else minimum,
        memory_policy=MemoryPolicy(config.novelty.memory_policy),
        text_window=config.novelty.window,
        prefix_capacity=config.prefix.memory_capacity,
    )


def _phases(status: dict[str, Any]) -> dict[str, float]:
    """Return OpenRLHF's timings under our names."""
    names = {"make_experience": "experience", "ppo_train": "update", "broadcast": "weights"}
    return {
        f"seconds/{ours}": status[f"timing/{theirs}"]
        for theirs, ours in names.items()
        if f"timing/{theirs}" in status
    }


def _numbers(status: dict[str, Any]) -> dict[str, float]:
    kept = ("kl", "actor_grad_norm", "policy_loss", "ppo_clip_ratio", "actor_lr")
    numbers = {key: float(status[key]) for key in kept if key in status}
    # Of the importance weights, with rollout.max_staleness.
    ours = {"vllm_kl": "rollout_kl", "is_filter_ratio": "weights_truncated"}
    return numbers | {ours[key]: float(status[key]) for key in ours if key in status}
