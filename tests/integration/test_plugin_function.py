"""Functions for trainers without a plug-in, prompt_id and novelty_bonus; and a client in another language."""

import base64
import io
import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from PIL import Image

from extra_client import (
    InvalidArgumentError,
    Metric,
    NamespaceClient,
    NamespaceSettings,
    NoveltyClient,
    UnavailableError,
    embedded,
)
from extra_client.integrations import Outage, novelty_bonus, problem_statement, prompt_id
from extra_client.integrations.contract import PROBLEM
from support.derivations import (
    ANSWER,
    CHAT,
    SOLUTIONS,
    SWAP,
    assert_scored_with_the_problem,
)
from support.outcome_model import OutcomeModel
from support.pages import blocks
from support.verification_server import verification_server

PAGE = "docs/plugins/any-language.md"
ROOT = Path(__file__).resolve().parents[2]
USUAL, OTHER, WRONG = "Pair the terms from both ends.", "By induction on n.", "Guess."


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    service = embedded.start("novelty", host="127.0.0.1", port=0)
    yield service.target
    service.stop()


def test_a_prompt_is_known_by_its_content_alone() -> None:
    chat = [{"role": "user", "content": "1 + 1 = "}]
    turned = np.array([{"content": "1 + 1 = ", "role": "user"}], dtype=object)
    assert prompt_id(chat) == prompt_id(turned) == prompt_id(tuple(chat))
    others = ["1 + 1 = ", [{"role": "system", "content": "1 + 1 = "}]]
    assert prompt_id(chat) not in {prompt_id(other) for other in others}
    # Written down: it must stay the same in every release, or memories are lost.
    assert prompt_id("1 + 1 = ") == "54eb229447b5409cd2ec18e2376a2f9b"


def test_images_in_a_prompt_are_known_by_their_pixels_in_every_process() -> None:
    def chat(*parts: object) -> list[dict[str, object]]:
        return [{"role": "user", "content": [{"type": "image", "image": part} for part in parts]}]

    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    image = Image.fromarray(pixels)
    stored = io.BytesIO()
    image.save(stored, "PNG")
    # Decoded again, as another process does: another object of another class.
    decoded = Image.open(io.BytesIO(stored.getvalue()))
    assert prompt_id(chat(decoded)) == prompt_id(chat(image)) == "69e45821f98f8a0aff95ba5e92fbd501"
    tensor = torch.tensor(pixels)
    assert prompt_id(chat(tensor)) == prompt_id(chat(pixels)) == prompt_id(chat(pixels.tolist()))
    red, blue = (Image.new("P", (2, 2)) for _ in range(2))
    red.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    others = [image.resize((2, 8)), image.rotate(180), image.convert("L"), red, blue, pixels]
    assert len({prompt_id(chat(each)) for each in [image, *others]}) == len(others) + 1
    with pytest.raises(InvalidArgumentError, match=r"object of builtins\.object, which does not show its"):
        prompt_id(chat(object()))


def test_rollouts_in_any_order_are_scored_by_prompt_and_a_repetition_counts_once(target: str) -> None:
    with NoveltyClient(target, "function", NamespaceSettings(min_history=1)) as client:
        for _ in range(2):
            first = novelty_bonus(
                ["a", "a"],
                [USUAL, WRONG],
                [True, None],
                client=client,
                metric="embedding",
                idempotency_key="1",
            )
            assert first.tolist() == [0, 0]
        texts, correct = [USUAL, USUAL, OTHER, WRONG, OTHER], [True, True, True, False, True]
        bonus = novelty_bonus(["a", "b", "a", "a", "b"], texts, correct, client=client, metric="embedding")
        assert bonus.dtype == np.float32
        assert [value > 0 for value in bonus] == [False, False, True, False, False]
        prompts = NamespaceClient(target, "function").list_prompts()
        assert {prompt.prompt_id: prompt.solutions for prompt in prompts} == {"a": 3, "b": 2}
        with pytest.raises(ValueError, match="must be as many of each"):
            novelty_bonus(["a"], [USUAL, OTHER], [True, True], client=client)
        with pytest.raises(ValueError, match="1 answers: must be as many of each"):
            novelty_bonus(["a", "a"], [USUAL, OTHER], [True, True], ["12"], client=client)
        with pytest.raises(InvalidArgumentError, match="texts"):
            novelty_bonus(["a"], ["y" * 1_000_001], [True], client=client)
        assert novelty_bonus(["a", "a"], ["", None], [True, True], client=client).tolist() == [0, 0]


def test_a_metric_gets_of_the_prompt_what_it_reads() -> None:
    for metric in Metric:
        sent = {} if metric != Metric.DERIVATION else {"problem": PROBLEM, "reference_answer": ANSWER}
        assert problem_statement(metric, CHAT, ANSWER) == sent
    turned = np.array(CHAT, dtype=object)
    for reference, shown in [
        (18, "18"),
        (np.array(["18", "36/2"], dtype=object), "18 | 36/2"),
        (None, ""),
        (float("nan"), ""),
        ([], ""),
        (["18", None], ""),
    ]:
        stated = problem_statement("derivation", turned, reference)
        assert stated == {"problem": PROBLEM, "reference_answer": shown}
    assert problem_statement("derivation", [{"role": "system", "content": "add"}])["problem"] == "add"
    assert problem_statement("derivation", None) == {"problem": "", "reference_answer": ""}


def test_derivations_are_scored_with_problem_and_reference_answer(target: str) -> None:
    correct = [True, True, True, False]

    def scored(namespace: str, **stated: Any) -> list[float]:
        with NoveltyClient(target, namespace, NamespaceSettings(min_history=1)) as client:
            for texts in ([SWAP] * 4, SOLUTIONS):
                bonus = novelty_bonus(["p"] * 4, texts, correct, client=client, alpha=1.0, **stated)
        return [float(each) for each in bonus]

    problems, references = [PROBLEM] * 4, [ANSWER] * 4
    assert_scored_with_the_problem(scored("stated", problems=problems, reference_answers=references))
    scored("no-reference", problems=problems)
    scored("no-problem", reference_answers=references)
    # Without one of them its numbers count as steps, so that the solution without others is remembered, too.
    remembered = {
        name: next(iter(NamespaceClient(target, name).list_prompts())).solutions
        for name in ("stated", "no-reference", "no-problem")
    }
    assert remembered == {"stated": 5, "no-reference": 6, "no-problem": 6}
    for name in ("problems", "reference_answers"):
        with pytest.raises(ValueError, match=f"4 texts, 1 {name}: must be as many of each"):
            scored("lengths", **{name: [PROBLEM]})


def test_wrong_rollouts_of_all_wrong_groups_differ_by_how_often_their_answer_was_given(target: str) -> None:
    model, random = OutcomeModel(beta=0.3), np.random.default_rng(0)
    with NoveltyClient(target, "answers") as client:
        for step in range(6):
            prompts = random.permutation(["a"] * 6 + ["b"] * 6 + ["c"] * 6).tolist()
            answers = random.choice(["1", "2", "3", ""], 18).tolist()
            drawn = random.choice(3, 18, p=[0.75, 0.1, 0.15])
            correct = [(False, None, True)[each] for each in drawn]
            expected = np.zeros(18)
            for prompt in "abc":
                places = [place for place, each in enumerate(prompts) if each == prompt]
                group = [correct[place] for place in places], [answers[place] for place in places]
                expected[places] = model.bonus(prompt, *group)
            for _ in range(2):
                bonus = novelty_bonus(
                    prompts,
                    answers,
                    correct,
                    answers,
                    client=client,
                    alpha=0,
                    beta=0.3,
                    idempotency_key=f"{step}",
                )
                assert bonus.dtype == np.float32
                assert bonus.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
        assert model.counts["a"], "some group was all wrong"
        stored = {each.prompt_id: each.answers for each in NamespaceClient(target, "answers").list_prompts()}
    assert stored == {prompt: len(counts) for prompt, counts in model.counts.items() if counts}


def test_both_bonuses_come_together_under_one_key(target: str) -> None:
    texts, correct = [USUAL, OTHER, WRONG, WRONG], [True, True, False, False]
    with NoveltyClient(target, "both", NamespaceSettings(min_history=0)) as client:
        for _ in range(2):
            bonus = novelty_bonus(
                ["a", "a", "b", "b"],
                texts,
                correct,
                [None, None, "7", ""],
                client=client,
                alpha=2.0,
                beta=0.3,
                metric="embedding",
                idempotency_key="step",
            )
            assert (bonus[:2] > 0).all()
            assert bonus[2:].tolist() == [0, 0]
        (solutions, answers) = NamespaceClient(target, "both").list_prompts()
        assert (solutions.solutions, answers.answers) == (2, 1)
        with pytest.raises(ValueError, match="give answers"):
            novelty_bonus(["a"], [WRONG], [False], client=client, alpha=0, beta=0.3)


def test_an_absence_is_told_once_until_it_is_over_and_never_excuses_a_wrong_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = Outage("novelty", "continue", "the bonus")
    with caplog.at_level(logging.WARNING, "extra_client"):
        for _ in range(2):
            outage.tolerate(UnavailableError("away"))
            outage.tolerate(UnavailableError("away"))
            outage.ended()
            outage.ended()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 4
    assert ["without the bonus" in record.message for record in caplog.records] == [True, False] * 2
    with pytest.raises(InvalidArgumentError):
        outage.tolerate(InvalidArgumentError("wrong"))
    with pytest.raises(ValueError, match="ignore"):
        Outage("novelty", "ignore", "the bonus")


def test_the_program_of_the_page_adds_the_bonus_to_advantages(target: str) -> None:
    (program,) = blocks(PAGE, "python", {"localhost:50052": target})
    names: dict[str, Any] = {
        "prompts": ["a question"] * 4,
        "texts": [USUAL, USUAL, OTHER, WRONG],
        "correct": [True, True, True, False],
        "answers": ["1", "1", "1", "2"],
        "advantages": np.array([0.5, 0.5, 0.5, -1.5], np.float32),
    }
    for _ in range(2):
        exec(program, names)
    assert np.shape(names["bonus"]) == (4,)
    assert names["advantages"][3] == -1.5


def method_of(channel: grpc.Channel, name: str) -> Any:
    """Return the descriptor of a method, as the server's reflection gives it."""
    service, _, method = name.replace("/", ".").rpartition(".")
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    return pool.FindServiceByName(service).methods_by_name[method]


def grpcurl(*arguments: str) -> Any:
    """Do what grpcurl does with the arguments of the page: it learns the API from the server."""
    plaintext, *data, address, what = arguments
    assert plaintext == "-plaintext"
    with grpc.insecure_channel(address) as channel:
        if what == "list":
            return list(ProtoReflectionDescriptorDatabase(channel).get_services())
        flag, content = data
        assert flag == "-d"
        found = method_of(channel, what)
        request, response = GetMessageClass(found.input_type), GetMessageClass(found.output_type)
        call = channel.unary_unary(f"/{what}", request.SerializeToString, response.FromString)
        return json_format.MessageToDict(call(json_format.Parse(content, request()), timeout=60))


def test_the_calls_by_hand_of_the_page_are_answered(target: str, tmp_path: Path) -> None:
    with verification_server(tmp_path, workers=1) as verification:
        replaced = {"localhost:50052": target, "localhost:50053": verification.address, "my-run": "by-hand"}
        calls: list[list[str]] = []
        for word in shlex.split(" ".join(blocks(PAGE, "sh", replaced)).replace("\\\n", " ")):
            if word == "grpcurl":
                calls.append([])
            else:
                calls[-1].append(word)
        listed, described, created, scored, verified, outcome = calls
        assert "extra_rl.v1.NoveltyService" in grpcurl(*listed)
        assert described[1:3] == [target, "describe"]
        with grpc.insecure_channel(target) as channel:
            assert method_of(channel, described[3]).input_type.name == "ScoreGroupsRequest"
        grpcurl(*created)
        (group,) = grpcurl(*scored)["groups"]
        assert len(base64.b64decode(group["novelty"])) == 8
        (verdict,) = grpcurl(*verified)["verdicts"]
        assert verdict["status"] == "VERDICT_STATUS_CORRECT"
        (group,) = grpcurl(*outcome)["groups"]
        bonus = np.frombuffer(base64.b64decode(group["novelty"]), "<f4")
        assert bonus.tolist() == pytest.approx([2**-0.5, 2**-0.5, 1, 2**-0.5])


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed: apt-get install npm")
def test_a_client_in_javascript_generated_from_the_protos_scores_a_group(target: str, tmp_path: Path) -> None:
    example = tmp_path / "examples" / "javascript"
    made = shutil.ignore_patterns("node_modules", "gen")
    shutil.copytree(ROOT / "examples" / "javascript", example, ignore=made)
    shutil.copytree(ROOT / "protos", tmp_path / "protos")

    def run(*command: str) -> str:
        # buf comes with the development extra, into the environment of these tests.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        ran = subprocess.run(
            command,
            cwd=example,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    run("npm", "ci", "--no-audit", "--no-fund")
    run("npm", "run", "generate")
    usual, other, wrong = json.loads(run("node", "score.js", f"http://{target}"))
    assert usual == wrong == 0
    assert other > 0.01
