"""OpenAI's API in front of generation, by OpenAI's own client, against a real server."""

import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from extra_client import GenerationClient, embedded
from extra_client.credentials import Credentials
from extra_inspector.index import Index, Query
from extra_rl.rollout_record import RolloutRecord
from extra_services.runtime import tokens
from extra_trainer.runs.folder import RunFolder
from support.generation_models import make_model, make_model_repeat
from support.pages import blocks
from support.processes import wait_for

if any(find_spec(name) is None for name in ("openai", "connectrpc", "hypercorn")):
    pytest.skip("openai and the extra `http` are not installed", allow_module_level=True)

import openai
from openai import OpenAI

PAGE = "docs/openai.md"
ASK: list[Any] = [{"role": "user", "content": "what is 1+2"}]


@dataclass
class Server:
    """A running server with a token for each of three callers."""

    url: str
    target: str
    tokens: dict[str, str]
    folder: Path
    log: Path

    def client(self, name: str = "alice") -> OpenAI:
        """Return OpenAI's client with the token of a caller."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.tokens[name], max_retries=0, timeout=200)

    def grpc(self) -> GenerationClient:
        """Return our client, with alice's token."""
        return GenerationClient(self.target, credentials=Credentials(token=self.tokens["alice"]))

    def get(self, path: str, name: str = "alice") -> httpx.Response:
        """Return the answer to a GET of a caller."""
        headers = {"authorization": f"Bearer {self.tokens[name]}"}
        return httpx.get(self.url + path, headers=headers, timeout=200)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("openai")
    make_model(folder / "tiny")
    minted = {name: tokens.mint() for name in ("alice", "bob", "stranger")}
    where = {"alice": "@generation", "bob": "@generation", "stranger": "run-*"}
    entries = [
        {"name": name, "sha256": digest, "scopes": {where[name]: "admin"}}
        for name, (_, digest) in minted.items()
    ]
    settings: dict[str, Any] = {
        "weights_root": folder,
        "threads": 1,
        "port": 0,
        "http_port": 0,
        "max_sessions": 30,
    }
    with embedded.start(
        "generation",
        folder / "log",
        model=folder / "tiny",
        http_address_file=folder / "address",
        tokens=json.dumps(entries),
        **settings,
    ) as service:
        url = f"http://{(folder / 'address').read_text(encoding='utf-8')}"
        secrets = {name: secret for name, (secret, _) in minted.items()}
        yield Server(url, service.target, secrets, folder, folder / "log")


@pytest.fixture
def client(server: Server) -> OpenAI:
    return server.client()


@pytest.fixture
def session() -> dict[str, str]:
    """The header of a session that no other test uses."""
    return {"X-Extra-Session": uuid.uuid4().hex}


def test_completions_have_the_tokens_and_numbers_of_generate(server: Server, client: OpenAI) -> None:
    with server.grpc() as grpc:
        groups = grpc.generate(
            ["1+2=", "let x"],
            2,
            12,
            seed=3,
            temperature=0.7,
            top_p=0.9,
            raw_entropies=True,
            segment_entropies=True,
            truncated=True,
        )
    extra = ("return_token_ids", "entropies", "raw_entropies", "segment_entropies", "truncated")
    answer = client.completions.create(
        model="tiny",
        prompt=["1+2=", "let x"],
        n=2,
        max_tokens=12,
        seed=3,
        temperature=0.7,
        top_p=0.9,
        logprobs=0,
        extra_body=dict.fromkeys(extra, True),
    )
    expected = [rollout for group in groups for rollout in group]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    for choice, rollout in zip(answer.choices, expected, strict=True):
        found: Any = choice
        assert (found.text, found.finish_reason) == (rollout.text, rollout.finish_reason)
        assert found.token_ids == rollout.token_ids.tolist()
        # The last bits depend on what else is in the batch.
        for ours, theirs in (
            (found.logprobs.token_logprobs, rollout.logprobs),
            (found.entropies, rollout.entropies),
            (found.raw_entropies, rollout.raw_entropies),
            (found.kept_masses, rollout.kept_masses),
            (found.truncated_logprobs, rollout.truncated_logprobs),
            (found.truncated_entropies, rollout.truncated_entropies),
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
        assert [(each["start"], each["end"]) for each in found.segments] == [
            (each.start, each.end) for each in rollout.segments
        ]
        assert "".join(found.logprobs.tokens).removesuffix("<eos>") == found.text
        assert found.logprobs.text_offset == list(range(len(found.token_ids)))
        assert found.policy_version == 0
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("1+2=") + len("let x")
    assert answer.usage.completion_tokens == sum(len(rollout.token_ids) for rollout in expected)


def test_a_prompt_of_ids_and_a_prefix_continue_as_if_never_interrupted(client: OpenAI) -> None:
    ids = {"return_token_ids": True}
    whole: Any = client.completions.create(
        model="tiny", prompt="1+2=", max_tokens=9, temperature=0, extra_body=ids
    ).choices[0]
    prefix = {"prefix_token_ids": whole.token_ids[:4]}
    rest = client.completions.create(
        model="tiny", prompt=whole.prompt_token_ids, max_tokens=5, temperature=0, extra_body=ids | prefix
    )
    resumed: Any = rest.choices[0]
    assert whole.token_ids[:4] + resumed.token_ids == whole.token_ids
    assert resumed.text == whole.text
    assert rest.usage is not None
    assert rest.usage.prompt_tokens == len(whole.prompt_token_ids) + 4
    chunks = client.completions.create(
        model="tiny",
        prompt=whole.prompt_token_ids,
        max_tokens=5,
        temperature=0,
        extra_body=prefix,
        echo=True,
        stream=True,
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == "1+2=" + whole.text


def test_a_chat_is_made_a_prompt_by_the_models_template(server: Server, client: OpenAI) -> None:
    from transformers import AutoTokenizer

    template = AutoTokenizer.from_pretrained(server.folder / "tiny").apply_chat_template
    parts: Any = [{"type": "text", "text": "what is "}, {"type": "text", "text": "1+2"}]
    asked: list[Any] = [ASK, [{"role": "user", "content": parts}]]
    for messages in asked:
        answer: Any = client.chat.completions.create(
            model="tiny",
            messages=messages,
            max_completion_tokens=5,
            logprobs=True,
            extra_body={"return_token_ids": True},
        )
        assert answer.prompt_token_ids == template(ASK, add_generation_prompt=True)["input_ids"]
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    entries = choice.logprobs.content
    assert len(entries) == len(choice.token_ids)
    assert bytes(entries[0].bytes).decode() == entries[0].token
    # Without a limit: as many tokens as fit.
    whole: Any = client.chat.completions.create(
        model="tiny",
        messages=ASK,
        seed=1,
        extra_body={"min_tokens": 200},
    )
    assert whole.usage.total_tokens <= 256


@pytest.mark.parametrize("stop", [[], ["e", "34"]])
def test_a_stream_has_in_parts_what_the_whole_answer_has(client: OpenAI, stop: list[str]) -> None:
    asked: dict[str, Any] = {
        "model": "tiny",
        "n": 3,
        "seed": 5,
        "stop": stop,
        "extra_body": {"return_token_ids": True, "entropies": True},
    }
    whole: Any = client.completions.create(prompt="1+2=", max_tokens=30, logprobs=0, **asked)
    chunks = list(
        client.completions.create(
            prompt="1+2=",
            max_tokens=30,
            logprobs=0,
            stream=True,
            stream_options={"include_usage": True},
            **asked,
        )
    )
    *parts, last = chunks
    assert last.usage == whole.usage.model_copy(
        update={"prompt_tokens_details": last.usage and last.usage.prompt_tokens_details}
    )
    for choice in whole.choices:
        mine: list[Any] = [part.choices[0] for part in parts if part.choices[0].index == choice.index]
        assert "".join(each.text for each in mine) == choice.text
        assert [token for each in mine for token in each.token_ids] == choice.token_ids
        entropies = [entropy for each in mine for entropy in each.entropies]
        assert entropies == pytest.approx(choice.entropies, abs=1e-4)
        told = [each.logprobs for each in mine if each.logprobs]
        assert [offset for each in told for offset in each.text_offset] == choice.logprobs.text_offset
        assert mine[-1].finish_reason == choice.finish_reason
        assert not any(text in choice.text for text in stop)
    messages: Any = ASK
    answer = client.chat.completions.create(messages=messages, max_tokens=30, **asked)
    text = [""] * 3
    for chunk in client.chat.completions.create(messages=messages, max_tokens=30, stream=True, **asked):
        text[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert text == [choice.message.content for choice in answer.choices]


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"top_logprobs": 2, "logprobs": True}, "top_logprobs"),
        ({"extra_body": {"repetition_penalty": 1.1}}, "repetition_penalty"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": -1.0, "stream": True}, "temperature"),
        ({"n": 0}, "n"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"extra_body": {"stop_token_ids": [10**9]}}, "stop_token_ids[0]"),
        ({"messages": [{"role": "user", "content": "a" * 300}]}, "prompt"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, "messages.0.name"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(client: OpenAI, changed: dict[str, Any], param: str) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": ASK, "max_completion_tokens": 3, **changed}
    if "max_tokens" in changed:
        asked |= changed
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asked)
    body: Any = refused.value.body
    assert (body["type"], body["param"]) == ("invalid_request_error", param)
    assert param in body["message"]


def test_what_changes_nothing_and_null_are_accepted(client: OpenAI) -> None:
    neutral = {"presence_penalty": 0.0, "logit_bias": {}, "tools": [], "response_format": {"type": "text"}}
    nulls = dict.fromkeys(("user", "seed", "stop", "stream_options", "function_call"))
    messages: Any = [ASK[0] | {"name": None}]
    client.chat.completions.create(model="tiny", messages=messages, max_tokens=1, extra_body=neutral | nulls)


def test_echo_with_logprobs_scores_prompts_as_evaluation_harnesses_ask(
    server: Server, client: OpenAI
) -> None:
    """As lm-eval's loglikelihood: the likeliest tokens too, and one token drawn; others ask for none."""
    with server.grpc() as grpc:
        ((known,),) = grpc.generate(["1+2=3"], 1, 1, temperature=0, prompt_logprobs=True)
    asked: dict[str, Any] = {"model": "tiny", "prompt": ["1+2=3", "let x"], "temperature": 0, "echo": True}
    answer = client.completions.create(max_tokens=1, logprobs=1, **asked)
    choice = answer.choices[0]
    found: Any = choice.logprobs
    assert choice.text.startswith("1+2=3")
    assert len(found.tokens) == len("1+2=3") + 1
    assert "".join(found.tokens[:5]) == "1+2=3"
    assert found.text_offset == list(range(6))
    assert (found.token_logprobs[0], found.top_logprobs[0]) == (None, None)
    np.testing.assert_allclose(found.token_logprobs[1:5], known.prompt_logprobs, atol=1e-4)
    np.testing.assert_allclose(found.token_logprobs[5], known.logprobs[0], atol=1e-4)
    best = [max(top.values()) for top in found.top_logprobs[1:]]
    np.testing.assert_allclose(best[:4], known.prompt_likeliest_logprobs, atol=1e-4)
    for token, logprob, top in zip(
        found.tokens[1:], found.token_logprobs[1:], found.top_logprobs[1:], strict=True
    ):
        assert top[token] == logprob
    none = client.completions.create(max_tokens=0, logprobs=0, **asked).choices[0]
    assert (none.text, none.finish_reason) == ("1+2=3", "length")
    assert none.logprobs is not None
    assert none.logprobs.token_logprobs == found.token_logprobs[:5]
    assert none.logprobs.top_logprobs is None


def test_logprobs_that_are_not_computed_are_refused(client: OpenAI) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"logprobs": 2}, "logprobs"),
        ({"logprobs": 1, "temperature": 0.7}, "temperature 0"),
        ({"logprobs": 0, "echo": True, "stream": True}, "stream"),
        ({"max_tokens": 0}, "at least 1 token"),
    ]
    for asked, told in cases:
        with pytest.raises(openai.BadRequestError, match=told):
            client.completions.create(model="tiny", prompt="a", **asked)


def test_models_and_the_description(server: Server, client: OpenAI) -> None:
    (model,) = client.models.list().data
    found: Any = client.models.retrieve("tiny")
    assert found == model
    assert (found.id, found.policy_version, found.max_model_len) == ("tiny", 0, 256)
    with pytest.raises(openai.NotFoundError, match="use 'tiny'"):
        client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError, match="use 'tiny'"):
        client.completions.create(model="other", prompt="a")
    described = server.get("/openapi.json").json()
    assert {"/v1/completions", "/v1/chat/completions", "/v1/models", "/v1/sessions/{session}"} <= set(
        described["paths"]
    )
    assert described["components"]["schemas"]["ChatRequest"]["properties"]["entropies"]["type"] == "boolean"
    text = json.dumps(described)
    for name in ("Message", "TextPart", "OpenAiError", "CompletionRequest"):
        assert f"#/components/schemas/{name}" in text
        assert name in described["components"]["schemas"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/completions"])
def test_a_route_that_is_not_there_is_refused_in_openais_form(server: Server, path: str) -> None:
    refused = server.get(path)
    assert refused.status_code == 404
    error = refused.json()["error"]
    assert error["type"] == "not_found_error"
    assert f"there is no GET {path} here" in error["message"]


def test_tokens_scopes_and_request_ids_are_those_of_grpc(server: Server) -> None:
    stranger = server.client("stranger")
    with pytest.raises(openai.PermissionDeniedError, match="no scope 'read'"):
        stranger.completions.create(model="tiny", prompt="a")
    with pytest.raises(openai.PermissionDeniedError, match="no scope 'read'"):
        stranger.chat.completions.create(
            model="tiny",
            messages=ASK,
            extra_headers={"X-Extra-Session": "mine"},
        )
    unknown = OpenAI(base_url=f"{server.url}/v1", api_key="unknown", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as refused:
        unknown.models.list()
    body: Any = refused.value.body
    assert body["type"] == "authentication_error"
    answer = server.client().completions.with_raw_response.create(
        model="tiny", prompt="a", max_tokens=1, extra_headers={"x-request-id": "mine"}
    )
    assert answer.headers["x-request-id"] == "mine"
    assert answer.parse().id == "cmpl-mine"


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_who_hangs_up_ends_the_work(server: Server, stream: bool) -> None:
    name = uuid.uuid4().hex
    body = {"model": "tiny", "prompt": "1+2=", "max_tokens": 250, "n": 4000, "stream": stream}
    headers = {"authorization": f"Bearer {server.tokens['alice']}", "x-request-id": name}
    with httpx.Client(timeout=httpx.Timeout(200, read=0.5)) as http:
        if stream:
            with http.stream("POST", f"{server.url}/v1/completions", json=body, headers=headers) as answer:
                next(answer.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post(f"{server.url}/v1/completions", json=body, headers=headers)

    def cancelled() -> bool:
        lines = server.log.read_text(encoding="utf-8").splitlines()
        return any(name in line and "CANCELLED" in line for line in lines)

    wait_for(cancelled, "the call was not cancelled")


def say(client: OpenAI, session: dict[str, str], messages: list[Any], **asked: Any) -> Any:
    """Return the answer of a session, with token ids."""
    return client.chat.completions.create(
        model="tiny",
        messages=messages,
        max_completion_tokens=8,
        extra_headers=session,
        extra_body={"return_token_ids": True},
        **asked,
    )


def test_a_session_continues_with_the_tokens_that_were_drawn(
    server: Server, client: OpenAI, session: dict[str, str], tmp_path: Path
) -> None:
    messages: list[Any] = list(ASK)
    known: list[int] = []
    for turn in range(3):
        answer = say(client, session, messages, seed=turn)
        choice = answer.choices[0]
        assert choice.session == {
            "id": session["X-Extra-Session"],
            "turn": turn,
            "parent": turn - 1 if turn else None,
        }
        assert answer.prompt_token_ids[: len(known)] == known
        known = answer.prompt_token_ids + choice.token_ids
        # As OpenAI's users do: the object of the answer itself, and the next question.
        messages += [choice.message, {"role": "user", "content": f"and {turn}"}]
    # A branch from the first turn: what was recorded behind it is not in its prompt.
    branch = say(client, session, [*messages[:2], {"role": "user", "content": "else"}], stop="a")
    assert branch.choices[0].session["parent"] == 0
    # The same question again, as a client does that tries a second time.
    again = say(client, session, messages[:3], seed=1)
    assert again.choices[0].session["parent"] == 0
    lines = server.get(f"/v1/sessions/{session['X-Extra-Session']}").text.splitlines()
    content = [json.loads(line) for line in lines]
    assert [line["turn"] for line in content] == list(range(5))
    last = content[2]
    assert last["prompt_token_ids"] + last["response_token_ids"] == known
    assert sum(last["response_mask"]) == sum(content[turn]["tokens"] for turn in range(3))
    drawn = [
        logprob
        for logprob, mask in zip(last["response_logprobs"], last["response_mask"], strict=True)
        if mask
    ]
    assert len(drawn) == sum(last["response_mask"])
    assert all(logprob < 0 for logprob in drawn)
    record = RolloutRecord.from_json(last)
    assert record.token_ids.tolist() == last["response_token_ids"]
    assert len(record.entropies) == record.tokens == len(choice.token_ids)
    assert record.text.endswith(choice.message.content)
    # The inspector opens it.
    folder = RunFolder(tmp_path / "run")
    path = folder.step_file("rollouts", 1)
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    folder.config.write_text("", encoding="utf-8")
    index = Index.of(folder, tmp_path / "cache")
    index.update()
    rows, total = index.rollouts(Query())
    assert total == 5
    assert {row.prompt_text for row in rows} == {"user: what is 1+2\nassistant: "}


def test_a_session_keeps_what_a_stop_string_hides_and_does_not_repeat_the_end(
    server: Server, session: dict[str, str]
) -> None:
    client = server.client()
    folder = server.folder / "repeats"
    if not folder.exists():
        make_model_repeat("7", make_model(folder))
        with server.grpc() as grpc:
            grpc.update_weights("repeats", 1)
    first = say(client, session, list(ASK), stop=["777"], temperature=0, stream=False)
    choice = first.choices[0]
    assert (choice.message.content, len(choice.token_ids)) == ("", 3)
    assert choice.policy_version == 1
    messages = [*ASK, choice.message, {"role": "user", "content": "b"}]
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=messages,
            max_completion_tokens=2,
            temperature=0,
            stream=True,
            extra_headers=session,
            extra_body={"return_token_ids": True},
        )
    )
    begun: Any = chunks[0]
    after = begun.prompt_token_ids[len(first.prompt_token_ids) + 3 :]
    text = client.completions.create(
        model="tiny", prompt=after, max_tokens=1, echo=True, temperature=0
    ).choices[0]
    assert text.text == "\nuser: b\nassistant: 7"
    ended: Any = chunks[-1].choices[0]
    assert ended.session["turn"] == 1


def test_an_answer_that_was_not_recorded_is_an_error(client: OpenAI, session: dict[str, str]) -> None:
    forged = [*ASK, {"role": "assistant", "content": "zzz"}, *ASK]
    with pytest.raises(openai.BadRequestError, match="did not record"):
        say(client, session, forged)
    say(client, session, list(ASK))
    with pytest.raises(openai.BadRequestError) as refused:
        say(client, session, forged)
    body: Any = refused.value.body
    assert body["param"] == "messages.1"
    with pytest.raises(openai.BadRequestError, match="prefix_token_ids"):
        client.chat.completions.create(
            model="tiny",
            messages=ASK,
            extra_headers=session,
            extra_body={"prefix_token_ids": [3]},
        )
    with pytest.raises(openai.BadRequestError, match="x-extra-session"):
        client.completions.create(model="tiny", prompt="a", extra_headers=session)


def test_sessions_belong_to_a_token_and_are_deleted(server: Server, session: dict[str, str]) -> None:
    path = f"/v1/sessions/{session['X-Extra-Session']}"
    say(server.client("alice"), session, list(ASK), n=2)
    assert len(server.get(path).text.splitlines()) == 2
    assert server.get(path, "bob").status_code == 404
    assert server.get("/v1/sessions", "bob").text == ""
    assert session["X-Extra-Session"] in server.get("/v1/sessions").text
    assert server.get("/v1/sessions", "stranger").status_code == 403
    headers = {"authorization": f"Bearer {server.tokens['alice']}"}
    assert httpx.delete(server.url + path, headers=headers, timeout=60).json()["deleted"] is True
    assert server.get(path).json()["error"]["type"] == "not_found_error"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_and_programs_of_the_page_run(server: Server, tmp_path: Path) -> None:
    token = server.tokens["alice"]
    replaced = {"http://localhost:8051": server.url, '"none"': f'"{token}"', "my-model": "tiny"}
    for block in blocks(PAGE, "(?:sh|python)", replaced):
        if "curl " in block:
            command = ["sh", "-ec", block.replace("curl ", f"curl -sSf -H 'authorization: Bearer {token}' ")]
        elif "import OpenAI" in block:
            command = [sys.executable, "-c", block]
        else:
            continue
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
        assert ran.returncode == 0, block + ran.stderr
        assert ran.stdout or "-o " in block
    exported = (tmp_path / "runs/chat/rollouts/step-000001.jsonl").read_text(encoding="utf-8")
    assert len(exported.splitlines()) == 3
