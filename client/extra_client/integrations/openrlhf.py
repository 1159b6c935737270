"""Novelty and verification for OpenRLHF, unmodified, from its own command line.

`agent_executor` makes the class that a file for --train.agent_func_path must define. OpenRLHF calls it for
the n samples of a prompt one by one, in one turn of one task; by that the samples of a group are recognized.
Each is verified as soon as it is generated and then sent to the novelty server, which scores the group once
it is complete. Token entropies can come with the samples, for the prefix service.
`reward_function` makes the function that a file for --reward.remote_url must define. It gets less
information, so it counts the samples of a prompt to form groups, and each sample waits for its group in a
thread.

Both return the reward before OpenRLHF's normalization, verification + alpha x novelty: these hooks cannot
change what comes after (extra_trainer subclasses OpenRLHF's trainer for that). beta x outcome novelty must
not be normalized, so `agent_executor` gives a group without a correct sample rewards that OpenRLHF's
estimator turns into exactly this bonus. `openrlhf` is imported when an executor is made.
"""

import asyncio
import inspect
import logging
import threading
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from extra_client import (
    EntropyRollout,
    ExtraError,
    FailedPreconditionError,
    HardPrompt,
    Metric,
    SampleScore,
    VerificationClient,
    _wire,
    aio,
)
from extra_client.integrations import (
    NoveltyScoring,
    OnFailure,
    Outage,
    all_wrong,
    answer_groups,
    centered,
    problem_statement,
    prompt_id,
)
from extra_rl.references import is_missing
from extra_rl.tokens import TokenTexts

#: Decides about a response, given the label: True, False, or None for undecided.
Verify = Callable[[str, str], bool | None] | Callable[[str, str], Awaitable[bool | None]]

#: Extracts the final answer of a response, None if it has none.
FinalAnswer = Callable[[str], str | None]

#: What OpenRLHF's estimator group_norm adds to the standard deviation by which it divides.
GROUP_NORM_EPSILON = 1e-9
#: Estimators, --algo.advantage.estimator, for which a reward can be found that becomes a given advantage.
EXACT_ESTIMATORS = ("group_norm", "dr_grpo")

#: Threads of a rollout actor that may wait for their group at the same time.
THREADS = 4096

_log = logging.getLogger("extra_client")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixCollecting:
    """Destination of the rollouts of hard prompts: of groups with at most one correct sample."""

    #: host:port of a novelty server, which serves prefixes too.
    target: str
    namespace: str
    on_failure: OnFailure | str = OnFailure.FAIL


class _Decision(NamedTuple):
    """About one response."""

    #: None: undecided.
    correct: bool | None
    answer: str | None


@dataclass(frozen=True, slots=True)
class _Sample:
    """A generated sample."""

    token_ids: list[int]
    decision: _Decision
    #: nats; empty if not asked for.
    entropies: list[float]


@dataclass
class _Group:
    """The samples of one prompt that were asked for together."""

    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    size: int = 0
    samples: dict[int, _Sample] = field(default_factory=dict)
    failed: int = 0
    #: Set when every sample is there or has failed.
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    #: Scores the final answers of the group, for all its samples.
    outcomes: "asyncio.Task[NDArray[np.float64]] | None" = None

    def add(self, index: int, sample: _Sample) -> None:
        """Take a sample in."""
        self.samples[index] = sample
        self._check()

    def fail(self) -> None:
        """Note that a sample will never come."""
        self.failed += 1
        self._check()

    def _check(self) -> None:
        if len(self.samples) + self.failed == self.size:
            self.complete.set()


def agent_executor(
    verify: str | Verify,
    novelty: NoveltyScoring,
    *,
    answers: FinalAnswer | None = None,
    estimator: str = "group_norm",
    undecided_reward: float | None = None,
    train_temperature: float | None = None,
    prefixes: PrefixCollecting | None = None,
) -> type:
    """Make the class AgentExecutor for the file for --train.agent_func_path.

    Logged for each sample: correct, novelty, novelty_missing, undecided, and with beta outcome_novelty
    (b - mean b).

    Args:
        verify: host:port of a verification server, or a function.
        novelty: Where and how novelty is scored; beta at most 1.
        answers: Returns the final answer of a response, for beta. None: the verification server's; a function
            `verify` has none.
        estimator: For beta, your --algo.advantage.estimator: "group_norm" or "dr_grpo".
        undecided_reward: Reward of an undecided response, counted in `undecided`; None: it fails the step.
        train_temperature: Only samples drawn at this temperature (--rollout.temperature) get the bonus and
            are remembered, so that an evaluation at another temperature is left alone; None: all samples.
        prefixes: Ask the engine for exact entropies and send hard prompts there. It needs
            `pip install 'extra-rl[vllm]'` where the engine runs.

    Raises:
        ValueError: beta is not 0, and there are no final answers, or the estimator or undecided_reward would
            change what it adds to the advantages.
    """
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    if novelty.beta:
        _check_beta(verify, novelty, answers, estimator, undecided_reward)

    class AgentExecutor(SingleTurnAgentExecutor):  # type: ignore[misc]
        """Generates as OpenRLHF's own; then verifies and scores."""

        def __init__(self) -> None:
            super().__init__()
            self._decide = _deciding(verify, answers)
            self._novelty = novelty.aio_client()
            self._outage = novelty.outage()
            self._entropies = None if prefixes is None else _Entropies(prefixes)
            #: The group that each task of the event loop is making in this turn.
            self._open: dict[asyncio.Task[Any] | None, _Group] = {}

        # Not a coroutine function: OpenRLHF calls this for all samples of a group before the first one runs.
        def execute(self, prompt: str, label: str, *args: Any, **options: Any) -> Awaitable[dict[str, Any]]:
            # The actor has a task for each prompt, and several of them may start in one turn.
            task = asyncio.current_task()
            if task not in self._open:
                self._open[task] = _Group()
                asyncio.get_running_loop().call_soon(self._open.pop, task)
            group, index = self._open[task], self._open[task].size
            group.size += 1
            call = inspect.signature(super().execute).bind(prompt, label, *args, **options).arguments
            return self._sample(group, index, call, super().execute)

        async def _sample(
            self, group: _Group, index: int, call: dict[str, Any], generate: Callable[..., Any]
        ) -> dict[str, Any]:
            trained = train_temperature in (None, call["sampling_params"].temperature)
            recorder = _Recorder(call["llm_engine"], self._entropies if trained else None)
            try:
                output: dict[str, Any] = await generate(**{**call, "llm_engine": recorder})
                response = recorder.text(call["hf_tokenizer"])
                decision = await self._decide(response, call["label"])
                reward, undecided = _reward(decision.correct, undecided_reward)
            except BaseException:
                group.fail()
                raise
            bonus, outcome, missing = 0.0, None, False
            images = call.get("images")
            name = prompt_id([call["prompt"], images] if images else call["prompt"])
            if trained:
                group.add(index, _Sample(recorder.token_ids, decision, recorder.entropies))
                if self._entropies is not None and len(group.samples) == group.size:
                    await self._entropies.send_if_hard(name, group, call["hf_tokenizer"])
                if novelty.alpha:
                    correct = bool(decision.correct)
                    stated = problem_statement(novelty.metric, call["prompt"], call["label"])
                    bonus, missing = await self._bonus(
                        group, index, name, correct, response, recorder, stated
                    )
            shaped = reward + novelty.alpha * bonus
            if novelty.beta:
                outcome, outcome_reward, none = await self._outcome(group, index, name, trained)
                shaped, missing = shaped + outcome_reward, missing or none
            logs = _logs(decision.correct, bonus, missing, undecided, outcome)
            return output | {"reward": shaped, "scores": reward, "extra_logs": logs}

        async def _outcome(
            self, group: _Group, index: int, name: str, trained: bool
        ) -> tuple[float, float, bool]:
            """Return a sample's outcome novelty, the reward it becomes, and whether it is missing."""
            if not trained:
                return 0.0, 0.0, False
            await group.complete.wait()
            if group.outcomes is None:
                group.outcomes = asyncio.ensure_future(self._score_outcomes(group, name))
            try:
                novelties = await asyncio.shield(group.outcomes)
            except ExtraError as failure:
                self._outage.tolerate(failure)
                return 0.0, 0.0, True
            self._outage.ended()
            rewards = _rewards_for(novelty.beta * novelties, estimator)
            return float(novelties[index]), float(rewards[index]), False

        async def _score_outcomes(self, group: _Group, name: str) -> NDArray[np.float64]:
            """Return float64 [group.size]: b - mean b of its wrong samples, if none is correct."""
            places = sorted(group.samples)
            decisions = [group.samples[place].decision for place in places]
            correct, given = [each.correct for each in decisions], [each.answer for each in decisions]
            wrong = all_wrong([range(len(places))], correct)
            scores = []
            if wrong:
                scores = await self._novelty.score_groups(
                    answer_groups(wrong, [name] * len(places), given),
                    metric=Metric.OUTCOME,
                    idempotency_key=f"{group.name}/outcome",
                    deadline=novelty.deadline,
                )
            novelties = np.zeros(group.size)
            novelties[places] = centered(wrong, scores, len(places))
            return novelties

        async def _bonus(
            self,
            group: _Group,
            index: int,
            name: str,
            correct: bool,
            text: str,
            recorder: "_Recorder",
            stated: dict[str, Any],
        ) -> tuple[float, bool]:
            try:
                score = await self._novelty.collect_sample(
                    name,
                    group.name,
                    group.size,
                    index,
                    correct,
                    text=text,
                    token_ids=recorder.token_ids,
                    **stated,
                    **novelty.collect_arguments(),
                )
            except ExtraError as failure:
                self._outage.tolerate(failure)
                return 0.0, True
            self._outage.ended()
            return score.novelty, _incomplete(score, group.size)

    return AgentExecutor


def reward_function(
    verify: str | Callable[[str, str], bool | None],
    novelty: NoveltyScoring,
    *,
    group_size: int,
    undecided_reward: float | None = None,
) -> Callable[[Sequence[str], Sequence[str], Sequence[str]], dict[str, Any]]:
    """Make the function reward_func for the file for --reward.remote_url.

    OpenRLHF logs the exceptions of this function and then returns no reward, on which its trainer fails. Logs
    are those of `agent_executor`.

    Args:
        verify: host:port of a verification server, or a function.
        novelty: Where and how novelty is scored.
        group_size: Must be --rollout.n_samples_per_prompt, and --eval.n_samples_per_prompt the same: the k-th
            sample of a prompt in a rollout actor belongs to group k // group_size.
        undecided_reward: Reward of an undecided response; None: it fails the step.

    Raises:
        ValueError: beta is not 0: only `agent_executor` knows the whole group.
    """
    if novelty.beta:
        raise ValueError("beta is for agent_executor: a reward function does not know the group of a sample")
    client = novelty.client()
    outage = novelty.outage()
    decide = _decided(verify)
    process, lock = uuid.uuid4().hex, threading.Lock()
    seen: Counter[str] = Counter()
    _allow_many_waiting()

    def one(query: str, prompt: str, label: str) -> dict[str, Any]:
        name = prompt_id(prompt)
        with lock:
            number, index = divmod(seen[name], group_size)
            seen[name] += 1
        response = query.removeprefix(prompt)
        correct = decide(response, label)
        reward, undecided = _reward(correct, undecided_reward)
        bonus, missing = 0.0, False
        if novelty.alpha:
            try:
                score = client.collect_sample(
                    name,
                    f"{process}/{name}/{number}",
                    group_size,
                    index,
                    correct,
                    text=response,
                    **problem_statement(novelty.metric, prompt, label),
                    **novelty.collect_arguments(),
                )
            except ExtraError as failure:
                outage.tolerate(failure)
                missing = True
            else:
                outage.ended()
                bonus, missing = score.novelty, _incomplete(score, group_size)
        logs = _logs(correct, bonus, missing, undecided)
        return {"rewards": reward + novelty.alpha * bonus, "scores": reward, "extra_logs": logs}

    def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
        if len(queries) != 1:
            raise ValueError(f"{len(queries)} queries in a call: this is made for OpenRLHF, which sends one")
        return one(queries[0], prompts[0], labels[0])

    return reward_func


class _Recorder:
    """Stands between executor and engine: keeps the generated tokens and their entropies."""

    def __init__(self, engine: Any, entropies: "_Entropies | None") -> None:
        self._engine = engine
        self._wanted = entropies
        self.token_ids: list[int] = []
        self.entropies: list[float] = []

    async def generate(self, prompt_token_ids: Any, sampling_params: Any, **options: Any) -> Any:
        if self._wanted is not None:
            await self._wanted.install(self._engine)
            sampling_params.logprobs = 0
        result = await self._engine.generate(prompt_token_ids, sampling_params, **options)
        completion = result.outputs[0]
        self.token_ids = list(completion.token_ids)
        if self._wanted is not None:
            ranks = [
                step[token].rank for token, step in zip(self.token_ids, completion.logprobs, strict=True)
            ]
            self.entropies = entropies_in(ranks)
        return result

    def text(self, tokenizer: Any) -> str:
        """Return the response."""
        return str(tokenizer.decode(self.token_ids, skip_special_tokens=True))


class _Entropies:
    """Asks an engine for exact entropies, and sends hard prompts to the prefix service."""

    def __init__(self, prefixes: PrefixCollecting) -> None:
        self._client = aio.PrefixClient(prefixes.target, prefixes.namespace)
        self._outage = Outage("prefix", prefixes.on_failure, "new prefixes")
        self._installed: asyncio.Task[Any] | None = None
        self._tokens: TokenTexts | None = None

    async def install(self, engine: Any) -> None:
        """Make the engine's sampler return entropies, once."""
        if self._installed is None:
            from extra_rl import vllm_entropy

            # OpenRLHF's rollout actor has vLLM's engine as .llm, and lets functions be sent to its workers.
            calling = engine.llm.collective_rpc(vllm_entropy.install)
            self._installed = asyncio.ensure_future(calling)
        await self._installed

    async def send_if_hard(self, name: str, group: _Group, tokenizer: Any) -> None:
        """Send the samples of a complete group to the prefix service, if at most one is correct."""
        samples = [group.samples[index] for index in sorted(group.samples)]
        if sum(bool(sample.decision.correct) for sample in samples) > 1:
            return
        if self._tokens is None:
            self._tokens = TokenTexts(tokenizer)
        rollouts = [_with_text(sample, self._tokens) for sample in samples if sample.token_ids]
        if not rollouts:
            return
        try:
            (added,) = await self._client.add_rollouts(
                [HardPrompt(name, rollouts)], self._tokens.newline_ids, idempotency_key=group.name
            )
        except ExtraError as failure:
            self._outage.tolerate(failure)
            return
        self._outage.ended()
        if added.error is not None:
            raise added.error


def entropies_in(ranks: Sequence[int]) -> list[float]:
    """Return the entropies in nats that came in the place of ranks.

    Raises:
        FailedPreconditionError: They are ranks: the sampler was not changed.
    """
    from extra_rl import vllm_entropy

    found = vllm_entropy.unpack(ranks)[:, 0]
    # A true rank, a small integer, reads as a number below any entropy.
    if len(found) and not np.any(found > 1e-30):
        raise FailedPreconditionError("the engine returned ranks where entropies were asked for")
    return [float(entropy) for entropy in found]


def _with_text(sample: _Sample, tokens: TokenTexts) -> EntropyRollout:
    text = tokens.decode(sample.token_ids)
    return EntropyRollout(
        token_ids=sample.token_ids,
        entropies=sample.entropies,
        text=text,
        token_ends=tokens.ends(sample.token_ids, text),
    )


def _deciding(
    verify: str | Verify, answers: FinalAnswer | None
) -> Callable[[str, str], Awaitable[_Decision]]:
    if isinstance(verify, str):
        client = aio.VerificationClient(verify)

        async def by_service(response: str, label: str) -> _Decision:
            (verdict,) = await client.verify([response], [label])
            return _Decision(verdict.correct, answers(response) if answers else verdict.final_answer)

        return by_service
    function: Callable[[str, str], Any] = verify

    async def by_function(response: str, label: str) -> _Decision:
        answer = answers(response) if answers else None
        if is_missing(label):
            return _Decision(None, answer)
        decided = function(response, label)
        if inspect.isawaitable(decided):
            decided = await decided
        return _Decision(_wire.decision(decided, "what verify returned"), answer)

    return by_function


def _check_beta(
    verify: str | Verify,
    novelty: NoveltyScoring,
    answers: FinalAnswer | None,
    estimator: str,
    undecided_reward: float | None,
) -> None:
    if not 0 <= novelty.beta <= 1:
        raise ValueError(f"beta must be in [0, 1] here, is {novelty.beta}")
    if answers is None and not isinstance(verify, str):
        raise ValueError("beta needs final answers: give answers, a function of the response")
    if estimator not in EXACT_ESTIMATORS:
        raise ValueError(f"beta needs the estimator {' or '.join(EXACT_ESTIMATORS)}, not {estimator!r}")
    if undecided_reward:
        raise ValueError("beta needs undecided_reward=0: another one is normalized with the group's bonus")


def _rewards_for(advantages: NDArray[np.float64], estimator: str) -> NDArray[np.float64]:
    """Return the rewards of a group that OpenRLHF's estimator turns into `advantages`, whose mean is 0.

    dr_grpo only subtracts the mean. group_norm also divides by std + e, e = 1e-9. With r = A e / (1 - std A)
    it is std r + e = e / (1 - std A), so (r - mean r) / (std r + e) = A. std A is below 1, because
    A = beta (b - mean b), b is in (0, 1] and beta at most 1.
    """
    if estimator == "dr_grpo" or len(advantages) < 2:
        return advantages
    return advantages * (GROUP_NORM_EPSILON / (1 - float(advantages.std(ddof=1))))


def _decided(verify: str | Callable[[str, str], bool | None]) -> Callable[[str, str], bool | None]:
    if not isinstance(verify, str):
        return lambda response, label: (
            None if is_missing(label) else _wire.decision(verify(response, label), "what verify returned")
        )
    client = VerificationClient(verify)
    return lambda response, label: client.verify([response], [label])[0].correct


def _reward(correct: bool | None, undecided_reward: float | None) -> tuple[float, bool]:
    """Return the reward, and whether it was undecided."""
    if correct is not None:
        return float(correct), False
    if undecided_reward is None:
        raise FailedPreconditionError(
            "a response could not be verified (timeout, error or unreadable label), and OpenRLHF has no "
            "samples without a reward: set undecided_reward, or correct the data"
        )
    return undecided_reward, True


def _logs(
    correct: bool | None, novelty: float, missing: bool, undecided: bool, outcome: float | None = None
) -> dict[str, float]:
    outcomes = {} if outcome is None else {"outcome_novelty": outcome}
    return outcomes | {
        "correct": float(bool(correct)),
        "novelty": novelty,
        "novelty_missing": float(missing),
        "undecided": float(undecided),
    }


def _incomplete(score: SampleScore, group_size: int) -> bool:
    if score.samples < group_size:
        _log.warning("a group was scored with %d of its %d samples", score.samples, group_size)
    return score.samples < group_size


def _allow_many_waiting() -> None:
    """Let the samples of all groups of a rollout actor wait at once.

    OpenRLHF runs reward_func in the default threads of its event loop, often fewer than a group has samples;
    those would wait for each other until the deadline. It loads the file inside that loop.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="extra-reward"))
