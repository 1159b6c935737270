"""The same clients for asyncio: the names and arguments of `extra_client`, with await and async iteration.

A client belongs to the event loop that first uses it; "embedded" starts the service then, in a thread.

This module is also the source of the blocking clients: scripts/make_client.py leaves out `async` and `await`,
and takes `_sync_base` in the place of `_aio_base`. Everything that really differs is in these two.
"""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from extra_client import (
    _aio_base,
    _generation,
    _namespace,
    _novelty,
    _prefix,
    _transport,
    _verification,
    _weights,
    errors,
)
from extra_client._generation import (
    Event,
    GenerateOptions,
    GenerationInfo,
    Prompt,
    PromptError,
    Rollout,
    TokenIds,
    WeightsUpdate,
)
from extra_client._namespace import (
    ImportedNamespace,
    Namespace,
    NamespaceCopy,
    NamespaceInfo,
    NamespaceSettings,
    PromptSummary,
)
from extra_client._novelty import (
    EmbeddedTexts,
    Group,
    GroupScores,
    NeighborQuery,
    Neighbors,
    NoveltyInfo,
    SampleOptions,
    SampleScore,
)
from extra_client._prefix import (
    AddedPrefixes,
    ForgottenPrefixes,
    HardPrompt,
    Outcome,
    PrefixInfo,
    PromptPrefixes,
    SelectedPrefix,
)
from extra_client._transport import Call
from extra_client._verification import Reference, Verdict, VerificationInfo, VerifyOptions
from extra_client.credentials import Credentials
from extra_rl.vocabulary import InFlight, Method, Metric, OutcomeScope, Scale, ScoreMode, SelectionPolicy

Result = TypeVar("Result")
Id = TypeVar("Id")

__all__ = ["GenerationClient", "NamespaceClient", "NoveltyClient", "PrefixClient", "VerificationClient"]


class GenerationClient(_aio_base.Client):
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
        """Sample n rollouts of each prompt.

        Args:
            prompts: Texts, token ids, or conversations for the model's chat template.
            n: Rollouts of each prompt.
            max_tokens: Most new tokens of a rollout.
            prefixes: For each prompt the token ids of a partial response that generation continues, or None.
            seed: The same seed, prompts and weights give the same tokens. None: the server draws one.
            temperature: Of sampling, at least 0.01; 0 is greedy.
            deadline: Seconds the call may take; None: the client's.
            **options: The fields of GenerateOptions: top_p, top_k, min_p, min_tokens, stop_token_ids,
                stop_strings, min_policy_version, raw_entropies, segment_entropies, truncated,
                prompt_logprobs, seed_indices, max_tokens_per_prompt.

        Returns:
            The rollouts in order: `result[i][j]` is the j-th of `prompts[i]`.

        Raises:
            ExtraError: The call failed, or a prompt was refused; it is the error of the first one refused.
                `generate_stream` yields the rollouts of the other prompts.
        """
        call = _generation.generate(prompts, n, max_tokens, prefixes, seed, temperature, **options)
        gathered = _generation.Gathered(len(prompts), n)
        async for event in self._stream(call, deadline):
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
    ) -> AsyncGenerator[Rollout | PromptError]: ...

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
    ) -> AsyncGenerator[Event]: ...

    def generate_stream(
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
    ) -> AsyncGenerator[Any]:
        """As `generate`, but yield each rollout as it finishes, and a PromptError for each refused prompt.

        Generation starts with the call (asyncio: with the first iteration). Closing the iterator, or dropping
        it, stops the work in the server.

        Args:
            prompts: As in `generate`.
            n: Rollouts of each prompt.
            max_tokens: Most new tokens of a rollout.
            prefixes: Partial responses to continue.
            seed: Of sampling.
            temperature: Of sampling.
            stream_tokens: Also yield each SampledToken as it is drawn.
            deadline: Seconds the call may take; None: the client's.
            **options: As in `generate`.

        Raises:
            ExtraError: The call failed, or the server ended the stream before all rollouts came.
        """
        call = _generation.generate(
            prompts, n, max_tokens, prefixes, seed, temperature, stream_tokens=stream_tokens, **options
        )
        return _checked(_generation.Gathered(len(prompts), n), self._stream(call, deadline))

    async def update_weights(
        self,
        path: str | PurePath,
        policy_version: int,
        in_flight: InFlight | str = InFlight.WAIT,
        *,
        deadline: float | None = None,
    ) -> WeightsUpdate:
        """Put the weights of a Hugging Face folder (safetensors) into service.

        Args:
            path: Folder, relative to the server's weights root.
            policy_version: Version of the new weights. If it is served already, nothing is done.
            in_flight: What happens to samples that are being generated.
            deadline: Seconds the call may take; None: the client's.
        """
        return await self._run(_generation.update_weights(path, policy_version, in_flight), deadline)

    async def stream_weights(
        self,
        tensors: Mapping[str, Any] | Iterable[tuple[str, Any]],
        policy_version: int,
        in_flight: InFlight | str = InFlight.WAIT,
        *,
        deadline: float | None = None,
    ) -> WeightsUpdate:
        """As `update_weights`, but send the tensors, so that no shared disk is needed.

        Args:
            tensors: All tensors of the model, numpy or torch, under the names of its safetensors files
                (`model.state_dict()` without tied duplicates), float32, bfloat16 or float16. A generator is
                read in a thread of its own, one tensor at a time.
            policy_version: Version of the new weights. If it is served already, nothing is done.
            in_flight: What happens to samples that are being generated.
            deadline: Seconds the call may take; None: the client's.
        """
        messages = _weights.messages(tensors, policy_version, in_flight)
        return await self._send(messages, _generation.stream_weights, deadline)

    async def get_info(self, *, deadline: float | None = None) -> GenerationInfo:
        """Return the engine, model and limits of the server."""
        return await self._run(_generation.get_info(), deadline)

    async def check_vocabulary(self, vocabulary: Mapping[str, int], *, deadline: float | None = None) -> None:
        """Check that the server's vocabulary is yours.

        Args:
            vocabulary: Token -> id, as `tokenizer.get_vocab()` returns it.
            deadline: Seconds the call may take; None: the client's.

        Raises:
            FailedPreconditionError: It is another one: token ids would mean other texts.
        """
        _generation.check_vocabulary(await self.get_info(deadline=deadline), vocabulary)


async def _checked(gathered: _generation.Gathered, events: AsyncIterator[Event]) -> AsyncGenerator[Event]:
    async for event in events:
        gathered.add(event)
        yield event
    gathered.check()


class VerificationClient(_aio_base.Client):
    """Decides whether responses are correct."""

    _service = _transport.VERIFICATION

    async def verify(
        self,
        responses: Sequence[str],
        answers: Sequence[Reference],
        *,
        method: Method | str = Method.MATH,
        options: VerifyOptions | None = None,
        timeout_seconds: float | None = None,
        deadline: float | None = None,
    ) -> list[Verdict]:
        """Compare each response with the reference answer at its place.

        Args:
            responses: Texts.
            answers: One for each response: a text, a number, a list of these (VerifyOptions.references), or
                for Method.CODE a mapping with the tests. A missing one (None, NaN, an empty text or list,
                "None", "nan") is UNPARSEABLE on the side of the answer, which is undecided.
            method: How they are compared.
            options: Conventions of the comparison; None: the defaults.
            timeout_seconds: Most seconds of execution of each item; None: the server's limit.
            deadline: Seconds the call may take; None: the client's.

        Returns:
            One verdict for each response, in order. A response that is no valid text is UNPARSEABLE; one that
            is None or too long is an ERROR. Their neighbours get their verdicts.
        """
        return await self._run(
            _verification.verify(responses, answers, method, options, timeout_seconds), deadline
        )

    def verify_stream(
        self,
        items: AsyncIterable[tuple[Id, str, Reference]],
        *,
        method: Method | str = Method.MATH,
        options: VerifyOptions | None = None,
        timeout_seconds: float | None = None,
        deadline: float | None = None,
    ) -> AsyncGenerator[tuple[Id, Verdict]]:
        """Verify items as they come, and yield each verdict as it is decided.

        `items` is read in a thread (asyncio: a task) of its own. It may wait, for example for generation;
        verdicts of earlier items come meanwhile. While the server's queue is full it takes no more items:
        keep reading the verdicts.

        Args:
            items: (id, response, answer); ids are any objects, responses and answers are as in `verify`.
            method: How they are compared.
            options: Conventions of the comparison; None: the defaults.
            timeout_seconds: Most seconds of execution of each item; None: the server's limit.
            deadline: Seconds the call may take; None: the client's.

        Yields:
            (id, verdict), in the order of decision.

        Raises:
            ExtraError: The call failed. An exception that `items` raises is raised as it is.
        """
        stream: _verification.Stream[Id] = _verification.Stream(method, options, timeout_seconds)
        requests = (stream.request(item) async for item in items)
        return self._exchange(requests, stream.call, stream.check, deadline)

    async def get_info(self, *, deadline: float | None = None) -> VerificationInfo:
        """Return version, verifiers and limits of the service."""
        return await self._run(_verification.get_info(), deadline)


class NamespaceClient(_aio_base.Client):
    """Administers a namespace with its solutions and prefixes; in the novelty server.

    NoveltyClient and PrefixClient create their namespace on first use; this client does only what its methods
    say.
    """

    _service = _transport.NAMESPACE

    def __init__(
        self,
        target: str,
        namespace: str,
        *,
        deadline: float | None = None,
        patience: float | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """Take `target`, `deadline`, `patience` and `credentials` as every client; connect when first used.

        `namespace` need not exist.
        """
        super().__init__(target, deadline=deadline, patience=patience, credentials=credentials)
        self.namespace = namespace

    async def create(
        self, settings: NamespaceSettings | None = None, *, deadline: float | None = None
    ) -> NamespaceSettings:
        """Create the namespace; return its settings with the defaults filled in.

        Creating it again with the same settings changes nothing.

        Raises:
            FailedPreconditionError: It exists with other settings.
        """
        return await self._run(_namespace.create_namespace(self.namespace, settings), deadline)

    async def describe(self, *, deadline: float | None = None) -> Namespace:
        """Return settings and sizes of the namespace.

        Raises:
            NotFoundError: It does not exist.
        """
        return await self._run(_namespace.describe_namespace(self.namespace), deadline)

    async def copy_to(
        self, destination: str, *, replace: bool = False, deadline: float | None = None
    ) -> NamespaceCopy:
        """Copy the namespace to `destination`, as of one moment: a snapshot.

        Raises:
            NotFoundError: It does not exist.
            AlreadyExistsError: `destination` exists, and `replace` is false.
        """
        return await self._run(_namespace.copy_namespace(self.namespace, destination, replace), deadline)

    async def delete(self, *, deadline: float | None = None) -> bool:
        """Delete the namespace with all its entries; return whether it existed."""
        return await self._run(_namespace.delete_namespace(self.namespace), deadline)

    async def list_namespaces(self, *, deadline: float | None = None) -> list[str]:
        """Return the names of all namespaces of the server, sorted."""
        return await self._run(_namespace.list_namespaces(), deadline)

    async def list_prompts(
        self, *, page_size: int = 1000, deadline: float | None = None
    ) -> AsyncIterator[PromptSummary]:
        """Yield the prompts of the namespace, in order of their ids; pages are fetched as they are read."""
        token, more = "", True
        while more:
            page, token = await self._run(_namespace.list_prompts(self.namespace, page_size, token), deadline)
            for prompt in page:
                yield prompt
            more = bool(token)

    async def delete_prompts(self, prompt_ids: Sequence[str], *, deadline: float | None = None) -> list[bool]:
        """Delete all solutions and prefixes of prompts; return for each whether anything was stored."""
        return await self._run(_namespace.delete_prompts(self.namespace, prompt_ids), deadline)

    async def export_to(self, path: str | PurePath, *, deadline: float | None = None) -> None:
        """Write the namespace to a Parquet file, without idempotency keys.

        Each prompt is consistent; for a state of one moment, copy the namespace first and export the copy.
        """
        with _namespace.replacing(Path(path)) as file:
            async for chunk in self._stream(_namespace.export_namespace(self.namespace), deadline):
                await self._write(file, chunk)

    async def import_from(
        self, path: str | PurePath, *, replace: bool = False, deadline: float | None = None
    ) -> ImportedNamespace:
        """Make the namespace from a file that `export_to` wrote.

        Raises:
            AlreadyExistsError: The namespace exists, and `replace` is false.
        """
        messages = _namespace.import_messages(self.namespace, Path(path), replace)
        return await self._send(messages, _namespace.import_namespace, deadline)

    async def get_info(self, *, deadline: float | None = None) -> NamespaceInfo:
        """Return version and limits of the service."""
        return await self._run(_namespace.get_info(), deadline)


class _ClientInNamespace(_aio_base.Client):
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
        """Make a client for one namespace; nothing of it is created yet.

        Args:
            target: host:port, unix:path, dns:///name or "embedded", as for every client.
            namespace: Separates runs. It is created on first use.
            settings: Of the namespace if it is new; an existing one with other settings is a
                FailedPreconditionError. None: a new one gets the defaults, an existing one is used as it is.
            deadline: Seconds a call may take.
            patience: Seconds for which calls are sent again while no server answers.
            credentials: Token and TLS files.
        """
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
            await self._run(_namespace.create_namespace(self.namespace, self._settings), deadline)
        except (errors.FailedPreconditionError, errors.PermissionDeniedError):
            # It exists with other settings; or the token may only read, and it may exist.
            if self._settings is not None:
                raise
        self._created = True


class NoveltyClient(_ClientInNamespace):
    """Scores how far solutions are from those already known for their prompt."""

    _service = _transport.NOVELTY

    async def score(
        self,
        prompt_id: str,
        *,
        texts: Sequence[str | None] | None = None,
        embeddings: ArrayLike | None = None,
        correct: Sequence[bool | None] | NDArray[np.bool_],
        token_ids: Sequence[ArrayLike] | None = None,
        sequence_logprobs: ArrayLike | None = None,
        answers: Sequence[str | None] | None = None,
        problem: str = "",
        reference_answer: str = "",
        metric: Metric | str = Metric.EMBEDDING,
        scale: Scale | str = Scale.RAW,
        mode: ScoreMode | str = ScoreMode.SCORE_AND_REMEMBER,
        outcome_scope: OutcomeScope | str = OutcomeScope.WRONG,
        ignore_history: bool = False,
        idempotency_key: str | None = None,
        deadline: float | None = None,
    ) -> NDArray[np.float32]:
        """Score the n rollouts of one prompt; then remember those that count.

        Give `texts`, or `embeddings` of your own; for Metric.OUTCOME `answers` are enough.

        Args:
            prompt_id: Identity of the prompt.
            texts: The responses; None is one without a text, which scores 0.
            embeddings: Reals [n, dimension], in the place of texts; a torch tensor on any device too.
            correct: Whether each is correct: bools, no rewards. The others score 0, or for Metric.OUTCOME
                they alone score. None (undecided) counts as not correct; Metric.OUTCOME leaves it out.
            token_ids: Integers [length] for each response, for Metric.NGRAM_COUNT.
            sequence_logprobs: Reals [n], in nats, for Metric.POLICY_SURPRISE.
            answers: n final answers, as Verdict.final_answer has them, None or empty for a missing
                one, for Metric.OUTCOME.
            problem: Text of the problem, for Metric.DERIVATION: its numbers are no steps of a solution.
            reference_answer: The reference answer, likewise.
            metric: How novelty is measured.
            scale: What the novelties are divided by.
            mode: Whether to score, to remember, or both.
            outcome_scope: Rollouts that Metric.OUTCOME counts and scores.
            ignore_history: Metric.OUTCOME scores by the counts within the group alone.
            idempotency_key: Names this write: the same key again returns the first answer and changes
                nothing. None draws one, so that retries inside this call are safe; after a crash only your
                own key is.
            deadline: Seconds the call may take; None: the client's.

        Returns:
            float32 [n]: the novelties; all 0 until the prompt has `min_history` solutions. 0 for a suspicious
            rollout too; `score_groups` returns the reason.
        """
        group = Group(
            prompt_id=prompt_id,
            texts=texts,
            embeddings=embeddings,
            correct=correct,
            token_ids=token_ids,
            sequence_logprobs=sequence_logprobs,
            answers=answers,
            problem=problem,
            reference_answer=reference_answer,
        )
        call = _novelty.score_groups(
            self.namespace,
            [group],
            metric,
            mode,
            idempotency_key,
            scale,
            outcome_scope=outcome_scope,
            ignore_history=ignore_history,
        )
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
        outcome_scope: OutcomeScope | str = OutcomeScope.WRONG,
        ignore_history: bool = False,
        idempotency_key: str | None = None,
        deadline: float | None = None,
    ) -> list[GroupScores]:
        """Score several groups; a refused group carries its error and affects no other.

        Args:
            groups: Rollouts of one prompt each.
            metric: How novelty is measured.
            scale: What the novelties are divided by.
            mode: Whether to score, to remember, or both.
            explain: Also return each rollout's nearest neighbour, for Metric.DERIVATION also its new steps,
                or how often its answer was given (Metric.OUTCOME).
            track_reward_variance: Keep a moving average of the variance of each prompt's rewards, and return
                it.
            vendi: Also return the number of distinct solutions of each group (Vendi score).
            outcome_scope: Rollouts that Metric.OUTCOME counts and scores.
            ignore_history: Metric.OUTCOME scores by the counts within the group alone.
            idempotency_key: Names this write: the same key again returns the first answer and changes
                nothing. None draws one, so that retries inside this call are safe; after a crash only your
                own key is.
            deadline: Seconds the call may take; None: the client's.

        Returns:
            Scores of each group, in order.
        """
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
            outcome_scope,
            ignore_history,
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
        """Send one rollout of a group and wait for its score, for trainers that reward sample by sample.

        Returns once `group_size` samples of the group have come, from any thread, process or machine, or when
        the group's `wait_seconds` are over. The same sample sent again gets the same answer.

        Args:
            prompt_id: Identity of the prompt.
            group_id: Name of the group, unique in the namespace.
            group_size: Samples of the group.
            index: The sample's place in the group, from 0.
            correct: Whether it is correct; None: undecided.
            deadline: Seconds the call may take; None: the client's.
            **options: The fields of SampleOptions: text or embedding, token_ids, sequence_logprob, answer,
                problem, reference_answer, metric, scale, outcome_scope, ignore_history, wait_seconds.
        """
        call = _novelty.collect_sample(
            self.namespace, prompt_id, group_id, group_size, index, correct, **options
        )
        return await self._run_inside(call, deadline)

    async def query_neighbors(
        self, queries: Sequence[NeighborQuery], k: int = 1, *, deadline: float | None = None
    ) -> list[Neighbors]:
        """Return the k stored solutions of its prompt most similar to each query; changes nothing.

        Args:
            queries: Texts or embeddings, each with its prompt.
            k: Most solutions for each.
            deadline: Seconds the call may take; None: the client's.
        """
        return await self._run(_novelty.query_neighbors(self.namespace, queries, k), deadline)

    async def embed(
        self,
        texts: Sequence[str],
        *,
        return_vectors: bool = False,
        metric: Metric | str = Metric.EMBEDDING,
        problems: Sequence[str] = (),
        reference_answers: Sequence[str] = (),
        deadline: float | None = None,
    ) -> EmbeddedTexts:
        """Embed texts and keep their vectors in the server's cache, so that scoring them later is fast.

        Nothing is stored in the namespace; its settings decide which part of a text is embedded.

        Args:
            texts: Texts of rollouts.
            return_vectors: Also return the vectors.
            metric: Metric that will score the texts. Metric.DERIVATION embeds what belongs to the solution.
            problems: Problem of each text, or none; for Metric.DERIVATION, as it will be sent with the group.
            reference_answers: Reference answer of each text, or none; likewise.
            deadline: Seconds the call may take.

        Returns:
            The vectors if asked for, an error for each text that is empty, suspicious (Metric.DERIVATION) or
            too long, and how many texts the model embedded.
        """
        call = _novelty.embed(self.namespace, texts, return_vectors, metric, problems, reference_answers)
        return await self._run_inside(call, deadline)

    async def get_info(self, *, deadline: float | None = None) -> NoveltyInfo:
        """Return version, embedding model and limits of the service."""
        return await self._run(_novelty.get_info(), deadline)


class PrefixClient(_ClientInNamespace):
    """Keeps partial solutions of hard prompts and selects those to continue; in the novelty server."""

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
        """Split the most confident rollout of each prompt at its newlines and store the prefixes.

        Args:
            prompts: Hard prompts with their rollouts.
            newline_token_ids: Ids of the tokens whose text has a newline.
            min_segment_tokens: Boundaries closer than this are merged; None: 32.
            idempotency_key: Names this write: the same key again returns the first answer and changes
                nothing. None draws one, so that retries inside this call are safe; after a crash only your
                own key is.
            deadline: Seconds the call may take; None: the client's.

        Returns:
            What was stored of each prompt, in order. A refused prompt carries its error.
        """
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
        """Return for each prompt the prefix to continue.

        Args:
            prompt_ids: Identities of the prompts.
            policy: How a prefix is chosen.
            tau: Temperature of the smoothing of entropies; None: 0.1.
            seed: Of the policy RANDOM.
            explain: Also return all candidates of each prompt, ranked.
            exploration: Of the policy OUTCOME_AWARE: weight of the confidence bound; None: 0.5.
            drop_after: Of the policy OUTCOME_AWARE: rollouts without a success after which a prefix is
                dropped; default 16.
            deadline: Seconds the call may take; None: the client's.

        Returns:
            One for each prompt, in order; where no prefix is stored it carries a NotFoundError.
        """
        call = _prefix.select(self.namespace, prompt_ids, policy, tau, seed, explain, exploration, drop_after)
        return await self._run_inside(call, deadline)

    async def report_outcomes(
        self,
        outcomes: Sequence[Outcome],
        *,
        idempotency_key: str | None = None,
        deadline: float | None = None,
    ) -> list[errors.ExtraError | None]:
        """Record the outcomes of groups that continued from a prefix.

        Args:
            outcomes: One for each group.
            idempotency_key: Names this write: the same key again returns the first answer and changes
                nothing. None draws one, so that retries inside this call are safe; after a crash only your
                own key is.
            deadline: Seconds the call may take; None: the client's.

        Returns:
            For each outcome None, or a NotFoundError if its prefix is gone.
        """
        return await self._run_inside(
            _prefix.report_outcomes(self.namespace, outcomes, idempotency_key), deadline
        )

    async def list_prefixes(
        self, prompt_ids: Sequence[str], *, deadline: float | None = None
    ) -> list[PromptPrefixes]:
        """Return the stored prefixes of each prompt, with their outcomes."""
        return await self._run(_prefix.list_prefixes(self.namespace, prompt_ids), deadline)

    async def forget_prefixes(
        self, prompts: Sequence[ForgottenPrefixes], *, deadline: float | None = None
    ) -> list[int]:
        """Forget prefixes of prompts.

        Args:
            prompts: Which prefixes of which prompts. One that is not stored is no error.
            deadline: Seconds the call may take; None: the client's.

        Returns:
            For each prompt how many were forgotten.
        """
        return await self._run(_prefix.forget_prefixes(self.namespace, prompts), deadline)

    async def get_info(self, *, deadline: float | None = None) -> PrefixInfo:
        """Return version, embedding model and limits of the service."""
        return await self._run(_prefix.get_info(), deadline)
