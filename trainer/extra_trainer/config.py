"""The YAML file that describes a training run.

Each section is a small pydantic model; unknown keys are refused with the nearest known name. Defaults are
the paper's reference settings (docs/algorithm.md) but for `novelty.metric`, which `preset: paper` sets; so a
config names only what differs. Other options of
OpenRLHF go under `openrlhf`, as its own flags.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from extra_client import VerifyOptions, credentials
from extra_rl.config_file import ConfigError, explain, read_yaml
from extra_rl.tokens import LEAST_TEMPERATURE
from extra_rl.vocabulary import MemoryPolicy, Method, Metric, References, Scale, SelectionPolicy, TextWindow
from extra_trainer.rehearsal.recipes import RECIPES


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Section):
    """The policy to start from."""

    path: str = Field(
        description="Folder of a Hugging Face model, or one that the project makes: `rehearsal`;"
        " `rehearsal-self-correcting`, which slips more often and writes most of these results again; or"
        " `rehearsal-operators`, `rehearsal-operators-guessable`, for the problems of that name, and"
        " `rehearsal-operators-noisy`, whose wrong answers repeat less often."
    )
    seed: int = Field(
        0, ge=0, description="Seed of a start model that the project makes; runs with other seeds share it."
    )

    @property
    def is_made(self) -> bool:
        """True if the project makes the model itself."""
        return self.path in RECIPES


class PromptConfig(Section):
    """Conversion of a row of a file into a prompt with a reference answer."""

    problem_key: str = Field(
        "problem", description="Column of the problem's text; dots lead into nested values: prompt.0.content."
    )
    answer_key: str = Field("answer", description="Column of the reference answer, likewise.")
    template: str = Field("{problem}", description="The prompt, with {problem} where the text goes.")
    apply_chat_template: bool = Field(
        False, description="Wrap the problem as a user message of the tokenizer's chat."
    )
    verification_method: Method = Field(
        Method.MATH, description="Comparison of a response with the reference answer."
    )
    references: References = Field(
        References.ANY, description="Of several reference answers, whether any one or all must be met."
    )
    verifier: str = Field(
        "", description="With verification_method: custom, the verifier's name on the verification server."
    )

    @model_validator(mode="after")
    def _template_has_a_place(self) -> "PromptConfig":
        if self.template.count("{problem}") != 1:
            raise ValueError("template must contain {problem} once, where the problem's text goes")
        return self

    @model_validator(mode="after")
    def _custom_has_a_verifier(self) -> "PromptConfig":
        if (self.verification_method is Method.CUSTOM) != bool(self.verifier):
            raise ValueError("verification_method: custom and verifier belong together")
        return self

    @property
    def verify_options(self) -> VerifyOptions:
        """The conventions of every comparison."""
        return VerifyOptions(references=self.references, verifier=self.verifier)


class DataConfig(PromptConfig):
    """Problems: JSON Lines or Parquet files, Hugging Face dataset folders (FOLDER#SPLIT), or made ones.

    The project makes `rehearsal` (sums), `rehearsal-operators` (chains of operators) and
    `rehearsal-operators-guessable` (the answer is the first symbol only).
    """

    train: str
    evaluation: str | dict[str, str] = Field(
        description="One such source, {NAME: source, ...}, or a folder of files named like the paper's "
        "benchmarks: aime24.jsonl, math500.parquet, ..."
    )
    train_problems: int | None = Field(
        None, gt=0, description="Use this many training problems; absent: all."
    )
    rehearsal_half: Literal["first", "second"] | None = Field(
        None,
        description="Half of the rehearsal's problems to draw from: what is tuned "
        "on one can be reported on the other. Absent: all.",
    )
    rehearsal_terms: tuple[int, ...] | None = Field(
        None, min_length=1, description="Numbers of terms of the rehearsal's problems; absent: its own mix."
    )
    rehearsal_operators: tuple[int, ...] | None = Field(
        None, min_length=1, description="Numbers of operators in rehearsal-operators; absent: 1 and 2."
    )

    @model_validator(mode="after")
    def _operators_are_compared_as_text(self) -> "DataConfig":
        sources = [self.train]
        sources += [self.evaluation] if isinstance(self.evaluation, str) else self.evaluation.values()
        operators = [source for source in sources if source.startswith("rehearsal-operators")]
        if operators and self.verification_method is not Method.EXACT:
            raise ValueError(
                f"the answers of {operators[0]} are letters, not formulas: set verification_method: exact"
            )
        return self


class RolloutConfig(Section):
    """Sampling of rollouts."""

    prompts_per_step: int = Field(512, gt=0)
    samples_per_prompt: int = Field(8, gt=1, description="Rollouts of a group, n.")
    prompt_max_tokens: int = Field(2048, gt=0)
    response_max_tokens: int = Field(4096, gt=0)
    temperature: float = Field(1.0, ge=LEAST_TEMPERATURE)
    top_p: float = Field(1.0, gt=0, le=1)
    overlong: Literal["verdict", "mask", "punish"] = Field(
        "verdict",
        description="Responses that are cut off at response_max_tokens: verdict: as verified, so wrong unless"
        " the answer was there already; mask: they count for nothing (overlong filtering); punish: the reward"
        " falls by up to 1 over the last overlong_buffer_tokens (soft overlong punishment of DAPO).",
    )
    overlong_buffer_tokens: int | None = Field(
        None, gt=0, description="With overlong: punish; absent: a fifth of response_max_tokens, as in DAPO."
    )
    max_staleness: int = Field(
        0,
        ge=0,
        le=4,
        description="Policy versions that a step's rollouts may be older than the policy that they update."
        " 0: each step waits for its rollouts; 1 to 4: so many steps are generated ahead, during the updates,"
        " and OpenRLHF's truncated importance sampling corrects for it. overlap_update: true was 1.",
    )

    @model_validator(mode="before")
    @classmethod
    def _overlap_update_is_one_version(cls, content: Any) -> Any:
        """Read `overlap_update` of older configs: true is max_staleness 1, false is 0."""
        if not isinstance(content, dict) or "overlap_update" not in content:
            return content
        content = dict(content)
        overlaps = content.pop("overlap_update")
        if overlaps is None:
            return content
        if not isinstance(overlaps, bool):
            raise ValueError(f"overlap_update is true or false, not {overlaps!r}; now called max_staleness")
        given = content.setdefault("max_staleness", int(overlaps))
        if given != int(overlaps):
            raise ValueError(
                f"overlap_update: {str(overlaps).lower()} is the older name of max_staleness: "
                f"{int(overlaps)}, but max_staleness is {given!r}: remove overlap_update"
            )
        return content

    @property
    def keeps_in_flight(self) -> bool:
        """Whether new weights are delivered while rollouts are generated, which then go on with them."""
        return self.max_staleness > 1

    @property
    def overlong_buffer(self) -> int:
        """Tokens before the limit over which the reward falls."""
        return self.overlong_buffer_tokens or -(-self.response_max_tokens // 5)

    @model_validator(mode="after")
    def _buffer_is_within_the_response(self) -> "RolloutConfig":
        if self.overlong_buffer_tokens is not None and self.overlong != "punish":
            raise ValueError("overlong_buffer_tokens is for overlong: punish")
        if self.overlong_buffer > self.response_max_tokens:
            raise ValueError(
                f"overlong_buffer_tokens must be at most response_max_tokens ({self.response_max_tokens})"
            )
        return self

    def steps_per_pass(self, problems: int) -> int:
        """Return the steps of one pass over so many problems; a last, incomplete batch is left out."""
        return problems // self.prompts_per_step


class OptimizationConfig(Section):
    """The policy update."""

    epochs: int = Field(10, gt=0, description="Passes over the training problems.")
    updates_per_batch: int = Field(
        1,
        gt=0,
        description="Passes of the update over each step's rollouts; all but the first are off-policy.",
    )
    minibatch_prompts: int = Field(256, gt=0, description="Prompts (times n samples) per optimizer step.")
    micro_batch_samples: int = Field(8, gt=0, description="Sequences per forward and backward pass.")
    learning_rate: float = Field(1e-6, gt=0)
    lr_scheduler: str = "constant_with_warmup"
    lr_warmup_ratio: float = Field(0.0, ge=0, le=1)
    weight_decay: float = Field(0.01, ge=0)
    kl_coefficient: float = Field(
        1e-3, ge=0, description="Weight of the KL loss (k3) to the start model; 0: none."
    )
    clip_low: float = Field(0.2, gt=0)
    clip_high: float = Field(0.28, gt=0)
    dual_clip: float | None = Field(10.0, gt=1)
    max_gradient_norm: float = Field(1.0, gt=0)
    entropy_bonus: float = Field(
        0.0, ge=0, description="Weight of the policy's mean token entropy, which the loss then rewards."
    )
    loss_aggregation: Literal["token-mean", "seq-mean-token-mean"] = "token-mean"
    divide_by_std: bool = Field(True, description="Divide a group's advantages by its standard deviation.")


class NoveltyConfig(Section):
    """The bonus for correct solutions that differ from known ones."""

    enabled: bool = True
    alpha: float = Field(0.1, ge=0, description="Weight of the bonus.")
    placement: Literal["after_normalization", "before_normalization"] = "after_normalization"
    metric: Metric = Field(
        Metric.DERIVATION,
        description="How novelty is measured. derivation needs solutions with numbers; embedding takes any "
        "text; the metric outcome has a section of its own.",
    )
    window: TextWindow = Field(
        TextWindow.REFERENCE,
        description="Part of a response that is embedded; the metric derivation always reads all of it.",
    )
    scale: Scale = Scale.RAW
    variance_decay: float = Field(
        1.0, ge=0, description="lambda in exp(-lambda V(x)), with placement before_normalization."
    )
    memory_policy: MemoryPolicy = MemoryPolicy.CORRECT
    memory_capacity: int = Field(16, gt=0)
    min_history: int | None = Field(None, ge=0, description="Absent: samples_per_prompt.")
    control: Literal["shuffled", "constant"] | None = Field(
        None,
        description="For experiments: a step's bonuses in random order among its correct rollouts, or their "
        "mean for each, so that the bonus has the same total but no information about its rollout.",
    )
    guided_groups: bool = Field(
        True, description="Guided groups are scored and remembered under their prompt too."
    )

    @model_validator(mode="after")
    def _belong_together(self) -> "NoveltyConfig":
        if self.metric is Metric.OUTCOME:
            raise ValueError("metric outcome is for wrong answers: use the section outcome (enabled: true)")
        if self.scale is Scale.SHARE and self.metric is not Metric.DERIVATION:
            raise ValueError("scale share is the share of a way: it needs metric derivation")
        return self


class OutcomeConfig(Section):
    """Outcome novelty: wrong rollouts differ in advantage by how often their answer was given before.

    A_i += beta (b_i - mean b) over the wrong rollouts of a group, b_i = 1/sqrt(N(x, a_i)), with N the times
    that the final answer a_i was given to the prompt x, in earlier groups that it acted on and in this one
    (arXiv 2509.06941).
    """

    enabled: bool = False
    beta: float = Field(0.3, ge=0, description="Weight of the bonus.")
    groups: Literal["all_wrong", "with_wrong", "all"] = Field(
        "all_wrong",
        description="Groups it acts on: those without a success; those with a wrong rollout; or all, where"
        " right answers are counted and paid like wrong ones, as in the source.",
    )
    history: bool = Field(True, description="Count earlier groups too, not this one alone.")
    center: bool = Field(True, description="Subtract the mean of the group.")
    control: Literal["shuffled"] | None = Field(
        None,
        description="For experiments: the bonuses of a group, in random order among the same rollouts.",
    )


class PrefixConfig(Section):
    """Resuming hard prompts from promising prefixes."""

    enabled: bool = True
    warmup_steps: int = Field(30, ge=0, description="Steps before hard prompts feed the memory.")
    policy: SelectionPolicy = SelectionPolicy.SMOOTHED_ENTROPY
    sources: Literal["unguided", "wrong", "all"] = Field(
        "unguided",
        description="Rollouts of hard prompts that may feed the memory: those sampled without a prefix, "
        "only the wrong ones among these, or those of guided groups as well.",
    )
    regen_batch_size: int = Field(16, ge=0, description="Most guided prompts in a step.")
    queue_capacity: int = Field(512, gt=0, description="Guided prompts waiting; the oldest leave first.")
    memory_capacity: int = Field(128, gt=0, description="Prefixes kept per prompt.")
    min_segment_tokens: int = Field(32, gt=0)
    tau: float = Field(0.1, gt=0, description="Temperature of the smoothing softmax.")


class EvaluationConfig(Section):
    """pass@k on held-out problems, before and after training."""

    problems: int | None = Field(None, gt=0, description="Use this many of each set; absent: all.")
    samples_per_prompt: int = Field(16, gt=0)
    k: tuple[int, ...] = Field((1, 16), min_length=1)
    temperature: float = Field(1.0, ge=0, description=f"At least {LEAST_TEMPERATURE}, or 0: greedy.")
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int | None = Field(
        None, gt=0, description="Most tokens of a response; absent: rollout.response_max_tokens."
    )
    seed: int = Field(0, ge=0, description="Seed of samples and bootstrap.")
    problems_at_once: int = Field(
        32, gt=0, description="Problems that are sampled at the same time; it changes no result."
    )

    @model_validator(mode="after")
    def _temperature_is_allowed(self) -> "EvaluationConfig":
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise ValueError(f"temperature must be 0 (greedy) or at least {LEAST_TEMPERATURE}")
        return self

    @model_validator(mode="after")
    def _k_is_within_samples(self) -> "EvaluationConfig":
        if max(self.k) > self.samples_per_prompt or min(self.k) < 1:
            raise ValueError(f"every k must lie between 1 and samples_per_prompt ({self.samples_per_prompt})")
        return self


class ServiceConfig(Section):
    """One service: the address of a running one, or the settings to start one."""

    target: str | None = Field(
        None, description="host:port, unix:PATH or dns:///NAME; absent: the launcher starts it."
    )
    settings: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="Flags of `extra-rl serve NAME` for a started one."
    )


class GenerationServiceConfig(ServiceConfig):
    """The generation service, or several replicas that share the prompts of a step."""

    target: str | tuple[str, ...] | None = Field(  # type: ignore[assignment]
        None, description="Address, or list of the replicas' addresses; absent: the launcher starts them."
    )
    replicas: int = Field(1, gt=0, description="Replicas to start where no target is given.")
    gpus: int = Field(
        0,
        ge=0,
        description="GPUs of each replica started on a Ray cluster (vLLM: tensor parallel).",
    )
    weights: Literal["folder", "stream"] | None = Field(
        None,
        description="How new weights arrive: read from the run folder, or sent where no disk is shared. "
        "Absent: stream for replicas started on a Ray cluster (ray.address), else folder.",
    )

    @model_validator(mode="after")
    def _targets_differ(self) -> "GenerationServiceConfig":
        if isinstance(self.target, tuple) and (not self.target or len(set(self.target)) < len(self.target)):
            raise ValueError("target must be a list of different addresses, at least one")
        if self.target is not None and self.replicas > 1:
            raise ValueError("replicas are those to start: with target, list the addresses there")
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """Addresses of running replicas; empty if they are to be started."""
        if self.target is None:
            return ()
        return self.target if isinstance(self.target, tuple) else (self.target,)


class CredentialsConfig(Section):
    """The run's credentials for the services, as extra_client.Credentials: names of files, not the token.

    A run's config is kept in its folder and shown in its report, so it must not hold a secret.
    """

    token_file: str | None = Field(None, description="File of the token; absent: EXTRA_RL_TOKEN, or none.")
    ca: str | None = Field(None, description="PEM file of the services' authority; turns TLS on.")
    certificate: str | None = Field(None, description="PEM file of this side's certificate (mTLS).")
    key: str | None = Field(None, description="PEM file of its key.")
    allow_plaintext_network: bool = Field(
        False, description="Send the token to other machines without TLS too."
    )

    @model_validator(mode="after")
    def _belong_together(self) -> "CredentialsConfig":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together")
        if self.certificate is not None and self.ca is None:
            raise ValueError("certificate and key are for TLS, which ca turns on")
        return self

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which every client of a process uses them."""
        files = {
            credentials.TOKEN_FILE: self.token_file,
            credentials.CA: self.ca,
            credentials.CERTIFICATE: self.certificate,
            credentials.KEY: self.key,
        }
        # Ray's workers have working directories of their own.
        variables = {name: str(Path(file).absolute()) for name, file in files.items() if file}
        if self.allow_plaintext_network:
            variables[credentials.ALLOW_PLAINTEXT_NETWORK] = "true"
        return variables


class ServicesConfig(Section):
    """The three services."""

    credentials: CredentialsConfig = CredentialsConfig()
    generation: GenerationServiceConfig = GenerationServiceConfig()
    novelty: ServiceConfig = ServiceConfig()
    verification: ServiceConfig = ServiceConfig()
    max_undecided: float = Field(
        0.1, ge=0, le=1, description="Stop if more than this share of a step's verdicts is timeout or error."
    )
    patience_seconds: float = Field(
        300.0,
        ge=0,
        description="How long training waits for a service with a `target` that is being restarted.",
    )

    def patience(self, service: ServiceConfig) -> float:
        """Return the seconds to wait for a service that does not answer; 0 if the run starts it itself."""
        return 0.0 if service.target is None else self.patience_seconds


class CheckpointConfig(Section):
    """Checkpoints, from which a run can be resumed."""

    every_steps: int = Field(20, gt=0)
    # OpenRLHF deletes the oldest before it writes the next: with one there would be a time without any.
    keep: int = Field(2, ge=2)


class RecordingConfig(Section):
    """The records of rollouts and prefix choices in the run folder; metrics are recorded of every step."""

    every_steps: int = Field(1, gt=0, description="Record step 1 and every so many steps after it.")
    keep: int | None = Field(
        None, gt=0, description="Recorded steps whose records are kept, the last ones; absent: all."
    )

    def records(self, step: int) -> bool:
        """Return whether a step is recorded."""
        return (step - 1) % self.every_steps == 0


class RayConfig(Section):
    """The Ray cluster, and the distribution of OpenRLHF's actors over it."""

    address: str | None = Field(
        None, description="Address of a running cluster; absent: one is started on this machine."
    )
    nodes: int = Field(1, gt=0)
    gpus_per_node: int = Field(1, gt=0, description="Policy workers a node; without CUDA, processes.")


#: The settings of each preset; settings of the config itself take precedence.
PRESETS: dict[str, dict[str, dict[str, object]]] = {
    # As published: the raw distance added after normalisation, a memory of correct solutions.
    "paper": {
        "novelty": {
            "enabled": True,
            "placement": "after_normalization",
            "metric": "embedding",
            "window": "reference",
            "scale": "raw",
            "memory_policy": "correct",
        },
        "prefix": {"enabled": True, "policy": "smoothed_entropy"},
    },
    # As the released script runs.
    "reference": {
        "novelty": {
            "enabled": True,
            "placement": "before_normalization",
            "metric": "embedding",
            "window": "reference",
            "scale": "group_max",
            "memory_policy": "all",
        },
        "prefix": {"enabled": True, "policy": "smoothed_entropy"},
    },
    "grpo": {"novelty": {"enabled": False}, "prefix": {"enabled": False}},
    "novelty-only": {"novelty": {"enabled": True}, "prefix": {"enabled": False}},
    "prefix-only": {
        "novelty": {"enabled": False},
        "prefix": {"enabled": True, "policy": "smoothed_entropy"},
    },
    # The control for claims about prefixes: hard prompts again, from the beginning.
    "requeue": {"novelty": {"enabled": False}, "prefix": {"enabled": True, "policy": "none"}},
    "outcome-only": {
        "novelty": {"enabled": False},
        "prefix": {"enabled": False},
        "outcome": {"enabled": True},
    },
    # What was found best of all parts (docs/evidence): outcome novelty with weight 1, in mixed groups too.
    "extra-plus": {
        "novelty": {"enabled": False},
        "prefix": {"enabled": False},
        "outcome": {"enabled": True, "groups": "with_wrong", "beta": 1.0},
    },
}


class Config(Section):
    """A training run."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$", description="Names the run's folder and memories.")
    preset: (
        Literal[
            "paper",
            "reference",
            "grpo",
            "novelty-only",
            "prefix-only",
            "requeue",
            "outcome-only",
            "extra-plus",
        ]
        | None
    ) = Field(None, description="Settings to start from; those of the config itself take precedence.")
    seed: int = Field(0, ge=0)
    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    novelty: NoveltyConfig = NoveltyConfig()
    outcome: OutcomeConfig = OutcomeConfig()
    prefix: PrefixConfig = PrefixConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    services: ServicesConfig = ServicesConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    recording: RecordingConfig = RecordingConfig()
    ray: RayConfig = RayConfig()
    openrlhf: dict[str, str | int | float | bool | list[float]] = Field(
        default_factory=dict, description="Further flags of OpenRLHF, such as {ds.zero_stage: 3}."
    )

    @property
    def weights_delivery(self) -> Literal["folder", "stream"]:
        """The transfer of new weights to the generation replicas."""
        given = self.services.generation
        placed = self.ray.address is not None and not given.targets
        return given.weights or ("stream" if placed else "folder")

    @model_validator(mode="after")
    def _batches_divide(self) -> "Config":
        prompts, minibatch = self.rollout.prompts_per_step, self.optimization.minibatch_prompts
        samples = minibatch * self.rollout.samples_per_prompt
        if prompts % minibatch:
            raise ValueError(
                f"optimization.minibatch_prompts ({minibatch}) must divide "
                f"rollout.prompts_per_step ({prompts})"
            )
        if samples % self.optimization.micro_batch_samples:
            raise ValueError(
                f"optimization.micro_batch_samples ({self.optimization.micro_batch_samples}) must divide "
                f"minibatch_prompts x samples_per_prompt ({samples})"
            )
        if self.prefix.regen_batch_size > prompts:
            raise ValueError(f"prefix.regen_batch_size must be at most rollout.prompts_per_step ({prompts})")
        return self


def load(path: str | Path, overrides: dict[str, object] | None = None) -> Config:
    """Read a config file.

    Args:
        path: The YAML file.
        overrides: Settings that replace those of the file, by dotted path: {"seed": 3, "novelty.alpha": 0.0}.

    Raises:
        ConfigError: If a setting is unknown or wrong; the message names each.
    """
    content = read_yaml(path)
    for dotted, value in (overrides or {}).items():
        *parents, last = dotted.split(".")
        node = content
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{dotted}: {parent} is no section")
        node[last] = value
    try:
        return Config.model_validate(_with_preset(content))
    except ValidationError as error:
        raise ConfigError(f"{path}:\n{explain(error, Config)}") from error


def _with_preset(content: dict[str, Any]) -> dict[str, Any]:
    # An unknown name is left to the validation, which suggests the nearest known one.
    preset = PRESETS.get(str(content.get("preset")), {})
    merged = dict(content)
    for section, settings in preset.items():
        own = content.get(section) or {}
        merged[section] = {**settings, **own} if isinstance(own, dict) else own
    return merged
