"""The plan of a run: everything resolved and checked before anything heavy starts.

`make` reads what can be read cheaply (config, model folder, tokenizer, problem files, flags with OpenRLHF's
own parser, running services, the Ray cluster) and collects all problems instead of stopping at the first
one. `extra-rl train --dry-run` prints the plan; without it the same problems stop the run. No GPU is
needed: the plan lists what it assumes instead.
"""

import math
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from extra_client import (
    ExtraError,
    GenerationClient,
    NoveltyClient,
    VerificationClient,
    credentials,
    vocab_hash,
)
from extra_rl.config_file import ConfigError
from extra_rl.tokens import encode_prompts, leading_bos
from extra_rl.vocabulary import Metric, TextWindow
from extra_trainer.config import Config, ServiceConfig
from extra_trainer.data import made
from extra_trainer.data import problems as data
from extra_trainer.launch import memory_estimate
from extra_trainer.launch.ray_services import connected
from extra_trainer.openrlhf import parser as openrlhf_parser
from extra_trainer.openrlhf.flags import TRUNCATED_WEIGHTS, openrlhf_flags
from extra_trainer.openrlhf.number_format import FLOAT32, number_format
from extra_trainer.openrlhf.run import Run
from extra_trainer.runs.folder import RunFolder, read_line
from extra_trainer.runs.schema import RolloutRecord

#: Seconds for a running service to answer the health check.
HEALTH_SECONDS = 5.0
GIB = 2**30
#: The default embedding model, and the word pieces of a text that it reads; a policy's tokens are about as
#: long as word pieces.
EMBEDDER, EMBEDDER_TOKENS = "all-MiniLM-L6-v2", 254
#: Samples that wait at a generation service unless its settings say otherwise.
MAX_QUEUE = 16384
#: Service -> a module that the launcher needs to start it, and the extra that installs it.
REQUIRED_MODULES = {
    "generation": ("safetensors", "generation"),
    "novelty": ("faiss", "novelty"),
    "verification": ("math_verify", "verification"),
}


@dataclass(frozen=True)
class Processes:
    """One row of the plan's table."""

    what: str
    count: int
    #: GPUs of each process; 0: none of its own.
    gpus: float
    where: str


@dataclass
class Plan:
    """The resolved plan."""

    processes: list[Processes] = field(default_factory=list)
    #: (name, value) in order: sizes, steps, tokens.
    figures: list[tuple[str, str]] = field(default_factory=list)
    #: (name, GiB) per GPU, of policy workers and others.
    memory: list[tuple[str, float]] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    #: What other runs use too if they are given the same addresses.
    shared: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    #: The model's tokenizer, if it could be loaded.
    tokenizer: Any | None = None

    @property
    def gpus(self) -> float:
        """GPUs of all processes together."""
        return sum(row.count * row.gpus for row in self.processes)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Turn errors inside the block into problems of the plan."""
        try:
            yield
        except (ConfigError, ExtraError) as error:
            self.problems.append(str(error))


def make(config: Config, folder: RunFolder) -> Plan:
    """Return the plan of a config; its `problems` are everything that would stop the run."""
    plan = Plan()
    tokenizer = plan.tokenizer = _tokenizer(config, plan)
    shape = _shape(config, plan)
    problems = _data(config, folder, tokenizer, plan)
    _steps(config, problems, plan)
    _novelty_window(config, folder, plan)
    arguments = _openrlhf(config, folder, plan)
    _workers(config, arguments, plan)
    _services(config, tokenizer, plan)
    _shared(config, folder, plan)
    if shape is not None:
        _lengths(config, shape, plan)
        _memory(config, shape, arguments, plan)
    _machines(config, plan)
    return plan


def show(plan: Plan, console: Console) -> None:
    """Print the plan: tables, then assumptions, warnings and problems."""
    table = Table("process", "count", "GPUs each", "where", title=f"Processes ({plan.gpus:g} GPUs)")
    for row in plan.processes:
        table.add_row(row.what, str(row.count), f"{row.gpus:g}" if row.gpus else "-", escape(row.where))
    console.print(table)
    figures = Table("", "", title="Run", show_header=False)
    for name, value in plan.figures:
        figures.add_row(name, escape(value))
    console.print(figures)
    if plan.memory:
        memory = Table("per GPU, roughly", "GiB", title="Memory")
        for name, size in plan.memory:
            memory.add_row(name, f"{size:.1f}" if size >= 0.05 else f"{size:.3f}")
        console.print(memory)
    _show_lines("Assumed", "dim", plan.assumed, console)
    show_problems(plan, console)
    if not plan.problems:
        console.print("No problems found.")


def show_problems(plan: Plan, console: Console) -> None:
    """Print the warnings and problems."""
    _show_lines("Warning", "yellow", plan.warnings, console)
    _show_lines("Problem", "red", plan.problems, console)


def _show_lines(title: str, style: str, lines: list[str], console: Console) -> None:
    for line in lines:
        console.print(f"[{style}]{title}[/]: {escape(line)}", soft_wrap=True, highlight=False)


# The parts, in order; each adds to the plan.


def _tokenizer(config: Config, plan: Plan) -> Any | None:
    if config.model.is_made:
        plan.assumed.append("the start model and its tokenizer are made when the run starts")
        return None
    folder = Path(config.model.path)
    if not (folder / "config.json").is_file():
        plan.problems.append(
            f"model.path: {folder} is no folder of a Hugging Face model (no config.json in it)"
        )
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, ImportError) as error:
        first = str(error).splitlines()[0]
        plan.problems.append(f"model.path: the tokenizer in {folder} cannot be loaded: {first}")
        return None
    if config.data.apply_chat_template and not tokenizer.chat_template:
        plan.problems.append(
            f"data.apply_chat_template: the tokenizer in {folder} has no chat template; "
            "set it to false and put what the model expects into data.template"
        )
        return None
    return tokenizer


def _shape(config: Config, plan: Plan) -> memory_estimate.ModelShape | None:
    folder = Path(config.model.path)
    if config.model.is_made or not (folder / "config.json").is_file():
        return None
    with plan.collecting():
        return memory_estimate.read_shape(folder)
    return None


def _data(config: Config, folder: RunFolder, tokenizer: Any | None, plan: Plan) -> int | None:
    """Return the number of training problems; every row of every set is read."""
    if folder.train_data.is_file():
        # A resumed run reads the copies in its folder.
        training: list[data.Problem] | None = data.load_problems(folder.train_data)
        sets = {path.stem: len(data.load_problems(path)) for path in folder.evaluation_data.glob("*.jsonl")}
    else:
        training = _read(config, config.data.train, config.data.train_problems, tokenizer, plan)
        sets = _evaluation_sets(config, tokenizer, plan)
    count = None if training is None else len(training)
    if made.is_made(config.data.train):
        count = config.data.train_problems or made.DEFAULT_COUNT
    plan.figures.append(("training problems", "unknown" if count is None else f"{count:,}"))
    if training and tokenizer is not None:
        _prompt_lengths(config, training, tokenizer, plan)
    sizes = ", ".join(f"{name} {size:,}" for name, size in sets.items()) or "none"
    samples = config.evaluation.samples_per_prompt
    plan.figures.append(("evaluation sets", f"{sizes} (problems; {samples} samples each)"))
    return count


def _evaluation_sets(config: Config, tokenizer: Any | None, plan: Plan) -> dict[str, int]:
    sets: dict[str, str] = {}
    with plan.collecting():
        sets = data.evaluation_sets(config.data.evaluation)
    most = config.evaluation.problems
    sizes = {}
    for name, source in sets.items():
        read = _read(config, source, most, tokenizer, plan)
        if made.is_made(source):
            sizes[name] = most or made.DEFAULT_COUNT
        elif read is not None:
            sizes[name] = len(read)
    return sizes


def _read(
    config: Config, source: str, most: int | None, tokenizer: Any | None, plan: Plan
) -> list[data.Problem] | None:
    if not made.is_made(source):
        with plan.collecting():
            return data.read_problems(source, config.data, tokenizer, most)
    return None


def _prompt_lengths(config: Config, problems: list[data.Problem], tokenizer: Any, plan: Plan) -> None:
    templated = config.data.apply_chat_template
    encoded = encode_prompts(tokenizer, [problem.prompt for problem in problems], templated=templated)
    _leading_token(encoded, tokenizer, templated, plan)
    lengths = [len(ids) for ids in encoded]
    most = config.rollout.prompt_max_tokens
    plan.figures.append(
        ("prompt tokens", f"mean {sum(lengths) / len(lengths):.0f}, longest {max(lengths):,} (of {most:,})")
    )
    long = [problem.id for problem, length in zip(problems, lengths, strict=True) if length > most]
    if long:
        plan.problems.append(
            f"data.train: {len(long)} prompts have more than rollout.prompt_max_tokens ({most}) tokens, "
            f"the longest {max(lengths)}; the first has the id {long[0]}"
        )


def _leading_token(encoded: list[list[int]], tokenizer: Any, templated: bool, plan: Plan) -> None:
    """Say whether the prompts begin with one BOS token, as the model expects."""
    bos, name = tokenizer.bos_token_id, repr(tokenizer.bos_token)
    if any(bos is not None and ids[:2] == [bos, bos] for ids in encoded):
        where = "data.template: the chat template writes one already" if templated else "data.template"
        plan.problems.append(f"prompts begin with two BOS tokens ({name}): remove one from {where}")
    elif templated and leading_bos(tokenizer) and not all(ids[:1] == [bos] for ids in encoded):
        plan.warnings.append(
            f"the chat template writes no BOS token, which the tokenizer puts before plain text ({name}):"
            " prompts have none"
        )
    elif leading_bos(tokenizer):
        plan.figures.append(("prompts begin with", f"one BOS token, {name}"))


def _steps(config: Config, problems: int | None, plan: Plan) -> None:
    rollout, settings = config.rollout, config.optimization
    samples = rollout.prompts_per_step * rollout.samples_per_prompt
    updates = rollout.prompts_per_step // settings.minibatch_prompts
    tokens = samples * rollout.response_max_tokens
    plan.figures += [
        ("a step", f"{rollout.prompts_per_step:,} prompts x {rollout.samples_per_prompt}, {updates} updates"),
        ("tokens a step", f"at most {tokens:,} sampled"),
    ]
    _staleness(config, samples, plan)
    if problems is None:
        return
    per_pass = rollout.steps_per_pass(problems)
    steps = per_pass * settings.epochs
    plan.figures += [
        ("steps", f"{steps:,}: {per_pass:,} a pass over the problems, {settings.epochs} passes"),
        ("tokens in all", f"at most {steps * tokens:,} sampled"),
    ]
    if not steps:
        plan.problems.append(
            f"data.train has {problems} problems, fewer than one step takes "
            f"(rollout.prompts_per_step {rollout.prompts_per_step})"
        )
    if config.checkpoint.every_steps > steps > 0:
        plan.warnings.append(
            f"checkpoint.every_steps ({config.checkpoint.every_steps}) is more than the run's {steps} steps: "
            "it cannot be resumed"
        )


def _staleness(config: Config, samples: int, plan: Plan) -> None:
    """Say how old the rollouts of a step may be, and whether the generation service takes those ahead."""
    ahead, service = config.rollout.max_staleness, config.services.generation
    if not ahead:
        plan.figures.append(("rollouts", "of the policy that they update"))
        return
    threshold = config.openrlhf.get(
        "algo.advantage.is_correction_threshold", TRUNCATED_WEIGHTS["algo.advantage.is_correction_threshold"]
    )
    version = "go on with new weights" if config.rollout.keeps_in_flight else "of one version each"
    plan.figures.append(
        (
            "rollouts",
            f"at most {ahead} policy version(s) behind, {version}; importance weights cut at {threshold}",
        )
    )
    waiting, queue = samples * (ahead + 1), int(service.settings.get("max_queue", MAX_QUEUE))
    if not service.targets and service.replicas == 1 and waiting > queue:
        plan.problems.append(
            f"rollout.max_staleness: {ahead + 1} steps of {samples:,} samples can wait at the generation "
            f"service, which takes {queue:,}: set services.generation.settings.max_queue to {waiting}"
        )


def _novelty_window(config: Config, folder: RunFolder, plan: Plan) -> None:
    """Say how much of the responses the novelty metric reads, at the most tokens that they may have."""
    novelty, rollout = config.novelty, config.rollout
    if not novelty.enabled or novelty.metric in (Metric.NGRAM_COUNT, Metric.POLICY_SURPRISE):
        return
    longest, samples = rollout.response_max_tokens, rollout.prompts_per_step * rollout.samples_per_prompt
    service = config.services.novelty
    if service.target is not None or service.settings.get("embedder", EMBEDDER) != EMBEDDER:
        plan.figures.append(("novelty reads", "as many tokens as its embedding model, not known here"))
    elif longest <= EMBEDDER_TOKENS:
        plan.figures.append(("novelty reads", f"responses as a whole: {longest:,} tokens fit its window"))
    elif novelty.metric is Metric.DERIVATION or novelty.window is TextWindow.WHOLE:
        pieces = math.ceil(longest / EMBEDDER_TOKENS)
        plan.figures.append(("novelty reads", f"responses as a whole, in up to {pieces} pieces"))
    else:
        plan.figures.append(
            (
                "novelty reads",
                f"about {EMBEDDER_TOKENS} of up to {longest:,} tokens: all {samples:,} responses of a step"
                f" can exceed its window{_exceeding(folder)}; novelty.window: whole reads all of them",
            )
        )


def _exceeding(folder: RunFolder) -> str:
    """Return a clause with the share of the last recorded step's responses that exceed the window, or ""."""
    steps = sorted(folder.step_files("rollouts"))
    if not steps:
        return ""
    step, path = steps[-1]
    with path.open("rb") as file:
        tokens = [read_line(RolloutRecord, line, path).tokens for line in file if line.endswith(b"\n")]
    long = sum((count or 0) > EMBEDDER_TOKENS for count in tokens)
    return f", and {long:,} of the {len(tokens):,} of step {step} do"


def _openrlhf(config: Config, folder: RunFolder, plan: Plan) -> dict[str, Any] | None:
    """Return OpenRLHF's arguments, as its own parser reads them."""
    try:
        arguments = openrlhf_parser.parse(openrlhf_flags(Run(config, folder, (), "", "", "plan")))
        arguments["ds"]["param_dtype"] = number_format(config)
        return arguments
    except ConfigError as error:
        plan.problems.append(f"openrlhf: {error}")
        return None


def _workers(config: Config, arguments: dict[str, Any] | None, plan: Plan) -> None:
    ray = config.ray
    workers = ray.nodes * ray.gpus_per_node
    shared = bool(
        arguments and (arguments["train"]["colocate_actor_ref"] or arguments["train"]["colocate_all"])
    )
    cluster = f"Ray at {ray.address}" if ray.address else "Ray, started on this machine"
    ignored = os.environ.get("RAY_ADDRESS")
    if ignored and ignored != ray.address:
        plan.warnings.append(f"RAY_ADDRESS={ignored} is ignored: the run uses {cluster} (ray.address)")
    where = f"{cluster}, {ray.nodes} x {ray.gpus_per_node}"
    plan.processes.append(Processes("trainer", 1, 0, cluster))
    plan.processes.append(Processes("policy worker (DeepSpeed)", workers, 1, where))
    if config.optimization.kl_coefficient > 0:
        place = "on the policy workers' GPUs" if shared else where
        plan.processes.append(Processes("reference worker", workers, 0 if shared else 1, place))
    if arguments is None:
        return
    parallel = workers // (arguments["ds"]["ring_attn_size"] * arguments["ds"]["tensor_parallel_size"])
    samples = config.optimization.minibatch_prompts * config.rollout.samples_per_prompt
    dynamic = arguments["train"]["dynamic_batch_enable"]
    unit = parallel if dynamic else parallel * config.optimization.micro_batch_samples
    name = "data-parallel workers" if dynamic else "optimization.micro_batch_samples x data-parallel workers"
    if samples % unit:
        plan.problems.append(
            f"optimization.minibatch_prompts x rollout.samples_per_prompt ({samples}) must be a multiple of "
            f"{name} ({unit}): the workers would get different numbers of batches"
        )
    if arguments["train"]["colocate_all"]:
        plan.problems.append(
            "openrlhf: train.colocate_all shares GPUs with OpenRLHF's own vLLM engines, which are "
            "not used; train.colocate_actor_ref shares them between policy and reference"
        )
    plan.figures.append(("training", _training(arguments, parallel)))
    if arguments["ds"]["packing_samples"] and find_spec("flash_attn") is None:
        plan.warnings.append(
            "ds.packing_samples: flash-attn is not installed on this machine; torch's attention, which packs "
            "in its place on this machine alone, takes memory that grows with the square of a batch's tokens"
        )


def _training(arguments: dict[str, Any], parallel: int) -> str:
    ds, train = arguments["ds"], arguments["train"]
    parts = [f"ZeRO-{ds['zero_stage']} over {parallel}", ds["param_dtype"], ds["attn_implementation"]]
    if arguments["actor"]["gradient_checkpointing_enable"]:
        parts.append("gradient checkpointing")
    if ds["packing_samples"]:
        parts.append("packing")
    if train["dynamic_batch_enable"]:
        parts.append(f"dynamic batches of {train['max_tokens_per_gpu']:,} tokens")
    else:
        parts.append(f"micro-batches of {train['micro_batch_size']}")
    return ", ".join(parts)


def _services(config: Config, tokenizer: Any | None, plan: Plan) -> None:
    generation, started = config.services.generation, _started_where(config)
    settings = generation.settings
    engine = settings.get("engine", "transformers")
    where = ", ".join(generation.targets) or started
    count, gpus = len(generation.targets) or generation.replicas, 0 if generation.targets else generation.gpus
    plan.processes.append(Processes(f"generation replica ({engine})", count, gpus, where))
    for name, label in (("novelty", "novelty and prefix server"), ("verification", "verification server")):
        given = getattr(config.services, name)
        plan.processes.append(Processes(label, 1, 0, given.target or started))
    if generation.gpus and not generation.targets and config.ray.address is None:
        plan.warnings.append(
            "services.generation.gpus are reserved on a Ray cluster (ray.address): without one the replicas "
            "are child processes here, which share this machine's GPUs with the workers"
        )
    plan.figures.append(("new weights", f"{config.weights_delivery}, to {count} replica(s)"))
    for target in generation.targets:
        _check_generation(config, target, tokenizer, plan)
    _check_address(config.services.novelty.target, lambda t: NoveltyClient(t, "unused"), plan)
    _check_address(config.services.verification.target, VerificationClient, plan)
    _check_installed(config, engine, plan)
    _check_credentials(config, plan)
    away = [t for t in generation.targets if not t.startswith(("unix:", "localhost", "127.0.0.1", "[::1]"))]
    if away and config.weights_delivery == "folder":
        plan.assumed.append(
            f"{', '.join(away)} can read this run's weights/ folder as weights_root "
            "(services.generation.weights: stream needs no shared disk)"
        )


def _started_where(config: Config) -> str:
    return "Ray actor" if config.ray.address else "child process here"


def _shared(config: Config, folder: RunFolder, plan: Plan) -> None:
    """Say what the run shares with other runs that are given the same addresses."""
    given, shared = config.services, []
    if given.generation.targets:
        shared.append(f"generation at {', '.join(given.generation.targets)}: for one run at a time")
    novelty = given.novelty.target
    if novelty or given.novelty.settings.get("redis_url"):
        # Not the URL of Redis, which may hold a password.
        where = f"at {novelty}" if novelty else "in Redis (redis_url)"
        name = folder.existing_identity() or f"{folder.path.name}-ID, named when the run starts"
        shared.append(f"novelty {where}, its memories under a name of their own ({name})")
    if given.verification.target:
        shared.append(f"verification at {given.verification.target}: no state")
    if config.ray.address:
        shared.append(f"Ray at {config.ray.address}: its CPUs and GPUs")
    plan.shared = shared
    plan.figures.append(("shared with other runs", "; ".join(shared) or "nothing"))


def _check_generation(config: Config, target: str, tokenizer: Any | None, plan: Plan) -> None:
    with plan.collecting(), GenerationClient(target) as client:
        client.wait_for_ready(HEALTH_SECONDS)
        info = client.get_info()
        needed = config.rollout.prompt_max_tokens + config.rollout.response_max_tokens
        if info.max_model_len < needed:
            plan.problems.append(
                f"services.generation: {target} serves at most {info.max_model_len} tokens of prompt and "
                f"response (max_model_len), rollout.prompt_max_tokens + response_max_tokens is {needed}"
            )
        if tokenizer is not None and info.vocab_hash != vocab_hash(tokenizer.get_vocab()):
            plan.problems.append(
                f"services.generation: {target} serves {info.model}, whose vocabulary is not that of "
                f"model.path ({config.model.path})"
            )


def _check_address(target: str | None, client: Callable[[str], Any], plan: Plan) -> None:
    if target is not None:
        with plan.collecting(), client(target) as connected:
            connected.wait_for_ready(HEALTH_SECONDS)


def _check_credentials(config: Config, plan: Plan) -> None:
    if config.ray.address is None:
        return
    if os.environ.get(credentials.TOKEN):
        plan.problems.append(
            f"{credentials.TOKEN} does not reach the workers of a Ray cluster: put the token into a file "
            "that its nodes can read, and name that in services.credentials.token_file"
        )
    for name in REQUIRED_MODULES:
        given: ServiceConfig = getattr(config.services, name)
        if credentials.CA in os.environ and given.target is None and "tls_certificate" not in given.settings:
            plan.problems.append(
                f"services.{name}: services.credentials.ca makes clients want TLS, which a service started "
                "on the Ray cluster has only with tls_certificate and tls_key in its settings"
            )


def _check_installed(config: Config, engine: object, plan: Plan) -> None:
    for name, (module, extra) in REQUIRED_MODULES.items():
        if getattr(config.services, name).target is None and find_spec(module) is None:
            plan.problems.append(
                f"services.{name}: to start one here, pip install 'extra-rl[{extra}]', or give a target"
            )
    if engine == "vllm" and not config.services.generation.targets and find_spec("vllm") is None:
        text = "services.generation: engine vllm is not installed on this machine (extra-rl[vllm])"
        (plan.warnings if config.ray.address else plan.problems).append(text)


def _lengths(config: Config, shape: memory_estimate.ModelShape, plan: Plan) -> None:
    needed = config.rollout.prompt_max_tokens + config.rollout.response_max_tokens
    if needed > shape.window:
        plan.problems.append(
            f"rollout.prompt_max_tokens + response_max_tokens ({needed}) is more than the model's window "
            f"({shape.window})"
        )


def _memory(
    config: Config, shape: memory_estimate.ModelShape, arguments: dict[str, Any] | None, plan: Plan
) -> None:
    plan.figures.insert(0, ("model", f"{config.model.path}, {shape.parameters / 1e9:.2f} billion parameters"))
    if arguments is None:
        return
    ds, train = arguments["ds"], arguments["train"]
    workers = config.ray.nodes * config.ray.gpus_per_node
    parallel = workers // (ds["ring_attn_size"] * ds["tensor_parallel_size"])
    sequence = config.rollout.prompt_max_tokens + config.rollout.response_max_tokens
    tokens = (
        max(train["max_tokens_per_gpu"], sequence)
        if train["dynamic_batch_enable"]
        else train["micro_batch_size"] * sequence
    )
    colocated = train["colocate_actor_ref"] or train["colocate_all"]
    reference = config.optimization.kl_coefficient > 0 and not arguments["ref"]["offload"]
    float32 = ds["param_dtype"] == FLOAT32
    needed = memory_estimate.worker_memory(
        shape,
        workers=parallel,
        zero_stage=ds["zero_stage"],
        micro_batch_tokens=tokens,
        checkpointing=arguments["actor"]["gradient_checkpointing_enable"],
        float32=float32,
        float32_gradients=ds["grad_accum_dtype"] == "fp32",
        offload_optimizer=ds["adam_offload"],
        with_reference=reference and colocated,
    )
    parts = [("weights", needed.weights), ("gradients", needed.gradients), ("optimizer", needed.optimizer)]
    parts += [(f"activations of {tokens:,} tokens", needed.activations)]
    parts += [("reference", needed.reference)] if needed.reference else []
    plan.memory += [(f"policy worker: {name}", size / GIB) for name, size in parts]
    plan.memory.append(("policy worker: together", needed.total / GIB))
    # Where the policy is float32 for want of a GPU, the generation engine is too.
    size = memory_estimate.number_size(float32)
    weights = size * shape.parameters
    if reference and not colocated:
        split = parallel if ds["zero_stage"] == 3 else 1
        logits = 6 * tokens * shape.vocabulary
        plan.memory.append(("reference worker", (weights / split + logits) / GIB))
    gpus = max(1, config.services.generation.gpus)
    plan.memory.append(("generation replica: weights", weights / gpus / GIB))
    cache = shape.kv_bytes_per_token * size / memory_estimate.HALF * sequence / gpus / GIB
    plan.memory.append((f"generation replica: cache of one sample of {sequence:,} tokens", cache))
    plan.assumed.append(
        f"memory: {'float32' if float32 else 'bfloat16'}, Adam, the longest sequences allowed; CUDA "
        "contexts, buffers and fragmentation take 2 to 4 GiB more"
    )


def _machines(config: Config, plan: Plan) -> None:
    """Check that there are enough GPUs, where that is known."""
    if config.ray.address is None:
        _this_machine(config, plan)
        return
    resources = _cluster(config.ray.address, plan)
    if resources is None:
        return
    there = resources.get("GPU", 0.0)
    plan.figures.append(
        ("cluster", f"{there:g} GPUs, {resources.get('CPU', 0.0):g} CPUs on {resources['nodes']:g} nodes")
    )
    if there < plan.gpus:
        plan.problems.append(f"ray.address: the plan takes {plan.gpus:g} GPUs, the cluster has {there:g}")


def _this_machine(config: Config, plan: Plan) -> None:
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not there:
        plan.assumed.append(
            f"no GPU is here: the {plan.gpus:g} are taken to be where the run will start (run here as it "
            "stands, its workers would be processes on the CPU)"
        )
    elif there < plan.gpus or config.ray.nodes > 1:
        plan.problems.append(
            f"ray: the plan takes {plan.gpus:g} GPUs on {config.ray.nodes} node(s), this machine has "
            f"{there}: give the address of a Ray cluster (ray.address)"
        )


def _cluster(address: str, plan: Plan) -> dict[str, float] | None:
    """Return the resources of the Ray cluster at `address`, and the number of `nodes`."""
    import ray

    if not _answers(address):
        plan.problems.append(
            f"ray.address: nothing answers at {address}; start a cluster (`ray start --head`) or correct it"
        )
        return None
    with plan.collecting(), connected(address):
        alive = sum(1 for node in ray.nodes() if node["Alive"])
        return {**ray.cluster_resources(), "nodes": alive}
    return None


def _answers(address: str) -> bool:
    """Return whether host and port of a Ray address accept connections; "auto" is left to Ray."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), HEALTH_SECONDS).close()
    except OSError:
        return False
    return True
