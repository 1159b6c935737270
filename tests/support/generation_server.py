"""A generation server in its own process, requests for it, and assertions about its rollouts."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from extra_rl.v1 import generation_pb2 as pb
from extra_rl.v1 import generation_pb2_grpc
from support.generation_models import make_model_repeat
from support.processes import wait_for

#: Prompts of different lengths.
MIXED = ["1+2=", "what is (3*4)-5", "a", "let x = 17.\nthen 2*x is", "0"]


@dataclass
class Served:
    """A running generation server and its model."""

    stub: generation_pb2_grpc.GenerationServiceStub
    address: str
    model: Path
    #: Its weights root.
    root: Path
    process: subprocess.Popen[bytes]
    #: Its log file.
    log: Path


def command(folder: Path, model: Path, *flags: str) -> list[str]:
    """Return the command that serves `model` on a socket in `folder`, with a weights root there."""
    files = ["--host", f"unix:{folder}/socket", "--address-file", f"{folder}/address"]
    files += ["--model", str(model), "--weights-root", f"{folder}/weights"]
    ends = ["--drain-seconds", "0", "--stop-with-stdin"]
    return [sys.executable, "-m", "extra_cli", "serve", "generation", *files, "--threads", "1", *ends, *flags]


@contextmanager
def served(
    folder: Path, model: Path, *flags: str, environment: dict[str, str] | None = None
) -> Iterator[Served]:
    """Serve `model` for the duration of the context; the server logs to `folder`/log."""
    root, address, log = folder / "weights", folder / "address", folder / "log"
    root.mkdir()
    with log.open("w") as output:
        process = subprocess.Popen(
            command(folder, model, *flags),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
    try:
        wait_for(lambda: address.exists() or process.poll() is not None, "the server does not start")
        assert process.poll() is None, f"the server ended while starting:\n{log.read_text()[-5000:]}"
        with grpc.insecure_channel(address.read_text()) as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            yield Served(stub, address.read_text(), model, root, process, log)
    finally:
        process.terminate()
        process.wait()


def ids(values: list[int]) -> bytes:
    """Return `values` as little-endian int32 bytes."""
    return np.array(values, "<i4").tobytes()


def prompt(text: str, prefix: list[int] | None = None) -> pb.Prompt:
    """Return a prompt of text that resumes after the token ids `prefix`."""
    return pb.Prompt(text=text, prefix_token_ids=ids(prefix or []))


def request(
    prompts: list[pb.Prompt], n: int = 1, seed: int | None = 0, **sampling: Any
) -> pb.GenerateRequest:
    """Return a request with these sampling parameters."""
    sampling.setdefault("max_tokens", 24)
    return pb.GenerateRequest(prompts=prompts, n=n, seed=seed, sampling=pb.SamplingParams(**sampling))


def rollouts(server: Served, wanted: pb.GenerateRequest) -> dict[tuple[int, int], pb.Rollout]:
    """Return rollouts by (prompt_index, sample_index); no prompt may be refused."""
    events = list(server.stub.Generate(wanted))
    assert not any(event.HasField("prompt_error") for event in events)
    return {
        (e.rollout.prompt_index, e.rollout.sample_index): e.rollout for e in events if e.HasField("rollout")
    }


def tokens(rollout: pb.Rollout) -> list[int]:
    """Return the token ids of a rollout."""
    return [int(token) for token in np.frombuffer(rollout.token_ids, "<i4")]


def floats(data: bytes) -> NDArray[np.float32]:
    """Return little-endian float32 bytes as an array."""
    return np.frombuffer(data, "<f4")


def all_tokens(found: dict[tuple[int, int], pb.Rollout]) -> dict[tuple[int, int], list[int]]:
    """Return the token ids by (prompt_index, sample_index)."""
    return {place: tokens(rollout) for place, rollout in found.items()}


def encode(server: Served, text: str) -> list[int]:
    """Return the token ids of `text`."""
    return list(_tokenizer(server.model).encode(text))


def plain_logprobs(
    model: Path, context: list[int], continuation: list[int], temperature: float
) -> torch.Tensor:
    """Return log-probabilities at each continuation token, float32 [n, vocabulary], by one forward pass."""
    with torch.no_grad():
        logits = _model(model)(torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1]
    return torch.log_softmax(logits / temperature, -1)


def plain(
    model: Path, context: list[int], continuation: list[int], temperature: float = 1.0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return log-probability and entropy of each continuation token, float32 [n], by one forward pass."""
    logprobs = plain_logprobs(model, context, continuation, temperature)
    entropies = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs[range(len(continuation)), continuation].numpy(), entropies.numpy()


def assert_rollout_agrees(
    rollout: pb.Rollout,
    model: Path,
    context: list[int],
    start: int = 0,
    end: int | None = None,
    *,
    atol: float = 1e-4,
) -> None:
    """Assert that tokens [start, end) of `rollout` have the numbers of a forward pass of `model`."""
    logprobs, entropies = plain(model, context, tokens(rollout))
    np.testing.assert_allclose(floats(rollout.logprobs)[start:end], logprobs[start:end], atol=atol)
    np.testing.assert_allclose(floats(rollout.entropies)[start:end], entropies[start:end], atol=atol)


def assert_agreement_under_updates(
    server: Served, make: Callable[[Path, int], Path], versions: list[int], atol: float
) -> None:
    """Update weights under load in all modes, and assert that each rollout agrees with the versions it names.

    `make(folder, seed)` saves a model in the folder; another seed gives other weights.
    """
    models = [make(server.root / f"model{index}", index) for index in range(4)]
    text, modes = "1+2=", (pb.IN_FLIGHT_WAIT, pb.IN_FLIGHT_ABORT, pb.IN_FLIGHT_KEEP)

    def update(version: int) -> pb.UpdateWeightsRequest:
        # Three modes and four models: over twelve versions every mode meets every model.
        path, in_flight = models[version % 4].name, modes[version % 3]
        return pb.UpdateWeightsRequest(path=path, policy_version=version, in_flight=in_flight)

    server.stub.UpdateWeights(update(versions[0]))
    found: list[pb.Rollout] = []

    async def load() -> None:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            done = asyncio.Event()

            async def sample(seed: int) -> None:
                while not done.is_set():
                    wanted = request([prompt(text)], n=3, seed=seed, max_tokens=40, min_tokens=40)
                    found.extend([event.rollout async for event in stub.Generate(wanted)])
                    seed += 10

            samplers = [asyncio.create_task(sample(index)) for index in range(3)]
            for version in versions[1:]:
                await stub.UpdateWeights(update(version))
            done.set()
            await asyncio.gather(*samplers)

    asyncio.run(load())
    assert len({rollout.policy_version for rollout in found}) > len(versions) // 2
    assert any(rollout.finish_reason == pb.FINISH_REASON_ABORT for rollout in found)
    assert any(rollout.policy_changes for rollout in found)
    for rollout in found:
        changes = [(0, rollout.policy_version)]
        changes += [(change.token_index, change.policy_version) for change in rollout.policy_changes]
        ends = [start for start, _ in changes[1:]] + [len(tokens(rollout))]
        for (start, version), end in zip(changes, ends, strict=True):
            assert_rollout_agrees(rollout, models[version % 4], encode(server, text), start, end, atol=atol)


def assert_stops_at_a_string_that_spans_an_update(
    server: Served, make: Callable[[Path, int], Path], version: int
) -> None:
    """Assert that "ab" stops a sample "aaa..." that continues as "bbb..." after an update that keeps it."""
    for letter in "ab":
        make_model_repeat(letter, make(server.root / f"only-{letter}", 0))
    server.stub.UpdateWeights(pb.UpdateWeightsRequest(path="only-a", policy_version=version))
    update = pb.UpdateWeightsRequest(path="only-b", policy_version=version + 1, in_flight=pb.IN_FLIGHT_KEEP)
    wanted = request([prompt("1")], max_tokens=4000, temperature=0.0, stop_strings=["never", "ab"])
    wanted.stream_tokens = True
    streamed, updating = [], None
    for event in server.stub.Generate(wanted):
        if event.HasField("rollout"):
            break
        streamed.append(event.token.token_id)
        if updating is None:
            updating = server.stub.UpdateWeights.future(update)
    assert updating is not None
    updating.result()
    stopped = event.rollout
    assert tokens(stopped) == streamed
    assert stopped.finish_reason == pb.FINISH_REASON_STOP
    (change,) = stopped.policy_changes
    assert change.token_index == len(streamed) - 1
    assert stopped.text == "a" * (len(streamed) - 2)


def compare_with_a_plain_forward_pass(
    server: Served, texts: list[str], tolerance: float, tokens_each: int, **filters: float
) -> int:
    """Assert that the numbers of two concurrent calls equal those of a plain forward pass.

    The second call has a lower temperature and `filters`. Each call draws three samples of each text.

    Returns:
        How many tokens were compared.
    """
    prompts, length = [prompt(text) for text in texts], {"max_tokens": tokens_each, "min_tokens": tokens_each}
    warm = request(prompts, n=3, seed=1, **length)
    cool = request(prompts, n=3, seed=2, temperature=0.6, **filters, **length)
    cool.raw_entropies = True
    calls = [server.stub.Generate(wanted) for wanted in (warm, cool)]
    compared = 0
    for temperature, call in zip((1.0, 0.6), calls, strict=True):
        for event in call:
            drawn, context = event.rollout, encode(server, texts[event.rollout.prompt_index])
            logprobs, entropies = plain(server.model, context, tokens(drawn), temperature)
            np.testing.assert_allclose(floats(drawn.logprobs), logprobs, atol=tolerance)
            np.testing.assert_allclose(floats(drawn.entropies), entropies, atol=tolerance)
            if temperature != 1.0:
                raw = plain(server.model, context, tokens(drawn))[1]
                np.testing.assert_allclose(floats(drawn.raw_entropies), raw, atol=tolerance)
            compared += len(tokens(drawn))
    return compared


def compare_truncated_with_a_plain_forward_pass(
    server: Served, texts: list[str], tolerance: float, tokens_each: int, **filters: Any
) -> int:
    """Assert that the numbers of the distribution drawn from are those of a plain forward pass and `filters`.

    A call that does not ask for them runs at the same time. Two filters at once are cut by each engine in its
    own order, so give one.

    Returns:
        How many tokens were compared: those at whose place rounding cannot move a token over the cut.
    """
    prompts = [prompt(text) for text in texts]
    wanted = request(prompts, n=2, seed=3, temperature=0.6, max_tokens=tokens_each, **filters)
    wanted.truncated = True
    other = server.stub.Generate(request(prompts, n=2, seed=3, max_tokens=tokens_each))
    compared = 0
    for event in server.stub.Generate(wanted):
        drawn, context = event.rollout, encode(server, texts[event.rollout.prompt_index])
        logprobs = plain_logprobs(server.model, context, tokens(drawn), 0.6)
        least, left = (_left(logprobs, slack, **filters) for slack in (-tolerance, tolerance))
        sure = (least == left).all(-1).numpy()
        cut = logprobs.masked_fill(~left, -torch.inf)
        mass = cut.exp().sum(-1).numpy()
        np.testing.assert_allclose(floats(drawn.kept_masses)[sure], mass[sure], atol=tolerance)
        own = floats(drawn.truncated_logprobs)
        np.testing.assert_allclose(own, floats(drawn.logprobs) - np.log(floats(drawn.kept_masses)), atol=1e-5)
        entropies = torch.distributions.Categorical(logits=cut).entropy().numpy()
        np.testing.assert_allclose(
            floats(drawn.truncated_entropies)[sure], entropies[sure], atol=10 * tolerance
        )
        compared += int(sure.sum())
    assert all(not event.rollout.kept_masses for event in other)
    return compared


def _left(
    logprobs: torch.Tensor, slack: float, *, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0
) -> torch.Tensor:
    """Return which tokens a filter leaves, bool [n, vocabulary], with the cut moved down by `slack`."""
    ordered, order = logprobs.sort(-1, descending=True)
    if top_k:
        return logprobs >= ordered[:, top_k - 1 : top_k + 1].mean(-1, keepdim=True) - slack
    if min_p:
        return logprobs >= ordered[:, :1] + np.log(min_p) - slack
    before = ordered.exp().cumsum(-1) - ordered.exp()
    return torch.zeros_like(logprobs, dtype=torch.bool).scatter_(-1, order, before < top_p + slack)


def assert_continues_as_if_never_interrupted(server: Served, text: str, length: int, cut: int) -> None:
    """Assert that a greedy sample resumed after `cut` of `length` tokens ends like the uninterrupted one."""

    def greedy(start: pb.Prompt, count: int) -> pb.Rollout:
        wanted = request([start], max_tokens=count, min_tokens=count, temperature=0.0)
        return rollouts(server, wanted)[0, 0]

    whole = greedy(prompt(text), length)
    head = tokens(whole)[:cut]
    rest = greedy(prompt(text, head), length - cut)
    assert head + tokens(rest) == tokens(whole)
    assert rest.text == whole.text
    assert rest.prompt_tokens == whole.prompt_tokens + cut


@cache
def _tokenizer(model: Path) -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(model)


@cache
def _model(model: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
