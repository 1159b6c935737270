"""Novelty and verification for OpenRLHF, unmodified, from its own command line.

`agent_executor` makes the class that a file for --train.agent_func_path must define. OpenRLHF calls it for
the n samples of a prompt one by one, in one turn of the event loop; by that the samples of a group are
recognized. Each is verified as soon as it is generated and then sent to the novelty server, which scores the
group once it is complete. Token entropies can come with the samples, for the prefix service.
`reward_function` makes the function that a file for --reward.remote_url must define. It gets less
information, so it counts the samples of a prompt to form groups, and each sample waits for its group in a
thread.

Both return the reward before OpenRLHF's normalization, verification + alpha x novelty: these hooks cannot
change what comes after (extra_trainer subclasses OpenRLHF's trainer for that). `openrlhf` is imported when an
executor is made.
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
from typing import Any

import numpy as np

from extra_client import (
    EntropyRollout,
    ExtraError,
    FailedPreconditionError,
    HardPrompt,
    SampleScore,
    VerificationClient,
    aio,
)
from extra_client.integrations import NoveltyScoring, OnFailure, Outage, prompt_id
from extra_rl.references import is_missing
from extra_rl.tokens import TokenTexts

#: Decides about a response, given the label: True, False, or None for undecided.
Verify = Callable[[str, str], bool | None] | Callable[[str, str], Awaitable[bool | None]]

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


@dataclass(frozen=True, slots=True)
class _Sample:
    """A generated sample."""

    token_ids: list[int]
    correct: bool
    #: nats; empty if not asked for.
    entropies: list[float]


@dataclass
class _Group:
    """The samples of one prompt that were asked for together."""

    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    size: int = 0
    samples: dict[int, _Sample] = field(default_factory=dict)


def agent_executor(
    verify: str | Verify,
    novelty: NoveltyScoring,
    *,
    undecided_reward: float | None = None,
    train_temperature: float | None = None,
    prefixes: PrefixCollecting | None = None,
) -> type:
    """Make the class AgentExecutor for the file for --train.agent_func_path.

    Logged for each sample: correct, novelty, novelty_missing, undecided.

    Args:
        verify: host:port of a verification server, or a function.
        novelty: Where and how novelty is scored.
        undecided_reward: Reward of an undecided response, counted in `undecided`; None: it fails the step.
        train_temperature: Only samples drawn at this temperature (--rollout.temperature) get the bonus and
            are remembered, so that an evaluation at another temperature is left alone; None: all samples.
        prefixes: Ask the engine for exact entropies and send hard prompts there. It needs
            `pip install 'extra-rl[vllm]'` where the engine runs.
    """
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    class AgentExecutor(SingleTurnAgentExecutor):  # type: ignore[misc]
        """Generates as OpenRLHF's own; then verifies and scores."""

        def __init__(self) -> None:
            super().__init__()
            self._decide = _deciding(verify)
            self._novelty = novelty.aio_client()
            self._outage = novelty.outage()
            self._entropies = None if prefixes is None else _Entropies(prefixes)
            self._group = _Group()

        # Not a coroutine function: OpenRLHF calls this for all samples of a group before the first one runs.
        def execute(self, prompt: str, label: str, *args: Any, **options: Any) -> Awaitable[dict[str, Any]]:
            if not self._group.size:
                asyncio.get_running_loop().call_soon(self._close_group)
            group, index = self._group, self._group.size
            group.size += 1
            call = inspect.signature(super().execute).bind(prompt, label, *args, **options).arguments
            return self._sample(group, index, call, super().execute)

        def _close_group(self) -> None:
            self._group = _Group()

        async def _sample(
            self, group: _Group, index: int, call: dict[str, Any], generate: Callable[..., Any]
        ) -> dict[str, Any]:
            trained = train_temperature in (None, call["sampling_params"].temperature)
            recorder = _Recorder(call["llm_engine"], self._entropies if trained else None)
            output: dict[str, Any] = await generate(**{**call, "llm_engine": recorder})
            response = recorder.text(call["hf_tokenizer"])
            correct = await self._decide(response, call["label"])
            reward, undecided = _reward(correct, undecided_reward)
            bonus, missing = 0.0, False
            name = prompt_id(call["prompt"])
            if trained:
                group.samples[index] = _Sample(recorder.token_ids, bool(correct), recorder.entropies)
                if self._entropies is not None and len(group.samples) == group.size:
                    await self._entropies.send_if_hard(name, group, call["hf_tokenizer"])
                bonus, missing = await self._bonus(group, index, name, bool(correct), response, recorder)
            logs = _logs(correct, bonus, missing, undecided)
            return output | {"reward": reward + novelty.alpha * bonus, "scores": reward, "extra_logs": logs}

        async def _bonus(
            self, group: _Group, index: int, name: str, correct: bool, text: str, recorder: "_Recorder"
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
    """
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
        try:
            score = client.collect_sample(
                name,
                f"{process}/{name}/{number}",
                group_size,
                index,
                correct,
                text=response,
                **novelty.collect_arguments(),
            )
        except ExtraError as failure:
            outage.tolerate(failure)
            bonus, missing = 0.0, True
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
        if sum(sample.correct for sample in samples) > 1:
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


def _deciding(verify: str | Verify) -> Callable[[str, str], Awaitable[bool | None]]:
    if isinstance(verify, str):
        client = aio.VerificationClient(verify)

        async def by_service(response: str, label: str) -> bool | None:
            return (await client.verify([response], [label]))[0].correct

        return by_service
    function: Callable[[str, str], Any] = verify

    async def by_function(response: str, label: str) -> bool | None:
        if is_missing(label):
            return None
        decided = function(response, label)
        if inspect.isawaitable(decided):
            decided = await decided
        return None if decided is None else bool(decided)

    return by_function


def _decided(verify: str | Callable[[str, str], bool | None]) -> Callable[[str, str], bool | None]:
    if not isinstance(verify, str):
        return lambda response, label: None if is_missing(label) else verify(response, label)
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


def _logs(correct: bool | None, novelty: float, missing: bool, undecided: bool) -> dict[str, float]:
    return {
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
