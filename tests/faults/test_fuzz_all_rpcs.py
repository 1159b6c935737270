"""Random requests to every RPC of every service: each is answered or refused properly, and nothing breaks.

Half are valid messages of the RPC, a quarter are valid messages with changed bytes, a quarter are random
bytes. Where an RPC needs a whole file (an exported namespace, a model's tensors), half start from a real
file. The seed determines all requests; a failure names its request.
"""

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor import MethodDescriptor
from safetensors.torch import load_file

from extra_client import (
    Credentials,
    GenerationClient,
    NamespaceClient,
    NoveltyClient,
    VerificationClient,
    embedded,
)
from extra_rl.v1 import generation_pb2, namespace_pb2, novelty_pb2, prefix_pb2, verification_pb2
from support.generation_models import make_model
from support.random_messages import Messages

CODE = grpc.StatusCode
#: How a request may end: served, or refused for what it is.
ORDERLY = {
    CODE.OK,
    CODE.INVALID_ARGUMENT,
    CODE.NOT_FOUND,
    CODE.ALREADY_EXISTS,
    CODE.FAILED_PRECONDITION,
    CODE.RESOURCE_EXHAUSTED,
}
#: Seconds, on a busy machine; what takes longer hangs.
DEADLINE = 60.0
#: A sample waits for the rest of its group as long as its caller says, and no longer than its deadline.
WAITING = "/extra_rl.v1.NoveltyService/CollectSample"
WAITING_DEADLINE = 1.0
METHODS: list[tuple[str, MethodDescriptor]] = [
    (server, method)
    for server, module in (
        ("generation", generation_pb2),
        ("novelty", namespace_pb2),
        ("novelty", novelty_pb2),
        ("novelty", prefix_pb2),
        ("verification", verification_pb2),
    )
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


@dataclass
class Findings:
    """The ends of all requests, by RPC and code, and those that must not happen."""

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, path: str, number: int, kind: str, end: grpc.StatusCode, details: str) -> None:
        late = end is CODE.DEADLINE_EXCEEDED and path == WAITING
        with self.lock:
            self.ends[path, end.name] += 1
            if end not in ORDERLY and not late:
                self.broken.append(f"{path}, request {number} ({kind}): {end.name} {details}")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, embedded.EmbeddedService]]:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "weights").mkdir()
    model = make_model(folder / "model")
    make_model(folder / "weights" / "next", seed=1)
    (folder / "weights" / "link").symlink_to(model)
    settings: dict[str, dict[str, Any]] = {
        "generation": {"model": model, "weights_root": folder / "weights", "threads": 1},
        "novelty": {"threads": 1, "device": "cpu"},
        "verification": {"workers": 2, "slow_workers": 1, "timeout_seconds": 2.0},
    }
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        start = {
            name: pool.submit(embedded.start, name, folder / f"{name}.log", **settings[name])
            for name in settings
        }
        started = {name: future.result() for name, future in start.items()}
        for service in started.values():
            stack.callback(service.stop)
        yield started


#: By RPC: a sound stream for the request of that number.
Corpus = dict[str, Callable[[Messages, int], list[bytes]]]


@pytest.fixture(scope="module")
def corpus(services: dict[str, embedded.EmbeddedService], tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Sound streams, by RPC."""
    folder = tmp_path_factory.mktemp("corpus")
    with NoveltyClient(services["novelty"].target, "corpus", credentials=Credentials()) as novelty:
        novelty.score("p1", embeddings=np.eye(3, 384, dtype=np.float32), correct=[True] * 3)
        novelty.score("p1", token_ids=[[1, 2, 3, 4], [1, 2, 5, 4]], correct=[True] * 2, metric="ngram_count")
    with NamespaceClient(services["novelty"].target, "corpus", credentials=Credentials()) as namespace:
        namespace.export_to(folder / "file")
    exported = (folder / "file").read_bytes()
    tensors = load_file(make_model(folder / "model", seed=2) / "model.safetensors")

    def importing(source: Messages, number: int) -> list[bytes]:
        first = namespace_pb2.ImportNamespaceRequest(namespace=source.random.choice("abc"), replace=True)
        rest = [exported[at : at + 5000] for at in range(0, len(exported), 5000)]
        chunks = [first, *(namespace_pb2.ImportNamespaceRequest(chunk=chunk) for chunk in rest)]
        return [chunk.SerializeToString() for chunk in chunks]

    def streaming(source: Messages, number: int) -> list[bytes]:
        header = generation_pb2.WeightsHeader(policy_version=number)
        messages = [generation_pb2.StreamWeightsRequest(header=header)]
        for name, tensor in tensors.items():
            chunk = generation_pb2.TensorChunk(
                name=name, dtype="F32", shape=tensor.shape, data=tensor.numpy().tobytes()
            )
            messages.append(generation_pb2.StreamWeightsRequest(chunk=chunk))
        return [message.SerializeToString() for message in messages]

    return {
        "/extra_rl.v1.NamespaceService/ImportNamespace": importing,
        "/extra_rl.v1.GenerationService/StreamWeights": streaming,
    }


def _fuzz(
    services: dict[str, embedded.EmbeddedService], corpus: Corpus, requests: int, seed: int
) -> Findings:
    findings = Findings()
    options = [("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
    with ExitStack() as stack, ThreadPoolExecutor(6) as threads:
        channels = {
            name: stack.enter_context(grpc.insecure_channel(service.target, options))
            for name, service in services.items()
        }
        futures = []
        for number in range(requests):
            server, method = METHODS[number % len(METHODS)]
            futures.append(threads.submit(_send, channels[server], method, corpus, seed, number, findings))
        for future in futures:
            future.result()
    return findings


def _send(
    channel: grpc.Channel,
    method: MethodDescriptor,
    corpus: Corpus,
    seed: int,
    number: int,
    findings: Findings,
) -> None:
    path = f"/{method.containing_service.full_name}/{method.name}"
    source = Messages(seed, number)
    kind = source.random.choice(("valid", "valid", "changed", "noise"))

    def message() -> bytes:
        if kind == "noise":
            return source.random_bytes()
        data: bytes = source.message(method.input_type).SerializeToString()
        return data if kind == "valid" else source.corrupted(data)

    if path in corpus and source.random.random() < 0.5:
        sent = corpus[path](source, number)
        if kind != "valid":
            place = source.random.randrange(len(sent))
            sent[place] = source.corrupted(sent[place]) if kind == "changed" else source.random_bytes()
    else:
        sent = [message() for _ in range(source.random.randrange(4) if method.client_streaming else 1)]
    deadline = WAITING_DEADLINE if path == WAITING else DEADLINE
    try:
        for answer in _call(channel, method, path, sent, deadline):
            _check_answer(path, answer)
    except grpc.RpcError as error:
        findings.add(path, number, kind, error.code(), error.details() or "")
    except AssertionError as wrong:
        findings.add(path, number, kind, CODE.INTERNAL, str(wrong))
    else:
        findings.add(path, number, kind, CODE.OK, "")


def _call(
    channel: grpc.Channel, method: MethodDescriptor, path: str, sent: list[bytes], deadline: float
) -> Iterator[bytes]:
    shape = (
        "stream" if method.client_streaming else "unary",
        "stream" if method.server_streaming else "unary",
    )
    call: Callable[..., Any] = getattr(channel, "_".join(shape))(path)
    answer = call(iter(sent) if method.client_streaming else sent[0], timeout=deadline)
    return answer if method.server_streaming else iter([answer])


def _check_answer(path: str, answer: bytes) -> None:
    """Return the verdicts whose worker died: they only look like answers."""
    if path.endswith("/Verify"):
        verdicts = list(verification_pb2.VerifyResponse.FromString(answer).verdicts)
    elif path.endswith("/VerifyStream"):
        verdicts = [verification_pb2.VerifyStreamResponse.FromString(answer).verdict]
    else:
        return
    for verdict in verdicts:
        assert verdict.rule != "worker", verdict.detail


def _check(services: dict[str, embedded.EmbeddedService], findings: Findings, requests: int) -> None:
    assert not findings.broken, f"{len(findings.broken)}, of them:\n" + "\n".join(findings.broken[:20])
    assert findings.ends.total() == requests
    for name, service in services.items():
        assert service.process.poll() is None, service.exit_summary()
        log = Path(service.log_file).read_text()
        assert "Traceback" not in log, f"{name}: {log[log.index('Traceback') - 1000 :][:4000]}"
    none = Credentials()
    with (
        GenerationClient(services["generation"].target, credentials=none) as generation,
        NoveltyClient(services["novelty"].target, "afterwards", credentials=none) as novelty,
        VerificationClient(services["verification"].target, credentials=none) as verification,
    ):
        assert len(generation.generate(["1+1="], n=2, max_tokens=4, seed=0)[0]) == 2
        vectors = np.eye(2, 384, dtype=np.float32)
        assert len(novelty.score("p", embeddings=vectors, correct=[True, True])) == 2
        assert verification.verify([r"\boxed{x+1}"], ["1+x"])[0].correct


def test_random_requests_to_every_rpc_are_served_or_refused_in_order(
    services: dict[str, embedded.EmbeddedService], corpus: Corpus
) -> None:
    findings = _fuzz(services, corpus, 1500, seed=1)
    _check(services, findings, 1500)
    # Every RPC was really reached: something was served, and something refused.
    served = {path for path, end in findings.ends if end == "OK"}
    refused = {path for path, end in findings.ends if end == "INVALID_ARGUMENT"}
    paths = {path for path, _ in findings.ends}
    assert len(paths) == len(METHODS)
    assert served == refused == paths


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_thousand_random_requests_are_served_or_refused_in_order(
    services: dict[str, embedded.EmbeddedService], corpus: Corpus
) -> None:
    requests = int(os.environ.get("EXTRA_RL_FUZZ_REQUESTS", "20000"))
    findings = _fuzz(services, corpus, requests, seed=2)
    totals: Counter[str] = Counter()
    for (_, end), count in findings.ends.items():
        totals[end] += count
    print(json.dumps(totals))
    _check(services, findings, requests)
