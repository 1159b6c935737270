"""The same clients for asyncio: the names and arguments of `extra_client`, with await and async iteration.

A client belongs to the event loop that first uses it; "embedded" starts the service then, in a thread.
"""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal, Self, TypeVar, Unpack, overload

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import ArrayLike, NDArray

from extra_client import (
    _generation,
    _novelty,
    _prefix,
    _sync,
    _transport,
    _verification,
    _weights,
    embedded,
    errors,
)
from extra_client._generation import (
    Event,
    GenerateOptions,
    GenerationInfo,
    InFlight,
    Prompt,
    PromptFailure,
    Rollout,
    TokenIds,
    WeightsUpdate,
)
from extra_client._novelty import (
    Group,
    GroupScores,
    ImportedNamespace,
    Metric,
    Namespace,
    NamespaceCopy,
    NamespaceSettings,
    NeighborQuery,
    Neighbors,
    PromptSummary,
    SampleOptions,
    SampleScore,
    Scale,
    ScoreMode,
)
from extra_client._prefix import (
    AddedPrefixes,
    ForgottenPrefixes,
    HardPrompt,
    Outcome,
    PromptPrefixes,
    SelectedPrefix,
    SelectionPolicy,
)
from extra_client._transport import Call, Service
from extra_client._verification import Method, Verdict, VerifyOptions
from extra_client.credentials import Credentials

Result = TypeVar("Result")
Id = TypeVar("Id")

__all__ = ["GenerationClient", "NoveltyClient", "PrefixClient", "VerificationClient"]


class _Client:
    """A connection to one service; closes with `close` or as an async context manager."""

    _service: Service

    def __init__(
        self,
        target: str,
        *,
        deadline: float | None = None,
        patience: float | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """As for the clients of extra_client; nothing is connected or started before first use."""
        self.target = target if target == "embedded" else _transport.address(target, self._service)
        self._deadline = deadline
        self._patience = patience
        self._credentials = credentials or Credentials.from_environment()
        self._embedded: embedded.EmbeddedService | None = None
        self._open: Any = None
        self._opening = asyncio.Lock()

    async def wait_for_ready(self, timeout: float = 60.0) -> None:
        """Returns once the server says that it serves; UnavailableError after `timeout` seconds."""
        until = time.monotonic() + timeout
        health = health_pb2_grpc.HealthStub(await self._channel())
        request = health_pb2.HealthCheckRequest(service=self._service.full_name)
        connected = False
        while (left := until - time.monotonic()) > 0:
            watch = health.Watch(request, timeout=left, wait_for_ready=True)
            try:
                async for response in watch:
                    connected = True
                    if response.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            except grpc.RpcError:
                # The deadline ends the loop; a connection that broke is made again.
                await asyncio.sleep(min(0.1, max(0.0, until - time.monotonic())))
            finally:
                watch.cancel()
        raise _transport.not_ready(self._service, self.target, timeout, connected)

    async def close(self) -> None:
        """Ends the connection and calls still running; an embedded service ends with its last client."""
        if self._open is not None:
            await self._open.close()
        if self._embedded:
            await asyncio.to_thread(embedded.release, self._embedded)
            self._embedded = None

    async def __aenter__(self) -> Self:
        await self._channel()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _channel(self) -> Any:
        async with self._opening:
            if self._open is None:
                if self.target == "embedded":
                    self._embedded = await asyncio.to_thread(embedded.acquire, self._service.server)
                    self.target = self._embedded.target
                self._open = _transport.open_channel(grpc.aio, self.target, self._service, self._credentials)
            return self._open

    async def _run(self, call: Call[Result], deadline: float | None) -> Result:
        method, attempt = await self._prepare(call, deadline)
        while True:
            try:
                return call.parse(await attempt.send(method))
            except grpc.RpcError as failure:
                pause = attempt.pause(failure)
            await asyncio.sleep(pause)

    async def _send(
        self, messages: Iterator[Any], make: Callable[[Any], Call[Result]], deadline: float | None
    ) -> Result:
        """Sends from a thread, over a connection of the blocking client's.

        Where a message is under way when the server ends the call, grpc.aio says "Internal error from Core"
        in the place of what the server said (grpc/grpc issue 36066).
        """
        # It knows the address of an embedded service.
        await self._channel()
        with _Blocking(self._service, self.target, self._deadline, self._credentials) as blocking:
            return await asyncio.to_thread(blocking._send, messages, make, deadline)

    async def _prepare(self, call: Call[Any], deadline: float | None) -> tuple[Any, _transport.Attempt]:
        method = getattr(call.service.stub(await self._channel()), call.rpc)
        deadline = self._deadline if deadline is None else deadline
        token = self._credentials.token
        return method, _transport.attempt(call, self.target, deadline, self._patience, token)


async def _events(attempt: _transport.Attempt, method: Any, responses: Any) -> AsyncIterator[Any]:
    try:
        while True:
            try:
                async for response in responses:
                    attempt.begun = True
                    yield attempt.call.parse(response)
                return
            except grpc.RpcError as failure:
                pause = attempt.pause(failure)
            await asyncio.sleep(pause)
            responses = attempt.send(method)
    finally:
        responses.cancel()


class _Source:
    """The messages of a call; keeps what their source raised, and its end, as the blocking client's does."""

    def __init__(self, messages: AsyncIterator[Any]) -> None:
        self._messages = messages
        #: The call that sends them; set before it first reads them.
        self.call: Any = None
        self.failure: Exception | None = None
        self.exhausted = False

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for message in self._messages:
                yield message
        except Exception as failure:
            self.failure = failure
            self.call.cancel()
            return
        self.exhausted = True


class _Blocking(_sync._Client):
    """A blocking connection to one service."""

    def __init__(
        self, service: Service, target: str, deadline: float | None, credentials: Credentials
    ) -> None:
        self._service = service
        super().__init__(target, deadline=deadline, credentials=credentials)


class GenerationClient(_Client):
    """Samples rollouts with exact token entropies."""

    _service = _transport.GENERATION

    async def generate(
        self,
        prompts: Sequence[Prompt],
        n: int,
        max_tokens: int,
        prefixes: Sequence[TokenIds | None] | None = None,
        seed: int | None = None,
        temperature: float = 1.0,
        *,
        deadline: float | None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[list[Rollout]]:
        """As extra_client.GenerationClient.generate."""
        call = _generation.generate(prompts, n, max_tokens, prefixes, seed, temperature, **options)
        gathered = _generation.Gathered(len(prompts), n)
        method, attempt = await self._prepare(call, deadline)
        async for event in _events(attempt, method, attempt.send(method)):
            _generation.raise_failure(event)
            gathered.add(event)
        gathered.check()
        return gathered.groups()

    @overload
    def generate_stream(
        self,
        prompts: Sequence[Prompt],
        n: int,
        max_tokens: int,
        prefixes: Sequence[TokenIds | None] | None = None,
        seed: int | None = None,
        temperature: float = 1.0,
        *,
        stream_tokens: Literal[False] = False,
        deadline: float | None = None,
        **options: Unpack[GenerateOptions],
    ) -> AsyncIterator[Rollout | PromptFailure]: ...

    @overload
    def generate_stream(
        self,
        prompts: Sequence[Prompt],
        n: int,
        max_tokens: int,
        prefixes: Sequence[TokenIds | None] | None = None,
        seed: int | None = None,
        temperature: float = 1.0,
        *,
        stream_tokens: bool,
        deadline: float | None = None,
        **options: Unpack[GenerateOptions],
    ) -> AsyncIterator[Event]: ...

    async def generate_stream(
        self,
        prompts: Sequence[Prompt],
        n: int,
        max_tokens: int,
        prefixes: Sequence[TokenIds | None] | None = None,
        seed: int | None = None,
        temperature: float = 1.0,
        *,
        stream_tokens: bool = False,
        deadline: float | None = None,
        **options: Unpack[GenerateOptions],
    ) -> AsyncIterator[Any]:
        """As extra_client.GenerationClient.generate_stream; generation starts with the first iteration."""
        call = _generation.generate(
            prompts, n, max_tokens, prefixes, seed, temperature, stream_tokens=stream_tokens, **options
        )
        gathered = _generation.Gathered(len(prompts), n)
        method, attempt = await self._prepare(call, deadline)
        async for event in _events(attempt, method, attempt.send(method)):
            gathered.add(event)
            yield event
        gathered.check()

    async def update_weights(
        self,
        path: str | PurePath,
        policy_version: int,
        in_flight: InFlight | str = InFlight.WAIT,
        *,
        deadline: float | None = None,
    ) -> WeightsUpdate:
        """As extra_client.GenerationClient.update_weights."""
        return await self._run(_generation.update_weights(path, policy_version, in_flight), deadline)

    async def stream_weights(
        self,
        tensors: Mapping[str, Any] | Iterable[tuple[str, Any]],
        policy_version: int,
        in_flight: InFlight | str = InFlight.WAIT,
        *,
        deadline: float | None = None,
    ) -> WeightsUpdate:
        """As extra_client.GenerationClient.stream_weights."""
        messages = _weights.messages(tensors, policy_version, in_flight)
        return await self._send(messages, _generation.stream_weights, deadline)

    async def get_info(self, *, deadline: float | None = None) -> GenerationInfo:
        """As extra_client.GenerationClient.get_info."""
        return await self._run(_generation.get_info(), deadline)

    async def check_vocabulary(self, vocabulary: Mapping[str, int], *, deadline: float | None = None) -> None:
        """As extra_client.GenerationClient.check_vocabulary."""
        _generation.check_vocabulary(await self.get_info(deadline=deadline), vocabulary)


class VerificationClient(_Client):
    """Decides whether responses are right."""

    _service = _transport.VERIFICATION

    async def verify(
        self,
        responses: Sequence[str],
        answers: Sequence[str],
        *,
        method: Method | str = Method.MATH,
        options: VerifyOptions | None = None,
        timeout_seconds: float | None = None,
        deadline: float | None = None,
    ) -> list[Verdict]:
        """As extra_client.VerificationClient.verify."""
        return await self._run(
            _verification.verify(responses, answers, method, options, timeout_seconds), deadline
        )

    async def verify_stream(
        self,
        items: AsyncIterable[tuple[Id, str, str]],
        *,
        method: Method | str = Method.MATH,
        options: VerifyOptions | None = None,
        timeout_seconds: float | None = None,
        deadline: float | None = None,
    ) -> AsyncIterator[tuple[Id, Verdict]]:
        """As extra_client.VerificationClient.verify_stream; `items` is read in a task of its own."""
        stream: _verification.Stream[Id] = _verification.Stream(method, options, timeout_seconds)
        source = _Source(stream.request(item) async for item in items)
        call = stream.call(aiter(source))
        rpc, attempt = await self._prepare(call, deadline)
        source.call = attempt.send(rpc)
        try:
            async for verdict in _events(attempt, rpc, source.call):
                yield verdict
        except (asyncio.CancelledError, errors.ExtraError):
            if source.failure:
                raise source.failure from None
            raise
        stream.check(source.exhausted)


class _NamespaceClient(_Client):
    """A client whose calls are in one namespace, which it creates on first use."""

    def __init__(
        self,
        target: str,
        namespace: str,
        settings: NamespaceSettings | None = None,
        *,
        deadline: float | None = None,
        patience: float | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """As for the clients of extra_client; nothing is connected or started before first use."""
        super().__init__(target, deadline=deadline, patience=patience, credentials=credentials)
        self.namespace = namespace
        self._settings = settings
        self._created = False

    async def _run_inside(self, call: Call[Result], deadline: float | None) -> Result:
        if not self._created:
            await self._create(deadline)
        return await self._run(call, deadline)

    async def _create(self, deadline: float | None) -> None:
        try:
            await self._run(_novelty.create_namespace(self.namespace, self._settings), deadline)
        except (errors.FailedPreconditionError, errors.PermissionDeniedError):
            # It exists with other settings; or the token may only read, and it may exist.
            if self._settings is not None:
                raise
        self._created = True


class NoveltyClient(_NamespaceClient):
    """Scores how far solutions lie from those already known for their prompt."""

    _service = _transport.NOVELTY

    async def score(
        self,
        prompt_id: str,
        *,
        texts: Sequence[str] | None = None,
        embeddings: ArrayLike | None = None,
        correct: Sequence[bool | None] | NDArray[np.bool_],
        token_ids: Sequence[ArrayLike] | None = None,
        sequence_logprobs: ArrayLike | None = None,
        metric: Metric | str = Metric.EMBEDDING,
        scale: Scale | str = Scale.RAW,
        mode: ScoreMode | str = ScoreMode.SCORE_AND_REMEMBER,
        idempotency_key: str | None = None,
        deadline: float | None = None,
    ) -> NDArray[np.float32]:
        """As extra_client.NoveltyClient.score."""
        group = Group(
            prompt_id=prompt_id,
            texts=texts,
            embeddings=embeddings,
            correct=correct,
            token_ids=token_ids,
            sequence_logprobs=sequence_logprobs,
        )
        call = _novelty.score_groups(self.namespace, [group], metric, mode, idempotency_key, scale)
        return _novelty.only(await self._run_inside(call, deadline))

    async def score_groups(
        self,
        groups: Sequence[Group],
        *,
        metric: Metric | str = Metric.EMBEDDING,
        scale: Scale | str = Scale.RAW,
        mode: ScoreMode | str = ScoreMode.SCORE_AND_REMEMBER,
        explain: bool = False,
        track_reward_variance: bool = False,
        vendi: bool = False,
        idempotency_key: str | None = None,
        deadline: float | None = None,
    ) -> list[GroupScores]:
        """As extra_client.NoveltyClient.score_groups."""
        call = _novelty.score_groups(
            self.namespace,
            groups,
            metric,
            mode,
            idempotency_key,
            scale,
            explain,
            track_reward_variance,
            vendi,
        )
        return await self._run_inside(call, deadline)

    async def collect_sample(
        self,
        prompt_id: str,
        group_id: str,
        group_size: int,
        index: int,
        correct: bool | None,
        *,
        deadline: float | None = None,
        **options: Unpack[SampleOptions],
    ) -> SampleScore:
        """As extra_client.NoveltyClient.collect_sample."""
        call = _novelty.collect_sample(
            self.namespace, prompt_id, group_id, group_size, index, correct, **options
        )
        return await self._run_inside(call, deadline)

    async def query_neighbors(
        self, queries: Sequence[NeighborQuery], k: int = 1, *, deadline: float | None = None
    ) -> list[Neighbors]:
        """As extra_client.NoveltyClient.query_neighbors."""
        return await self._run(_novelty.query_neighbors(self.namespace, queries, k), deadline)

    async def create_namespace(self, *, deadline: float | None = None) -> NamespaceSettings:
        """As extra_client.NoveltyClient.create_namespace."""
        settings = await self._run(_novelty.create_namespace(self.namespace, self._settings), deadline)
        self._created = True
        return settings

    async def describe(self, *, deadline: float | None = None) -> Namespace:
        """As extra_client.NoveltyClient.describe."""
        return await self._run(_novelty.describe_namespace(self.namespace), deadline)

    async def copy_to(
        self, destination: str, *, replace: bool = False, deadline: float | None = None
    ) -> NamespaceCopy:
        """As extra_client.NoveltyClient.copy_to."""
        return await self._run(_novelty.copy_namespace(self.namespace, destination, replace), deadline)

    async def delete(self, *, deadline: float | None = None) -> bool:
        """As extra_client.NoveltyClient.delete."""
        existed = await self._run(_novelty.delete_namespace(self.namespace), deadline)
        self._created = False
        return existed

    async def list_namespaces(self, *, deadline: float | None = None) -> list[str]:
        """As extra_client.NoveltyClient.list_namespaces."""
        return await self._run(_novelty.list_namespaces(), deadline)

    async def list_prompts(
        self, *, page_size: int = 1000, deadline: float | None = None
    ) -> AsyncIterator[PromptSummary]:
        """As extra_client.NoveltyClient.list_prompts."""
        token, more = "", True
        while more:
            page, token = await self._run(_novelty.list_prompts(self.namespace, page_size, token), deadline)
            for prompt in page:
                yield prompt
            more = bool(token)

    async def delete_prompts(self, prompt_ids: Sequence[str], *, deadline: float | None = None) -> list[bool]:
        """As extra_client.NoveltyClient.delete_prompts."""
        return await self._run(_novelty.delete_prompts(self.namespace, prompt_ids), deadline)

    async def export_to(self, path: str | PurePath, *, deadline: float | None = None) -> None:
        """As extra_client.NoveltyClient.export_to."""
        call = _novelty.export_namespace(self.namespace)
        method, attempt = await self._prepare(call, deadline)
        with _novelty.replacing(Path(path)) as file:
            async for chunk in _events(attempt, method, attempt.send(method)):
                await asyncio.to_thread(file.write, chunk)

    async def import_from(
        self, path: str | PurePath, *, replace: bool = False, deadline: float | None = None
    ) -> ImportedNamespace:
        """As extra_client.NoveltyClient.import_from."""
        messages = _novelty.import_messages(self.namespace, Path(path), replace)
        imported = await self._send(messages, _novelty.import_namespace, deadline)
        self._created = True
        return imported


class PrefixClient(_NamespaceClient):
    """Keeps partial solutions of hard prompts, picks those to continue from; in the novelty server."""

    _service = _transport.PREFIX

    async def add_rollouts(
        self,
        prompts: Sequence[HardPrompt],
        newline_token_ids: Iterable[int],
        *,
        min_segment_tokens: int | None = None,
        idempotency_key: str | None = None,
        deadline: float | None = None,
    ) -> list[AddedPrefixes]:
        """As extra_client.PrefixClient.add_rollouts."""
        return await self._run_inside(
            _prefix.add_rollouts(
                self.namespace, prompts, newline_token_ids, min_segment_tokens, idempotency_key
            ),
            deadline,
        )

    async def select(
        self,
        prompt_ids: Sequence[str],
        policy: SelectionPolicy | str = SelectionPolicy.SMOOTHED_ENTROPY,
        *,
        tau: float | None = None,
        seed: int = 0,
        explain: bool = False,
        exploration: float | None = None,
        drop_after: int | None = None,
        deadline: float | None = None,
    ) -> list[SelectedPrefix]:
        """As extra_client.PrefixClient.select."""
        call = _prefix.select(self.namespace, prompt_ids, policy, tau, seed, explain, exploration, drop_after)
        return await self._run_inside(call, deadline)

    async def report_outcomes(
        self,
        outcomes: Sequence[Outcome],
        *,
        idempotency_key: str | None = None,
        deadline: float | None = None,
    ) -> list[errors.ExtraError | None]:
        """As extra_client.PrefixClient.report_outcomes."""
        return await self._run_inside(
            _prefix.report_outcomes(self.namespace, outcomes, idempotency_key), deadline
        )

    async def list_prefixes(
        self, prompt_ids: Sequence[str], *, deadline: float | None = None
    ) -> list[PromptPrefixes]:
        """As extra_client.PrefixClient.list_prefixes."""
        return await self._run(_prefix.list_prefixes(self.namespace, prompt_ids), deadline)

    async def forget_prefixes(
        self, prompts: Sequence[ForgottenPrefixes], *, deadline: float | None = None
    ) -> list[int]:
        """As extra_client.PrefixClient.forget_prefixes."""
        return await self._run(_prefix.forget_prefixes(self.namespace, prompts), deadline)
