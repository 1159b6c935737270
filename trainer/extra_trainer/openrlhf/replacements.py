"""Every function and class of other packages that is replaced, and every private name that is relied on.

The trainer extends one release of OpenRLHF, which has few extension points. TABLE lists each place where the
trainer depends on the inside of OpenRLHF, DeepSpeed, torch or Ray: a replaced function or class has a row
with `make`, a name that is only used has a row without. `install` refuses any other release of OpenRLHF and
then applies the rows of the process it runs in:

- in every process (driver and Ray workers), before openrlhf is imported: stand-ins for missing packages and,
  where torch sees no CUDA device, the CPU versions of CUDA calls;
- in the driver, with `run` and `trainer`: trainer class, engines and strategy;
- in a worker of the policy, with `policy_worker`: the loader of the replay buffer.

Nothing of OpenRLHF is edited or copied. On a GPU machine with flash-attn and vLLM, the first group does
nothing. After an upgrade, `tests/unit/test_trainer_replacements.py` fails for each name that is gone; the
columns `why` and `without` say what else to check.
"""

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extra_rl.config_file import ConfigError
from extra_trainer.openrlhf.missing_packages import FLASH_ATTN, flash_attn_is_installed, stand_in_for_missing

if TYPE_CHECKING:
    # Not imported in every Ray worker: it would load the clients.
    from extra_trainer.openrlhf.run import Run

#: The release of OpenRLHF that the table describes.
OPENRLHF_RELEASE = "0.11.2"
#: OpenRLHF's command line.
COMMAND_LINE = "openrlhf.cli.train_ppo_ray"


class Where(StrEnum):
    """Processes in which a row applies."""

    NO_CUDA = "every process without a CUDA device"
    DRIVER = "driver"
    POLICY_WORKER = "workers of the policy"
    #: Rows without `make`.
    USED = "used as it is"


@dataclass(frozen=True)
class Process:
    """The process that `install` runs in."""

    run: "Run | None" = None
    trainer: type | None = None
    policy_worker: Any = None


@dataclass(frozen=True)
class Row:
    """One dependency on the inside of another package."""

    #: "module:attribute.path", or "module:" for the module itself.
    target: str
    why: str
    #: What goes wrong without the replacement, or without the name.
    without: str
    #: Release of the package since which this is needed, or that it was verified with.
    since: str
    #: Names inside the target, checked as attributes or in its source text.
    names: tuple[str, ...] = ()
    where: Where = Where.USED
    #: Given the original, an attribute of a module, and the process, returns the replacement. None: the
    #: target is used, not replaced.
    make: Callable[[Any, Process], Any] | None = None


def check_release() -> None:
    """Check that the pinned release of OpenRLHF is installed.

    Raises:
        ConfigError: If it is missing or of another release; the message says what to install.
    """
    try:
        found = importlib.metadata.version("openrlhf")
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError("openrlhf is not installed: pip install 'extra-rl[trainer]'") from None
    if found != OPENRLHF_RELEASE:
        raise ConfigError(
            f"openrlhf {found} is installed, but this trainer extends the inside of openrlhf "
            f"{OPENRLHF_RELEASE} and works with no other release: pip install openrlhf=={OPENRLHF_RELEASE}"
        )


def install(run: "Run | None" = None, trainer: type | None = None, policy_worker: Any = None) -> None:
    """Apply the rows of TABLE that belong to this process; each is applied once.

    Args:
        run: In the driver, the run to train.
        trainer: In the driver, the class that trains it.
        policy_worker: In a Ray worker of the policy, its actor.

    Raises:
        ConfigError: If another release of OpenRLHF is installed.
    """
    check_release()
    stand_in_for_missing()
    places = {Where.DRIVER} if run is not None else set()
    places |= {Where.POLICY_WORKER} if policy_worker is not None else set()
    if not _cuda_is_available():
        # DeepSpeed detects accelerators at import; with a CUDA build of torch and no GPU it would be wrong.
        os.environ["DS_ACCELERATOR"] = "cpu"
        # DeepSpeed wraps functions in torch.compile; compiling takes longer than a whole rehearsal.
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
        places.add(Where.NO_CUDA)
    process = Process(run, trainer, policy_worker)
    for row in TABLE:
        if row.where in places and row.make is not None and row.target not in _installed:
            _replace(row, process)
            _installed.add(row.target)


#: Targets that were replaced in this process.
_installed: set[str] = set()


def resolve(target: str) -> Any:
    """Return the object that a row's target names.

    Raises:
        ImportError: If the module is missing.
        AttributeError: If the attribute is missing.
    """
    module, _, path = target.partition(":")
    return functools.reduce(getattr, path.split(".") if path else [], importlib.import_module(module))


def _replace(row: Row, process: Process) -> None:
    assert row.make is not None
    module, _, name = row.target.partition(":")
    setattr(importlib.import_module(module), name, row.make(resolve(row.target), process))


def _cuda_is_available() -> bool:
    import torch

    return bool(torch.cuda.is_available())


# Private names, each read in one place.


def workers_of(group: Any) -> list[Any]:
    """Return the Ray actors of an OpenRLHF RayActorGroup."""
    return list(group._actor_handlers)


def take_prompts(dataloader_iter: Any, count: int) -> tuple[list[str], list[str], bool]:
    """Return up to `count` prompts with their labels, and whether the data is exhausted."""
    from openrlhf.trainer.ppo_utils.samples_generator import _collect_prompt_batch

    prompts, labels, _, exhausted = _collect_prompt_batch(dataloader_iter, count)
    return prompts, labels, exhausted


def main_block() -> tuple[Path, list[ast.stmt]]:
    """Return the file of OpenRLHF's command line and its `if __name__ == "__main__"` block, not imported.

    Raises:
        ConfigError: If there is none.
    """
    spec = importlib.util.find_spec(COMMAND_LINE)
    if spec is None or spec.origin is None:
        raise ConfigError(f"{COMMAND_LINE} is missing: pip install openrlhf=={OPENRLHF_RELEASE}")
    source = Path(spec.origin)
    for statement in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.If) and "__main__" in ast.unparse(statement.test):
            return source, statement.body
    raise ConfigError(f"{source} has no main block: pip install openrlhf=={OPENRLHF_RELEASE}")


# The replacements, as `make` of a row. Each makes a function of its own: DeepSpeed compares some by identity.


class _CpuDevice(str):
    """The device "cpu" that formats as "0": the replay buffer makes f"cuda:{current_device()}"."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return "0"


_CPU = _CpuDevice("cpu")


def _no_set_device(original: Any, process: Process) -> Any:
    return lambda device: None


def _no_synchronize(original: Any, process: Process) -> Any:
    return lambda device=None: None


def _cpu_as_current_device(original: Any, process: Process) -> Any:
    return lambda: _CPU


def _mesh_on_cpu(original: Any, process: Process) -> Any:
    @functools.wraps(original)
    def init_device_mesh(device_type: str, *args: Any, **options: Any) -> Any:
        return original("cpu" if device_type == "cuda" else device_type, *args, **options)

    return init_device_mesh


def _with_float32(original: Any, process: Process) -> Any:
    @functools.wraps(original)
    def convert_to_torch_dtype(param_dtype: str) -> Any:
        import torch

        from extra_trainer.openrlhf.number_format import FLOAT32

        return torch.float32 if param_dtype == FLOAT32 else original(param_dtype)

    return convert_to_torch_dtype


def _no_shm_op(original: Any, process: Process) -> Any:
    return lambda: None


def _initialize_with_torch_adam(original: Any, process: Process) -> Any:
    @functools.wraps(original)
    def initialize(*args: Any, config: Any = None, **options: Any) -> Any:
        if isinstance(config, dict) and "optimizer" in config:
            parameters = {**config["optimizer"]["params"], "torch_adam": True}
            config = {**config, "optimizer": {**config["optimizer"], "params": parameters}}
        return original(*args, config=config, **options)

    return initialize


def _trainer_of_run(original: Any, process: Process) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On this node: the trainer writes the run folder that the launcher reads.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor_class = ray.remote(process.trainer).options(scheduling_strategy=here)

    class TrainerOfRun:
        @staticmethod
        def remote(*arguments: Any, **options: Any) -> Any:
            return actor_class.remote(*arguments, run=process.run, **options)

    return TrainerOfRun


def _no_engines(original: Any, process: Process) -> Any:
    return lambda *_, **__: None


def _accumulating_strategy(original: Any, process: Process) -> Any:
    from extra_trainer.openrlhf.number_format import number_format
    from extra_trainer.openrlhf.strategy import AccumulatingStrategy

    run = process.run
    assert run is not None
    # The workers of a cluster are other machines: this one's packages say nothing about theirs.
    flash_attention = run.config.ray.address is not None or flash_attn_is_installed()

    def get_strategy(args: Any) -> Any:
        args.ds.param_dtype = number_format(run.config)
        # OpenRLHF asks for flash attention wherever it packs; without flash-attn torch's is used.
        if not flash_attention and "flash_attention" in args.ds.attn_implementation:
            args.ds.attn_implementation = "sdpa"
        strategy = original(args)
        strategy.__class__ = AccumulatingStrategy
        return strategy

    return get_strategy


def _loader_by_length(original: Any, process: Process) -> Any:
    from extra_trainer.openrlhf.by_length import loader_by_length, policy_loss_only

    strategy = process.policy_worker.strategy
    samples = strategy.accumulated_gradient * strategy.micro_train_batch_size
    return loader_by_length(samples, policy_loss_only(strategy.args))


def _mean_over_counted_tokens(original: Any, process: Process) -> Any:
    from extra_trainer.openrlhf.by_length import normalize_by_counted_tokens

    return normalize_by_counted_tokens(original)


_TRAINER = "openrlhf.trainer.ppo_trainer:PPOTrainer"
_GENERATOR = "openrlhf.trainer.ppo_utils.samples_generator"
_EXPERIENCE = "openrlhf.trainer.ppo_utils.experience:Experience"
_EXPERIENCE_MAKER = "openrlhf.trainer.ppo_utils.experience_maker:RemoteExperienceMaker"
_PPO_ACTOR = "openrlhf.trainer.ray.ppo_actor"

TABLE: tuple[Row, ...] = (
    # CUDA calls on a machine without a GPU.
    Row(
        "torch.cuda:set_device",
        why="OpenRLHF's workers call it when they start.",
        without="A worker on the CPU fails at its start.",
        since="torch 2.13.0",
        where=Where.NO_CUDA,
        make=_no_set_device,
    ),
    Row(
        "torch.cuda:synchronize",
        why="OpenRLHF synchronizes around barriers.",
        without="A worker on the CPU fails at its first barrier.",
        since="torch 2.13.0",
        where=Where.NO_CUDA,
        make=_no_synchronize,
    ),
    Row(
        "torch.cuda:current_device",
        why="OpenRLHF moves tensors to it, and the replay buffer formats it into a device name.",
        without="A worker on the CPU fails at its first tensor.",
        since="torch 2.13.0",
        where=Where.NO_CUDA,
        make=_cpu_as_current_device,
    ),
    Row(
        "torch.distributed.device_mesh:init_device_mesh",
        why="DeepspeedStrategy.setup_distributed asks for a mesh on 'cuda'.",
        without="A worker on the CPU fails in setup_distributed.",
        since="torch 2.13.0",
        where=Where.NO_CUDA,
        make=_mesh_on_cpu,
    ),
    Row(
        "deepspeed.comm.torch:build_shm_op",
        why="It compiles a C++ extension for all-reduce in shared memory on first use; gloo needs none.",
        without="The first all-reduce on the CPU can hang in the compilation.",
        since="deepspeed 0.19.6",
        where=Where.NO_CUDA,
        make=_no_shm_op,
    ),
    Row(
        "deepspeed:initialize",
        why="FusedAdam and CPUAdam are compiled on first use; torch's AdamW makes the same update.",
        without="The CPU worker needs a compiler, and minutes.",
        since="deepspeed 0.19.6",
        where=Where.NO_CUDA,
        make=_initialize_with_torch_adam,
    ),
    Row(
        "deepspeed.runtime.constants:MANAGED_GRADIENT_ACCUMULATION",
        why="AccumulatingStrategy sets this key of DeepSpeed's configuration to false.",
        without="Dynamic batches update with the last batch's gradients alone (strategy.py).",
        since="deepspeed 0.19.6",
    ),
    Row(
        "openrlhf.utils.utils:convert_to_torch_dtype",
        why="OpenRLHF trains in bfloat16 or float16 only. The driver's strategy asks for the format, and "
        "DeepSpeed takes each that is neither for float32.",
        without="A worker on the CPU fails at its start (number_format.py).",
        since="openrlhf 0.11.2",
        where=Where.NO_CUDA,
        make=_with_float32,
    ),
    # Packages that OpenRLHF imports whether or not it uses them (missing_packages.py).
    Row(
        "openrlhf.models.ring_attn_utils:",
        names=tuple(name for names in FLASH_ATTN.values() for name in names),
        why="It imports these names of flash-attn at import time.",
        without="OpenRLHF cannot be imported where flash-attn is missing.",
        since="openrlhf 0.11.2",
    ),
    Row(
        "openrlhf.trainer.ray.vllm_engine:",
        names=("TokensPrompt", "random_uuid"),
        why="It imports these names of vLLM at import time.",
        without="OpenRLHF cannot be imported where vLLM is missing.",
        since="openrlhf 0.11.2",
    ),
    # The driver.
    Row(
        _TRAINER,
        why="The actor class is created with the run, on the node of the run folder.",
        without="OpenRLHF's own trainer runs: no services, no novelty, no prefixes.",
        since="openrlhf 0.11.2",
        where=Where.DRIVER,
        make=_trainer_of_run,
    ),
    Row(
        "openrlhf.trainer.ray:create_vllm_engines",
        why="OpenRLHF packs samples only for a run with engines, so flags.py asks for one; rollouts come "
        "from the generation service.",
        without="A run that packs samples starts a vLLM engine.",
        since="openrlhf 0.11.2",
        where=Where.DRIVER,
        make=_no_engines,
    ),
    Row(
        "openrlhf.utils:get_strategy",
        why="The strategy becomes an AccumulatingStrategy; without flash-attn, attention is torch's.",
        without="Dynamic batches update with the last batch's gradients alone (strategy.py), and packing "
        "fails without flash-attn.",
        since="openrlhf 0.11.2 with deepspeed 0.19.6",
        where=Where.DRIVER,
        make=_accumulating_strategy,
    ),
    Row(
        f"{COMMAND_LINE}:",
        names=(
            "__main__",
            "add_argument",
            "hierarchize",
            "get_strategy",
            "create_vllm_engines",
            "train(args)",
        ),
        why="parser.py runs its main block alone to check flags; driver.py runs the module as it is.",
        without="`--dry-run` cannot check the flags.",
        since="openrlhf 0.11.2",
    ),
    # The trainer actor.
    Row(
        f"{_TRAINER}.__ray_actor_class__",
        names=(
            "fit",
            "train_step",
            "ppo_train",
            "broadcast_to_vllm",
            "save_logs_and_checkpoints",
            "init_checkpoint_states",
        ),
        why="Ray keeps the class that @ray.remote decorated under this name; ExTraTrainer extends it and "
        "these methods.",
        without="There is no class to extend.",
        since="ray 2.55.0, openrlhf 0.11.2",
    ),
    Row(
        "openrlhf.trainer.ppo_trainer:",
        names=(
            "samples_generator",
            "experience_maker",
            "vllm_engines is not None",
            "data_loader_state_dict",
            "timing/make_experience",
            "timing/ppo_train",
            "timing/broadcast",
        ),
        why="ExTraTrainer replaces generator and experience maker, sets vllm_engines so that weights are "
        "broadcast, and reads these entries of client states and status.",
        without="Training uses OpenRLHF's generator, never delivers weights, or lacks timings.",
        since="openrlhf 0.11.2",
    ),
    Row(
        "openrlhf.trainer.ray.launcher:RayActorGroup",
        names=("_actor_handlers", "async_run_method", "async_save_model"),
        why="The policy's workers are called one by one: to seed them and to install their loader.",
        without="Workers are not seeded by the step: a resumed run differs.",
        since="openrlhf 0.11.2",
    ),
    Row(
        "ray.actor:",
        names=("__ray_call__",),
        why="It runs a function of ours in a worker of OpenRLHF's class.",
        without="The policy's workers cannot be seeded.",
        since="ray 2.55.0",
    ),
    # Samples.
    Row(
        f"{_GENERATOR}:SamplesGenerator",
        names=(
            "_generate_vllm",
            "generate_samples",
            "_process_response_into_experience",
            "_dataloader_iter",
            "_eval_dataloader_iter",
        ),
        why="_generate_vllm is replaced in ExTraSamplesGenerator: training and evaluation both call it. The "
        "iterators distinguish them; OpenRLHF's own method turns a response into an Experience.",
        without="Rollouts come from vLLM engines, of which there are none.",
        since="openrlhf 0.11.2",
    ),
    Row(
        f"{_GENERATOR}:",
        names=("SamplingParams",),
        why="It imports this name of vLLM at import time.",
        without="OpenRLHF cannot be imported where vLLM is missing.",
        since="openrlhf 0.11.2",
    ),
    Row(
        f"{_GENERATOR}:_collect_prompt_batch",
        why="It takes prompts from the data loader as OpenRLHF does.",
        without="The generator cannot read prompts.",
        since="openrlhf 0.11.2",
    ),
    Row(
        f"{_GENERATOR}:SamplesGenerator._process_response_into_experience",
        names=(
            "observation_tokens",
            "action_ranges",
            "rollout_log_probs",
            "extra_logs",
            "truncated",
            "prompt",
            "label",
        ),
        why="The keys of a response; `extra_logs` become entries of Experience.info.",
        without="Samples lose their advantages or log-probabilities.",
        since="openrlhf 0.11.2",
    ),
    # Experiences.
    Row(
        _EXPERIENCE_MAKER,
        names=(
            "split_rollout_samples",
            "compute_advantages_and_returns",
            "get_cumulative_returns",
            "_dispatch_forward",
        ),
        why="ExTraExperienceMaker extends them: micro-batches by length, ExTra's advantages, and no pass for "
        "log-probabilities that the update computes itself (old_log_probs.py).",
        without="Advantages have no novelty bonus, and a step takes a tenth longer.",
        since="openrlhf 0.11.2",
    ),
    Row(
        _EXPERIENCE,
        names=("concat_experiences", "index", "info", "action_mask", "advantages", "returns", "total_length"),
        why="Fields that are read or written, and the method that makes a micro-batch.",
        without="Advantages cannot be put into experiences.",
        since="openrlhf 0.11.2",
    ),
    # Workers of the policy.
    Row(
        f"{_PPO_ACTOR}:DataLoader",
        why="Micro-batches of similar length, without samples that have no gradient (by_length.py).",
        without="The update computes more padding, 40 % of the rehearsal's tokens, and groups all wrong.",
        since="openrlhf 0.11.2",
        where=Where.POLICY_WORKER,
        make=_loader_by_length,
    ),
    Row(
        f"{_PPO_ACTOR}:iter_grad_accum_global_norm",
        why="The loss is a mean over all samples of an update, also over those that are left out.",
        without="An update with few mixed groups is several times too large.",
        since="openrlhf 0.11.2",
        where=Where.POLICY_WORKER,
        make=_mean_over_counted_tokens,
    ),
    Row(
        f"{_PPO_ACTOR}:ActorPPOTrainer.training_step",
        names=("vllm_kl", "is_filter_ratio", "self.actor_loss_fn(", "old_action_log_probs,"),
        why="Entries of the status that become the metrics rollout_kl and weights_truncated; the loss of a "
        "worker's object is wrapped (old_log_probs.py).",
        without="Nothing is recorded of the importance weights, and the loss is NaN.",
        since="openrlhf 0.11.2",
    ),
    Row(
        f"{_PPO_ACTOR}:ActorPPOTrainer.ppo_train",
        names=("DataLoader(", "accumulated_gradient", "should_shuffle", "drop_last=True"),
        why="The call of the loader that is replaced; threads.py wraps the method of a worker's object.",
        without="Micro-batches are not those of one optimizer step, or are computed on one core.",
        since="openrlhf 0.11.2",
    ),
    Row(
        "openrlhf.trainer.ppo_utils.replay_buffer:NaiveReplayBuffer",
        names=("items", "current_device", "collate_fn"),
        why="The loader reads lengths and advantages of the items; current_device is formatted there.",
        without="Micro-batches cannot be sorted by length.",
        since="openrlhf 0.11.2",
    ),
    Row(
        "openrlhf.utils.deepspeed:DeepspeedStrategy",
        names=(
            "get_ds_train_config",
            "use_dynamic_batch",
            "accumulated_gradient",
            "micro_train_batch_size",
            "save_ckpt",
            "save_latest=save_latest",
            "is_rank_0",
        ),
        why="AccumulatingStrategy extends the configuration and names checkpoints itself; the sizes are "
        "those of an optimizer step.",
        without="Dynamic batches do not add up, and a kill can leave no checkpoint (strategy.py).",
        since="openrlhf 0.11.2",
    ),
    Row(
        "deepspeed.runtime.engine:DeepSpeedEngine.save_checkpoint",
        names=("save_latest and", "dist.barrier()"),
        why="Without save_latest it names no checkpoint; it returns when all workers have written theirs.",
        without="The newest checkpoint is named before it is whole (strategy.py).",
        since="deepspeed 0.19.6",
    ),
)
