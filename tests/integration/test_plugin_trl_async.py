"""The rewards for TRL in other processes: pickled into one, and in the worker of TRL's asynchronous trainer.

The trainer itself needs a GPU (its attention kernel and NCCL). Its rollout worker does not: here it is TRL's
own, in the process that it spawns, with the bonus of `add_novelty`. Only the server that it asks for
completions is a stand-in, which answers as vLLM does.
"""

import asyncio
import json
import multiprocessing
import pickle
import threading
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trl
from accelerate import PartialState
from datasets import Dataset
from transformers import AutoTokenizer
from trl.experimental.async_grpo import async_rollout_worker
from trl.experimental.async_grpo.async_rollout_worker import AsyncRolloutWorker

from extra_client import NamespaceClient, NamespaceSettings, embedded
from extra_client.integrations import NoveltyScoring, prompt_id
from extra_client.integrations.trl import novelty_reward, verification_reward
from extra_client.integrations.trl_async import add_novelty
from support.generation_models import ALPHABET, EOS, make_model
from support.processes import wait_for

EAGER = NamespaceSettings(min_history=1)
PROMPT = [{"role": "user", "content": "1 + 1 = "}]
TEXTS = ["so 2", "thus 2", "so 2", "so 3"]
GROUP = len(TEXTS)


@pytest.fixture(scope="module")
def verification() -> Iterator[str]:
    service = embedded.start("verification", port=0, workers=1)
    yield service.target
    service.stop()


@pytest.fixture(scope="module")
def novelty() -> Iterator[str]:
    service = embedded.start("novelty", port=0)
    yield service.target
    service.stop()


def run_rewards(pickled: bytes, answers: Any) -> None:
    """Run the rewards twice, as a trainer's worker does, in one event loop."""

    async def rewarded() -> list[list[list[float]]]:
        rewards = pickle.loads(pickled)
        columns = {"prompts": [PROMPT] * GROUP, "completions": TEXTS, "answer": ["2"] * GROUP}
        return [await asyncio.gather(*(reward(**columns) for reward in rewards)) for _ in range(2)]

    answers.put(asyncio.run(rewarded()))


def test_rewards_are_pickled_into_a_process_of_their_own(verification: str, novelty: str) -> None:
    verify = verification_reward(verification)
    scoring = NoveltyScoring(
        target=novelty, namespace="pickled", alpha=0.5, settings=EAGER, metric="embedding"
    )
    bonus = novelty_reward(scoring, correct=verify)
    # A reward that has been used here already is pickled without its connection.
    assert asyncio.run(verify(completions=TEXTS, answer=["2"] * GROUP)) == [1, 1, 1, 0]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    child = context.Process(target=run_rewards, args=(pickle.dumps([verify, bonus]), answers))
    child.start()
    (right, first), (_, second) = answers.get(timeout=280)
    child.join(60)
    assert child.exitcode == 0
    assert right == [1, 1, 1, 0]
    assert first == [0] * GROUP
    # All of them are remembered by now.
    assert second == pytest.approx([0] * GROUP, abs=1e-5)
    with NamespaceClient(novelty, "pickled") as client:
        (prompt,) = client.list_prompts()
    assert (prompt.prompt_id, prompt.solutions_added) == (prompt_id(PROMPT), 6)
    assert [reward.__name__ for reward in (verify, bonus)] == ["verification_reward", "novelty_reward"]


class Completions(BaseHTTPRequestHandler):
    """Answers /v1/completions as vLLM does, with TEXTS in turn; from the second group on with a new way."""

    numbers = count()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        number = next(self.numbers)
        text = TEXTS[number % GROUP] if number < GROUP or number % GROUP else "by induction on n it is 2"
        ids = [2 + ALPHABET.index(letter) for letter in text] + [EOS]
        choice = {"token_ids": ids, "logprobs": {"token_logprobs": [-0.5] * len(ids)}}
        body = json.dumps({"choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Write nothing."""


@pytest.fixture
def engine() -> Iterator[str]:
    Completions.numbers = count()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Completions)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def worker(
    engine: str, verification: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncRolloutWorker:
    """TRL's own worker. It asks for vLLM to be installed, which it only calls over HTTP."""
    monkeypatch.setattr(async_rollout_worker, "is_vllm_available", lambda: True)
    PartialState()  # As the trainer has done: TRL's logger needs it.
    tokenizer = AutoTokenizer.from_pretrained(make_model(tmp_path / "model"))
    templates = Path(trl.__file__).parent / "chat_templates"
    tokenizer.chat_template = (templates / "qwen3.jinja").read_text(encoding="utf-8")
    return AsyncRolloutWorker(
        model_name="model",
        dataset=Dataset.from_list([{"prompt": PROMPT, "answer": "2"}]),
        reward_funcs=[verification_reward(verification)],
        processing_class=tokenizer,
        eos_token_ids=[EOS],
        num_generations=GROUP,
        # One at a time, so that the texts come in order.
        max_inflight_tasks=1,
        queue_maxsize=8 * GROUP,
        vllm_server_url=engine,
        max_tokens=64,
    )


def groups(worker: AsyncRolloutWorker, number: int) -> list[list[Any]]:
    """Return the samples of the first groups that the worker makes."""
    samples: dict[Any, list[Any]] = defaultdict(list)
    worker.start()
    try:
        while len(samples) <= number:
            sample = worker.rollout_buffer.get(timeout=200)
            samples[sample.group_id].append(sample)
    finally:
        worker.stop()
    return [samples[group] for group in range(number)]


def test_the_worker_of_the_asynchronous_trainer_adds_the_bonus_after_normalization(
    worker: AsyncRolloutWorker, novelty: str
) -> None:
    scoring = NoveltyScoring(
        target=novelty, namespace="async", alpha=1.0, beta=0.3, settings=EAGER, metric="embedding"
    )
    add_novelty(SimpleNamespace(rollout_worker=worker), scoring)
    first, second = groups(worker, 2)
    plain = [0.5773502, 0.5773502, 0.5773502, -1.7320508]
    for samples in (first, second):
        assert [sample.metrics["rewards/verification_reward"] for sample in samples] == [1, 1, 1, 0]
    assert [sample.advantage for sample in first] == pytest.approx(plain, abs=1e-5)
    bonus = [sample.advantage - before for sample, before in zip(second, plain, strict=True)]
    assert bonus[0] > 0.1
    assert bonus[1:] == pytest.approx([0, 0, 0], abs=1e-4)
    metrics = [worker.metrics_queue.get(timeout=60) for _ in range(worker.metrics_queue.qsize())]
    assert {each["novelty/missing"] for each in metrics if "novelty/missing" in each} == {0.0}
    assert max(each["novelty/mean"] for each in metrics if "novelty/mean" in each) == pytest.approx(
        bonus[0] / 3, abs=1e-4
    )
    assert any("verification/undecided" in each for each in metrics)


def test_with_weights_of_0_the_worker_stays_trls_own(worker: AsyncRolloutWorker, novelty: str) -> None:
    silent = NoveltyScoring(target=novelty, namespace="none", alpha=0, beta=0)
    add_novelty(SimpleNamespace(rollout_worker=worker), silent)
    assert worker._loop_cls is async_rollout_worker._AsyncRolloutLoop
    add_novelty(SimpleNamespace(rollout_worker=None), silent)
    loud = NoveltyScoring(target=novelty, namespace="none")
    with pytest.raises(TypeError, match="for TRL's own rollout worker, not object"):
        add_novelty(SimpleNamespace(rollout_worker=object()), loud)


def test_an_outage_ends_the_worker_with_the_services_error(worker: AsyncRolloutWorker) -> None:
    gone = NoveltyScoring(target="localhost:1", namespace="async", alpha=1.0, deadline=20)
    add_novelty(SimpleNamespace(rollout_worker=worker), gone)
    worker.start()
    try:
        assert worker._failed_event.wait(280)
        # The child sets the event before its error is through the queue; TRL would then name no cause.
        queued = worker._exception_info_queue
        wait_for(lambda: not queued.empty(), "the child sent no error")
        with pytest.raises(RuntimeError, match="Rollout worker child has failed") as caught:
            worker.check_health(1e9)
        assert "no novelty service answers at localhost:1" in str(caught.value.__cause__)
        # Its process has ended by then, which is what TRL's own `stop` waits on for ever.
        process = worker._process
        wait_for(lambda: not process.is_alive(), "the child goes on")
    finally:
        worker.stop()
    assert worker._process is None
