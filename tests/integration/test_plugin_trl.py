"""The TRL plug-in inside TRL's real GRPOTrainer, training a tiny model on the CPU with real services."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trl
from datasets import Dataset
from transformers import TrainerCallback

from extra_client import NamespaceClient, NamespaceSettings, NoveltyClient, UnavailableError, VerifyOptions
from extra_client.integrations import NoveltyScoring, prompt_id
from extra_client.integrations.trl import NoveltyAdvantage, novelty_reward, verification_reward
from extra_inspector.imports.run import ImportedRun, Services, format_of
from support.faulty_services import free_port
from support.generation_models import make_model
from support.novelty_server import Server
from support.outcome_model import OutcomeModel
from support.pages import blocks
from support.recorded_logs import log_completions
from support.verification_server import own_verifiers, verification_server

PROMPTS = ["1 + 1 = ", "2 + 2 = ", "3 + 3 = "]
ROWS = [{"prompt": prompt, "answer": "2"} for prompt in PROMPTS]
HOPELESS = PROMPTS[:2]
EAGER = NamespaceSettings(min_history=1)


class Trainer(NoveltyAdvantage, trl.GRPOTrainer):  # type: ignore[misc]
    """As a user writes it."""


def has_an_even_digit(completions: list[str], **_: Any) -> list[float]:
    """A reward that a random model often gets."""
    return [float(any(digit in text for digit in "02468")) for text in completions]


class Observed(Trainer):
    """Keeps what the plug-in has added to the advantages of each step."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.added: list[list[float]] = []

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        plain = list(self._logs["advantages"])[-len(inputs) :]
        ours = output["advantages"].tolist()
        self.added.append([after - before for after, before in zip(ours, plain, strict=True)])
        return output


class Judge:
    """A reward function that finds two prompts always wrong; every fourth of their rollouts is undecided."""

    __name__ = "judge"

    def __init__(self) -> None:
        #: Per call the prompts, what is correct, and the final answers: one of three, or none.
        self.calls: list[tuple[list[str], list[bool | None], list[str | None]]] = []

    def __call__(
        self, prompts: list[str], completions: list[str], log_extra: Any, **_: Any
    ) -> list[float | None]:
        answers = [(None, "0", "1", "2")[ord(text[0]) % 4] if text else None for text in completions]
        correct: list[bool | None] = [
            (None if place % 4 == 3 else False) if prompt in HOPELESS else bool(text)
            for place, (prompt, text) in enumerate(zip(prompts, completions, strict=True))
        ]
        log_extra("final_answer", answers)
        self.calls.append((prompts, correct, answers))
        return [None if right is None else float(right) for right in correct]


class KillsTheServer(TrainerCallback):  # type: ignore[misc]
    """Kills it when the second step is over."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def on_step_end(self, _arguments: Any, state: Any, _control: Any, **_: Any) -> None:
        if state.global_step == 2:
            self.server.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def novelty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("novelty")
    with Server(folder):
        yield f"unix:{folder / 'socket'}"


def quick_server(folder: Path) -> Server:
    """A server without a model: it counts n-grams."""
    return Server(folder, "--embedder=none")


def config(folder: Path, reward_weights: list[float] | None = None) -> Any:
    return trl.GRPOConfig(
        output_dir=str(folder / "out"),
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
        max_steps=3,
        learning_rate=1e-2,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=8,
        reward_weights=reward_weights,
        seed=1,
    )


@pytest.fixture
def train(model: Path, tmp_path: Path) -> Callable[..., Any]:
    """Trains three steps of two prompts x 4 and gives the trainer back."""

    def run(base: Any = trl.GRPOTrainer, rewards: Any = has_an_even_digit, **options: Any) -> Any:
        arguments = config(tmp_path, options.pop("reward_weights", None))
        rows = options.pop("rows", ROWS)
        trainer = base(str(model), rewards, args=arguments, train_dataset=Dataset.from_list(rows), **options)
        trainer.train()
        return trainer

    return run


def weights(trainer: Any) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in trainer.model.state_dict().items()}


def logged(trainer: Any, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_the_bonus_moves_the_policy_and_with_alpha_0_the_policy_is_bit_identical(
    train: Callable[..., Any], novelty: str
) -> None:
    plain = weights(train())
    # Nothing answers there: with weights of 0 nothing is called.
    silent = NoveltyScoring(target=f"localhost:{free_port()}", namespace="none", alpha=0.0, beta=0.0)
    assert weights(train(Trainer, novelty=silent)) == plain
    none = novelty_reward(silent, correct=has_an_even_digit)
    assert weights(train(rewards=[has_an_even_digit, none], reward_weights=[1.0, 1.0])) == plain
    scoring = NoveltyScoring(target=novelty, namespace="after", alpha=1.0, metric="embedding", settings=EAGER)
    trainer = train(Trainer, novelty=scoring)
    assert weights(trainer) != plain
    assert logged(trainer, "novelty/missing") == [0, 0, 0]
    assert max(logged(trainer, "novelty/mean")) > 0
    # As a reward function: weight 0 is TRL's own alpha.
    scoring = replace(scoring, namespace="before")
    rewards = [has_an_even_digit, novelty_reward(scoring, correct=has_an_even_digit)]
    trainer = train(rewards=rewards, reward_weights=[1.0, 0.0])
    assert weights(trainer) == plain
    assert max(logged(trainer, "rewards/novelty_reward/mean")) > 0
    assert weights(train(rewards=rewards, reward_weights=[1.0, 1.0])) != plain
    with NamespaceClient(novelty, "before") as client:
        known = {prompt.prompt_id: prompt.solutions for prompt in client.list_prompts()}
    assert set(known) == {prompt_id(prompt) for prompt in PROMPTS}


def test_outcome_novelty_is_added_to_the_wrong_rollouts_of_all_wrong_groups(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    judge, model = Judge(), OutcomeModel(beta=0.3)
    with quick_server(tmp_path):
        # The server has no embedding model, and with alpha 0 needs none.
        target = f"unix:{tmp_path / 'socket'}"
        scoring = NoveltyScoring(target=target, namespace="outcome", alpha=0.0, beta=0.3)
        trainer = train(Observed, judge, novelty=scoring)
        with NamespaceClient(target, "outcome") as client:
            stored = {prompt.prompt_id: prompt.answers for prompt in client.list_prompts()}
    assert len(trainer.added) == len(judge.calls) == 3
    shares = []
    for (prompts, correct, answers), added in zip(judge.calls, trainer.added, strict=True):
        expected: list[float] = []
        for first in (0, 4):
            group = slice(first, first + 4)
            expected += model.bonus(prompts[first], correct[group], answers[group])
        assert added == pytest.approx(expected, abs=1e-6)
        shares.append(sum(prompt in HOPELESS for prompt in prompts[::4]) / 2)
    assert logged(trainer, "outcome/groups") == shares
    assert max(logged(trainer, "outcome/bonus")) > 0
    assert logged(trainer, "novelty/mean") == []
    assert stored == {prompt_id(prompt): len(counts) for prompt, counts in model.counts.items()}


def test_beta_without_final_answers_or_as_a_reward_is_refused(
    train: Callable[..., Any], novelty: str
) -> None:
    scoring = NoveltyScoring(target=novelty, namespace="unanswered", alpha=0.0, beta=0.3)
    with pytest.raises(ValueError, match=r"must call log_extra\('final_answer', answers\)"):
        train(Trainer, novelty=scoring)
    with pytest.raises(ValueError, match="beta is for NoveltyAdvantage"):
        novelty_reward(scoring, correct=has_an_even_digit)


def test_a_run_whose_server_is_killed_fails_or_goes_on_as_it_was_told(
    train: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scoring = NoveltyScoring(
        target=f"unix:{tmp_path / 'socket'}", namespace="run", metric="ngram_count", settings=EAGER
    )
    lenient = replace(scoring, on_failure="continue")
    with quick_server(tmp_path) as server, pytest.raises(UnavailableError, match="no novelty service"):
        train(Trainer, novelty=scoring, callbacks=[KillsTheServer(server)])
    with caplog.at_level(logging.WARNING, "extra_client"), quick_server(tmp_path) as server:
        trainer = train(Trainer, novelty=lenient, callbacks=[KillsTheServer(server)])
    assert logged(trainer, "novelty/missing") == [0, 0, 1]
    assert len(logged(trainer, "novelty/mean")) == 2
    assert [record.message.split(" until")[0] for record in caplog.records] == [
        "training goes on without the novelty bonus"
    ]
    with quick_server(tmp_path) as server:
        rewards = [has_an_even_digit, novelty_reward(lenient, correct=has_an_even_digit)]
        trainer = train(rewards=rewards, callbacks=[KillsTheServer(server)])
    assert logged(trainer, "novelty/missing") == [0, 0, 1]
    # TRL takes None for "not rewarded by this function": no mean, no zero.
    assert [entry is None for entry in logged(trainer, "rewards/novelty_reward/mean")] == [False, False, True]
    assert None not in logged(trainer, "reward")


def test_verification_rewards_what_is_correct_and_leaves_out_what_is_undecided(
    train: Callable[..., Any], tmp_path: Path, novelty: str
) -> None:
    with verification_server(tmp_path) as server:
        verify = verification_reward(server.address)
        bonus = novelty_reward(NoveltyScoring(target=novelty, namespace="verified"), correct=verify)
        trainer = train(rewards=[verify, bonus])
        assert logged(trainer, "verification/undecided") == [0, 0, 0]
        assert len(logged(trainer, "rewards/verification_reward/mean")) == 3

        completions = [r"\boxed{2}", [{"role": "assistant", "content": r"\boxed{3}"}], r"\boxed{2}"]
        assert asyncio.run(verify(completions=completions, answer=["2", "2", "@@@"])) == [1.0, 0.0, None]
        missing: list[Any] = [None, float("nan"), "None", "nan", []]
        paid = verify(completions=[rf"\\boxed{{{each}}}" for each in missing], answer=missing)
        assert asyncio.run(paid) == [None] * len(missing)
        lenient = verification_reward(server.address, on_failure="continue")
        server.process.kill()
        server.process.wait(30)
        assert asyncio.run(lenient(completions=["so 2"], answer=["2"])) == [None]


GRADED = """
def graded(response, answer):
    return {"score": float(answer in response), "length": len(response), "format": float("=" in response)}
"""


def test_options_reach_the_verifier_and_its_scores_and_components_reach_the_metrics(
    train: Callable[..., Any], tmp_path: Path, novelty: str
) -> None:
    with verification_server(tmp_path, own_verifiers(tmp_path, GRADED), workers=1) as server:
        verify = verification_reward(
            server.address, method="custom", options=VerifyOptions(verifier="graded")
        )
        metrics: dict[str, float] = {}
        extra: dict[str, list[Any]] = {}
        hooks = {"log_metric": metrics.__setitem__, "log_extra": extra.__setitem__}
        rewards = asyncio.run(verify(completions=["1 = 2", "3"], answer=["2", "2"], **hooks))
        assert rewards == [1.0, 0.0]
        assert metrics == {
            "verification/undecided": 0,
            "verification/score": 0.5,
            "verification/length": 3,
            "verification/format": 0.5,
        }
        boxed = verification_reward(server.address, options=VerifyOptions(strict_percent=True))
        percent = {"completions": [r"\boxed{10\%}", r"\boxed{0.1}", "?"], "answer": ["10", "0.1", "2"]}
        assert asyncio.run(boxed(**percent, **hooks)) == [0.0, 1.0, 0.0]
        assert len(extra["final_answer"]) == 3
        assert extra["final_answer"][1:] == ["0.1", None]
        scoring = NoveltyScoring(target=novelty, namespace="graded", alpha=0.0, beta=0.3)
        trainer = train(Trainer, verify, novelty=scoring)
    assert len(logged(trainer, "verification/length")) == 3
    assert set(trainer._logs["extra"]) == {"final_answer"}
    assert logged(trainer, "novelty/missing") == [0, 0, 0]


def test_a_wrong_name_is_said_at_once(train: Callable[..., Any], novelty: str) -> None:
    scoring = NoveltyScoring(target=novelty, namespace="names")
    with pytest.raises(ValueError, match=r"'accuracy' is none of the reward functions has_an_even_digit"):
        train(Trainer, novelty=scoring, correct_by="accuracy")
    verify = verification_reward("localhost:1", answer="solution")
    with pytest.raises(ValueError, match="the data set has no column 'solution'"):
        train(rewards=verify)


TWO_RANKS = """
import sys
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from extra_client.integrations import NoveltyScoring
from extra_client.integrations.trl import NoveltyAdvantage

class Trainer(NoveltyAdvantage, GRPOTrainer):
    pass

model, target, out = sys.argv[1:]
arguments = GRPOConfig(
    output_dir=out, use_cpu=True, bf16=False, report_to="none", save_strategy="no", max_steps=2, seed=1,
    per_device_train_batch_size=2, num_generations=4, max_completion_length=8,
)
data = Dataset.from_list([{"prompt": p} for p in ["1 + 1 = ", "2 + 2 = ", "3 + 3 = ", "4 + 4 = "]])
def right_then_wrong(completions, trainer_state, log_extra, **_):
    log_extra("final_answer", ["7"] * len(completions))
    return [float(trainer_state.global_step == 0)] * len(completions)
scoring = NoveltyScoring(target=target, namespace="ranks", beta=0.3, metric="embedding")
Trainer(model, right_then_wrong, args=arguments, train_dataset=data, novelty=scoring).train()
"""


def test_a_group_on_two_ranks_is_scored_whole_and_once(model: Path, novelty: str, tmp_path: Path) -> None:
    """Two ranks with two completions each share one group of four."""
    (tmp_path / "train.py").write_text(TWO_RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=localhost:0", str(tmp_path / "train.py")]
    ran = subprocess.run(
        [*command, str(model), novelty, str(tmp_path / "out")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    with NamespaceClient(novelty, "ranks") as client:
        known = list(client.list_prompts())
    assert sorted((prompt.solutions, prompt.answers) for prompt in known) == [(0, 1), (4, 0)]
    (wrong,) = (prompt.prompt_id for prompt in known if prompt.answers)
    with NoveltyClient(novelty, "ranks") as client:
        # Given four times, not twice by each process or eight times by both; and once more.
        scores = client.score(wrong, correct=[False], answers=["7"], metric="outcome", mode="score_only")
    assert scores.tolist() == pytest.approx([5**-0.5])


def test_the_programs_of_the_page_train(model: Path, novelty: str, tmp_path: Path) -> None:
    own = own_verifiers(tmp_path, "def my_verifier(response, answer):\n    return answer in response\n")
    with verification_server(tmp_path, own, workers=1) as server:
        addresses = {"localhost:50052": novelty, "localhost:50053": server.address}
        # The third is of the asynchronous trainer, which needs a GPU: test_plugin_trl_async.py.
        after, before, _, custom = blocks("docs/plugins/trl.md", "python", addresses)
        names: dict[str, Any] = {"model": str(model), "data": Dataset.from_list(ROWS)}
        for program, metric in ((after, "outcome/groups"), (before, "rewards/novelty_reward/mean")):
            names["args"] = config(tmp_path)
            exec(program, names)
            names["trainer"].train()
            assert len(logged(names["trainer"], metric)) == 3
        exec(custom, names)
        assert asyncio.run(names["verify"](completions=["1 or 2", "3"], answer=["2", "2"])) == [1.0, 0.0]


def test_the_inspector_opens_the_log_of_completions(model: Path, tmp_path: Path) -> None:
    log_completions(tmp_path / "out", model, 2)
    run = ImportedRun(tmp_path / "out", format_of(tmp_path / "out", None), tmp_path / "cache", Services())
    assert run.update()
    found = dict(run.folder.read_rollouts())
    assert list(found) == [1, 2]
    for records in found.values():
        assert len(records) == 8
        assert {record.prompt_id for record in records} <= {prompt_id("2 + 2 = "), prompt_id("2 + 3 = ")}
        for record in records:
            assert record.logged["short"] == pytest.approx(-len(record.text) / 10)
            assert ("says_four" in record.logged) == bool(record.text)
            assert (record.status, record.mean_entropy, record.tokens) == (None, None, None)
