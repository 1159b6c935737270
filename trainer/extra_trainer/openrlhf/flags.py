"""OpenRLHF's command line for a run: the one place where our names become its flags."""

from collections.abc import Mapping
from typing import Any

from extra_rl.config_file import ConfigError
from extra_trainer.openrlhf.number_format import FLOAT32, number_format, on_gpus
from extra_trainer.openrlhf.run import Run

_PENALTY = "length penalties would change the rewards after the advantages (use rollout.overlong: punish)"
#: Flags that contradict how this trainer samples or rewards -> why.
REFUSED = {
    "algo.dynamic_filtering_enable": "dynamic filtering drops the all-wrong groups that prefixes come from",
    "reward.overlong_buffer_len": _PENALTY,
    "reward.stop_properly_penalty_coef": _PENALTY,
}

#: Truncated importance sampling: a token's weight is the ratio of the policy before the update to the one
#: that drew it, at most 2. Each token has the log-probability of the weights that drew it, so the ratio is
#: right for samples in whose middle the weights changed too.
TRUNCATED_WEIGHTS: dict[str, Any] = {
    "algo.advantage.is_correction_level": "token",
    "algo.advantage.is_correction_mode": "clip",
    "algo.advantage.is_correction_threshold": 2.0,
}


def openrlhf_flags(run: Run) -> list[str]:
    """Return arguments for openrlhf.cli.train_ppo_ray; flags of the config's `openrlhf` section win.

    FLOAT32 is not among them: OpenRLHF's parser refuses it.

    Raises:
        ConfigError: If that section has a flag of REFUSED, or wants a number format that is not possible.
    """
    _check_refused(run.config.openrlhf)
    flags: dict[str, Any] = {
        **_models(run),
        **_data(run),
        **_rollouts(run),
        **_optimization(run),
        **_off_policy(run),
        **_checkpoints(run),
        **run.config.openrlhf,
    }
    if number_format(run.config) == FLOAT32:
        flags.pop("ds.param_dtype", None)
    return [argument for name, value in flags.items() for argument in _flag(name, value)]


def _check_refused(flags: Mapping[str, Any]) -> None:
    for name, reason in REFUSED.items():
        if flags.get(name) not in (None, False):
            raise ConfigError(f"{reason}: remove {name} from the config's openrlhf section")


def _flag(name: str, value: Any) -> list[str]:
    if value is True:
        return [f"--{name}"]
    if value is False or value is None:
        return []
    values = value if isinstance(value, (list, tuple)) else [value]
    return [f"--{name}", *(str(item) for item in values)]


def _models(run: Run) -> dict[str, Any]:
    ray = run.config.ray
    return {
        "actor.model_name_or_path": str(run.folder.start_model),
        "actor.num_nodes": ray.nodes,
        "actor.num_gpus_per_node": ray.gpus_per_node,
        "ref.num_nodes": ray.nodes,
        "ref.num_gpus_per_node": ray.gpus_per_node,
        # Rollouts come from the generation service. OpenRLHF requires an engine for packed samples; a
        # replacement keeps it from starting one (replacements.py).
        "vllm.num_engines": 1 if _packs(run.config.openrlhf) else 0,
        "vllm.sync_backend": "gloo",
        "ds.attn_implementation": "sdpa" if on_gpus(run.config) else "eager",
        "ds.zero_stage": 2,
        # With any value OpenRLHF loads no reward model. Rewards come with the samples.
        "reward.remote_url": "extra-rl",
    }


def _packs(flags: dict[str, Any]) -> bool:
    """Return whether OpenRLHF will pack samples, which other flags may imply."""
    return bool(
        flags.get("ds.packing_samples")
        or flags.get("train.dynamic_batch_enable")
        or int(flags.get("ds.ring_attn_size", 1)) > 1
    )


def _data(run: Run) -> dict[str, Any]:
    rollout = run.config.rollout
    return {
        "data.prompt_dataset": str(run.folder.train_data),
        "data.input_key": "prompt",
        "data.label_key": "label",
        # One more: after a prefix that fills a response, one token is sampled (RolloutCollector).
        "data.max_len": rollout.prompt_max_tokens + rollout.response_max_tokens + 1,
    }


def _rollouts(run: Run) -> dict[str, Any]:
    rollout = run.config.rollout
    return {
        "rollout.batch_size": rollout.prompts_per_step,
        "rollout.n_samples_per_prompt": rollout.samples_per_prompt,
        "rollout.micro_batch_size": run.config.optimization.micro_batch_samples,
        "rollout.max_new_tokens": rollout.response_max_tokens,
        "rollout.temperature": rollout.temperature,
        "rollout.top_p": rollout.top_p,
    }


def _optimization(run: Run) -> dict[str, Any]:
    settings = run.config.optimization
    return {
        "train.seed": run.config.seed,
        "train.num_episodes": settings.epochs,
        "train.max_epochs": settings.updates_per_batch,
        "train.batch_size": settings.minibatch_prompts * run.config.rollout.samples_per_prompt,
        "train.micro_batch_size": settings.micro_batch_samples,
        "actor.adam.lr": settings.learning_rate,
        "actor.adam.weight_decay": settings.weight_decay,
        "actor.lr_scheduler": settings.lr_scheduler,
        "actor.lr_warmup_ratio": settings.lr_warmup_ratio,
        "actor.max_norm": settings.max_gradient_norm,
        "actor.eps_clip_low_high": (settings.clip_low, settings.clip_high),
        "actor.dual_clip": settings.dual_clip,
        "actor.entropy_coef": settings.entropy_bonus or None,
        "actor.loss_agg_mode": settings.loss_aggregation,
        "algo.advantage.estimator": "group_norm",
        "algo.kl.init_coef": settings.kl_coefficient,
        "algo.kl.use_loss": settings.kl_coefficient > 0,
        "algo.kl.estimator": "k3",
    }


def _off_policy(run: Run) -> dict[str, Any]:
    return TRUNCATED_WEIGHTS if run.config.rollout.max_staleness else {}


def _checkpoints(run: Run) -> dict[str, Any]:
    return {
        "ckpt.path": str(run.folder.checkpoints),
        "ckpt.output_dir": str(run.folder.weights / run.folder.policy_path),
        "ckpt.save_steps": run.config.checkpoint.every_steps,
        "ckpt.max_num": run.config.checkpoint.keep,
        "ckpt.load_enable": True,
        "ckpt.best_metric_key": "none",
        "logger.tensorboard_dir": str(run.folder.path / "tensorboard"),
        "logger.wandb.run_name": run.config.name,
    }
