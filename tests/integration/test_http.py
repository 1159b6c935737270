"""The HTTP port of real servers: JSON and binary, access and limits as in gRPC, and the reward contracts."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from extra_rl.v1 import verification_pb2 as pb
from extra_services.runtime import tokens
from support.certificates import Authority
from support.faulty_services import free_port
from support.pages import blocks
from support.processes import wait_for
from support.token_files import write_tokens
from support.verification_server import own_verifiers, verification_server

if find_spec("connectrpc") is None or find_spec("hypercorn") is None:
    pytest.skip("the extra `http` is not installed", allow_module_level=True)

from extra_client import (
    Credentials,
    NamespaceClient,
    NamespaceSettings,
    NoveltyClient,
    OverloadedError,
    VerificationClient,
    embedded,
)
from extra_client.integrations import novelty_bonus, prompt_id

ROOT = Path(__file__).resolve().parents[2]
VERIFY = "/extra_rl.v1.VerificationService/Verify"
ITEM = {"response": "so \\boxed{2}", "answer": "2"}
VERIFIERS = """
def raises(response, answer):
    raise RuntimeError("on purpose")
"""


@contextmanager
def served(folder: Path, **settings: Any) -> Iterator[str]:
    """Run a verification server with an HTTP port, and yield its address."""
    file = folder / "http-address"
    environment = own_verifiers(folder, VERIFIERS)
    with verification_server(
        folder, environment, workers=1, slow_workers=0, http_port=0, http_address_file=file, **settings
    ):
        yield file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("verification"), max_message_bytes=100_000) as address:
        yield f"http://{address}"


def test_an_rpc_answers_json_and_binary_with_its_request_id(url: str) -> None:
    answer = httpx.post(url + VERIFY, json={"items": [ITEM]}, headers={"x-request-id": "mine"}, timeout=60)
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "mine"
    (verdict,) = answer.json()["verdicts"]
    assert verdict["status"] == "VERDICT_STATUS_CORRECT"
    request = pb.VerifyRequest(items=[pb.VerifyItem(response="so 3", answer="2")])
    answer = httpx.post(
        url + VERIFY,
        content=request.SerializeToString(),
        headers={"content-type": "application/proto"},
        timeout=60,
    )
    (decided,) = pb.VerifyResponse.FromString(answer.content).verdicts
    assert decided.status == pb.VERDICT_STATUS_WRONG
    assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_it_speaks_http_2(url: str) -> None:
    command = ["curl", "-sS", "--http2-prior-knowledge", "-w", "\n%{http_version}", "-d", '{"items": []}']
    ran = subprocess.run(
        [*command, "-H", "content-type: application/json", url + VERIFY],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert ran.stdout.splitlines()[-1] == "2"


@pytest.mark.parametrize(
    ("body", "status", "code", "told"),
    [
        ('{"items": [{"respons": "2"}]}', 400, "invalid_argument", 'no field named "respons"'),
        ('{"items": ', 400, "invalid_argument", "unmarshal message"),
        (
            '{"items": [{"response": "2", "answer": "2", "method": "METHOD_CUSTOM"}]}',
            400,
            "invalid_argument",
            "items[0].options.verifier: no verifier",
        ),
        ("x" * 100_001, 429, "resource_exhausted", "larger than configured max"),
    ],
)
def test_a_wrong_request_is_told_as_in_grpc(url: str, body: str, status: int, code: str, told: str) -> None:
    answer = httpx.post(url + VERIFY, content=body, headers={"content-type": "application/json"}, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert told in answer.json()["message"]


def test_the_details_of_an_error_come_with_it(url: str) -> None:
    item = {"response": "2", "answer": "2", "method": "METHOD_CUSTOM"}
    answer = httpx.post(url + VERIFY, json={"items": [item]}, timeout=60)
    (detail,) = answer.json()["details"]
    assert detail["type"] == "google.rpc.BadRequest"
    assert b"items[0].options.verifier" in base64.b64decode(detail["value"] + "==")


@pytest.mark.parametrize(
    ("method", "path", "kind", "status", "told"),
    [
        ("POST", "/extra_rl.v1.VerificationService/VerifyStream", "application/json", 404, "/openapi.json"),
        ("POST", "/else", "application/json", 404, "there is no POST /else here"),
        ("POST", "/openapi.json", "application/json", 404, "there is no POST /openapi.json here"),
        ("GET", VERIFY, "application/json", 405, f"use POST for {VERIFY}"),
        ("GET", "/rewards/slime", "application/json", 405, "use POST for /rewards/slime"),
        ("POST", VERIFY, "application/x-www-form-urlencoded", 415, "send application/json"),
        ("POST", VERIFY, "", 415, "the content-type is missing"),
    ],
)
def test_another_path_method_or_content_type_is_refused_with_a_sentence(
    url: str, method: str, path: str, kind: str, status: int, told: str
) -> None:
    answer = httpx.request(method, url + path, content=b"{}", headers={"content-type": kind}, timeout=60)
    assert answer.status_code == status
    assert told in answer.json()["message"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "is no JSON"),
        (b"\xff", "is no JSON"),
        (b"[" * 10**5, "is no JSON"),
        (b"[]", "response: is missing"),
        (b"null", "response: is missing"),
        (b'{"prompt": "", "response": "2", "label": NaN}', "NaN is no number there"),
        (b'{"prompt": "", "response": 2, "label": "2"}', "response: must be a text, not int"),
    ],
)
def test_a_body_that_is_not_the_contracts_is_told_so(url: str, body: bytes, told: str) -> None:
    answer = httpx.post(f"{url}/rewards/slime", content=body, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
    assert told in answer.json()["message"]


def test_the_description_names_every_rpc_and_every_type_it_uses(url: str) -> None:
    described = httpx.get(f"{url}/openapi.json", timeout=60).json()
    assert described["openapi"].startswith("3.1")
    service = "/extra_rl.v1.VerificationService"
    rewards = {"/rewards/openrlhf", "/rewards/slime", "/verify", "/seed_session"}
    assert set(described["paths"]) == {f"{service}/Verify", f"{service}/GetInfo"} | rewards
    used = set(re.findall(r"#/components/schemas/(\w[\w.]*)", json.dumps(described)))
    assert used == set(described["components"]["schemas"])
    item = described["components"]["schemas"]["VerifyItem"]["properties"]
    assert item["otherAnswers"] == {"type": "array", "items": {"type": "string"}}
    assert "METHOD_MATH" in item["method"]["enum"]


def test_tokens_scopes_and_tls_hold_and_the_certificate_follows_its_files(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("server")
    client = authority.issue("client")
    (known, known_hash), (other, other_hash), (unknown, _) = (tokens.mint() for _ in range(3))
    entries = [
        {"name": "known", "sha256": known_hash, "scopes": {"@verification": "read"}},
        {"name": "other", "sha256": other_hash, "scopes": {"run-*": "admin"}},
    ]
    tls = {
        "tls_certificate": issued.certificate,
        "tls_key": issued.key,
        "tls_client_ca": authority.file,
        "tokens": json.dumps(entries),
    }
    with served(tmp_path, **tls) as address:
        port = address.rpartition(":")[2]

        def post(token: str | None, path: str = VERIFY, **more: Any) -> httpx.Response:
            headers = {} if token is None else {"authorization": f"Bearer {token}"}
            certificate = (str(client.certificate), str(client.key))
            with httpx.Client(verify=_context(authority.file, certificate), timeout=60) as http:
                return http.post(f"https://localhost:{port}{path}", headers=headers, **more)

        body: dict[str, Any] = {"json": {"items": [ITEM]}}
        assert post(known, **body).status_code == 200
        for token in (None, unknown):
            refused = post(token, content=b"x" * 10**6)
            assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
        refused = post(other, **body)
        assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
        assert "'other' has no scope 'read'" in refused.json()["message"]
        reward = {"json": {"prompt": "", "response": "2", "label": "2"}}
        assert post(known, "/rewards/slime", **reward).json() == 1
        assert post(other, "/rewards/slime", **reward).status_code == 403
        # Without a certificate of one's own there is no connection.
        with (
            pytest.raises(httpx.TransportError),
            httpx.Client(verify=_context(authority.file), timeout=60) as http,
        ):
            http.post(f"https://localhost:{port}{VERIFY}", **body)
        # A certificate of another authority: new connections get it at once.
        (tmp_path / "new").mkdir()
        replaced = Authority(tmp_path / "new", "replaced")
        fresh = replaced.issue("server")
        shutil.copy(fresh.key, issued.key)
        shutil.copy(fresh.certificate, issued.certificate)

        def trusted() -> bool:
            certificate = (str(client.certificate), str(client.key))
            try:
                with httpx.Client(verify=_context(replaced.file, certificate), timeout=60) as http:
                    return http.get(f"https://localhost:{port}/openapi.json").status_code == 401
            except httpx.TransportError:
                return False

        wait_for(trusted, "the new certificate is not served")


def _context(authority: Path, certificate: tuple[str, str] | None = None) -> Any:
    import ssl

    context = ssl.create_default_context(cafile=str(authority))
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


class _Tokenizer:
    """Gives OpenRLHF the text of a rollout."""

    def __init__(self, text: str) -> None:
        self._text = text

    def decode(self, _ids: Any, **_: Any) -> str:
        return self._text


@pytest.mark.skipif(find_spec("openrlhf") is None, reason="openrlhf is not installed")
async def test_openrlhfs_own_client_gets_rewards_and_fails_on_failures(url: str, monkeypatch: Any) -> None:
    from openrlhf.utils import agent

    async def at_once(_seconds: float) -> None:
        """Its retries wait a second each."""

    executor = agent.SingleTurnAgentExecutor(f"{url}/rewards/openrlhf")
    for response, reward in (("so \\boxed{2}", 1), ("so \\boxed{3}", 0)):
        (found,) = await executor._fetch_rewards_via_http([f"1 + 1 = {response}"], ["1 + 1 = "], ["2"])
        assert found == {"rewards": reward, "scores": reward, "extra_logs": {"undecided": 0}}
    monkeypatch.setattr(agent.asyncio, "sleep", at_once)
    for query, label in (("1 + 1 = 2", None), ("1 + 1 = 2", "nan")):
        with pytest.raises(RuntimeError, match="Request error for 5 times"):
            await executor._fetch_rewards_via_http([query], ["1 + 1 = "], [label])


def reward(url: str, path: str, body: Any, **parameters: Any) -> httpx.Response:
    return httpx.post(url + path, json=body, params=parameters, timeout=120)


def test_several_queries_of_openrlhf_are_answered_in_lists(url: str) -> None:
    body = {"query": ["a 2", "b 3"], "prompts": ["a ", "b "], "labels": ["2", "2"]}
    assert reward(url, "/rewards/openrlhf", body).json()["rewards"] == [1, 0]
    body["labels"].pop()
    refused = reward(url, "/rewards/openrlhf", body)
    assert refused.status_code == 400
    assert "2 query, 2 prompts, 1 labels" in refused.json()["message"]


def test_slimes_request_is_answered_with_a_number(url: str) -> None:
    """As slime.rollout.rm_hub.remote_rm sends it: slime itself does not install here."""
    sample = {"prompt": "1 + 1 = ", "response": "so \\boxed{2}", "label": "2"}
    assert reward(url, "/rewards/slime", sample).json() == 1
    assert reward(url, "/rewards/slime", sample | {"label": 3}).json() == 0
    assert reward(url, "/rewards/slime", sample | {"label": ["3", "2"]}).json() == 1
    assert (
        reward(url, "/rewards/slime", sample | {"response": "(B)", "label": "B"}, method="choice").json() == 1
    )


def test_nemo_gyms_request_comes_back_with_the_reward(url: str) -> None:
    """In the form of its BaseVerifyRequest and BaseVerifyResponse: nemo-gym itself does not install here."""
    message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "so 2"}]}
    body = {
        "responses_create_params": {"input": [{"role": "user", "content": "1 + 1 = "}]},
        "response": {"id": "r", "object": "response", "output": [{"type": "reasoning"}, message]},
        "expected_answer": "2",
    }
    assert reward(url, "/verify", body).json() == body | {"reward": 1, "extracted_answer": "2"}
    refused = reward(url, "/verify", body | {"response": {"output": [{}]}})
    assert refused.status_code == 400
    assert "no response of the Responses API" in refused.json()["message"]


@pytest.fixture(scope="module")
def novelty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A novelty server: its URL, and its target for gRPC."""
    file = tmp_path_factory.mktemp("novelty") / "http-address"
    with embedded.start("novelty", threads=1, port=0, http_port=0, http_address_file=str(file)) as service:
        yield f"http://{file.read_text(encoding='utf-8')}", service.target


#: Two problems, whose rollouts come in turns; the last one has no answer that can be read.
QUERIES = {
    "What is 12+3? ": ["12+3=15, so \\boxed{15}", "2+3=5 and 10+5=15, so \\boxed{15}", "\\boxed{14}"],
    "What is 7+8? ": ["7+8=15, so \\boxed{15}", "8+8=16 and 16-1=15, so \\boxed{15}", "no idea"],
}


def rollouts_of_two_problems() -> dict[str, Any]:
    rows = [(prompt, texts[turn]) for turn in range(3) for prompt, texts in QUERIES.items()]
    return {
        "query": [prompt + text for prompt, text in rows],
        "prompts": [prompt for prompt, _ in rows],
        "labels": ["15"] * len(rows),
    }


def test_rewards_of_verification_get_novelty_by_a_second_call(url: str, novelty: tuple[str, str]) -> None:
    body = rollouts_of_two_problems()
    verified = reward(url, "/rewards/openrlhf", body).json()
    assert verified["rewards"] == [1, 1, 1, 1, 0, 0]
    asked = {"namespace": "http", "alpha": "0.2"}
    settings = NamespaceSettings(min_history=1)

    def bonus(count: int) -> Any:
        """The bonus of the first rollouts by the plug-ins' function."""
        return novelty_bonus(
            [prompt_id(prompt) for prompt in body["prompts"]][:count],
            [texts[turn] for turn in range(3) for texts in QUERIES.values()][:count],
            [each == 1 for each in verified["rewards"]][:count],
            client=there,
            alpha=0.2,
            problems=body["prompts"][:count],
            reference_answers=body["labels"][:count],
        )

    with (
        NamespaceClient(novelty[1], "http") as here,
        NoveltyClient(novelty[1], "grpc", settings) as there,
    ):
        here.create(settings)
        # The first solution of each problem is known before.
        known = {name: values[:2] for name, values in body.items()} | {"rewards": [1, 1]}
        assert reward(novelty[0], "/rewards/novelty", known, **asked).json()["rewards"] == [1, 1]
        assert not bonus(2).any()
        asked["key"] = "step-1"
        first = reward(novelty[0], "/rewards/novelty", body | verified, **asked).json()
        again = reward(novelty[0], "/rewards/novelty", body | verified, **asked).json()
        assert again == first
        expected = bonus(6)
        # The second solution of each problem goes another way.
        assert all(expected[2:4] > 0)
        np.testing.assert_allclose(np.subtract(first["rewards"], verified["rewards"]), expected, atol=1e-6)
        np.testing.assert_allclose(np.multiply(first["extra_logs"]["novelty"], 0.2), expected, atol=1e-6)
        assert first["scores"] == verified["rewards"]
        assert first["extra_logs"]["undecided"] == [0] * 6
        # One query, as OpenRLHF itself sends it: numbers instead of lists, here and there.
        one = {name: values[:1] for name, values in body.items()}
        one |= reward(url, "/rewards/openrlhf", one).json()
        refused = reward(novelty[0], "/rewards/novelty", one, **asked)
        assert (refused.status_code, "was used before" in refused.text) == (400, True)
        single = reward(novelty[0], "/rewards/novelty", one, **asked | {"key": "step-2"}).json()
        assert single["rewards"] == pytest.approx(1 + 0.2 * single["extra_logs"]["novelty"])
        assert here.describe().prompts == 2


def test_what_says_nothing_about_a_rollout_gets_no_novelty(url: str, novelty: tuple[str, str]) -> None:
    body = rollouts_of_two_problems()
    asked = {"namespace": "undecided"}
    with NamespaceClient(novelty[1], "undecided") as client:
        client.create()
    # Undecided ones are worth 1 here, and yet are no solutions.
    custom = {"method": "custom", "verifier": "raises", "undecided": "1"}
    verified = reward(url, "/rewards/openrlhf", body, **custom).json()
    assert verified["rewards"] == [1] * 6
    paid = reward(novelty[0], "/rewards/novelty", body | verified, **asked).json()
    assert paid["rewards"] == [1] * 6
    assert paid["extra_logs"] == {"undecided": [1] * 6, "novelty": [0] * 6}
    judged = body | {"rewards": [1, 1, 1, 1, 0, 0]}
    cases: list[tuple[dict[str, Any], dict[str, str], int, str]] = [
        ({"rewards": [0.5] * 6}, {}, 400, "rewards[0]: 0.5 does not say"),
        ({"rewards": [None] * 6}, {}, 400, "rewards[0]: must be a number, not None"),
        ({"rewards": [1]}, {}, 400, "6 query, 6 prompts, 6 labels, 1 rewards, 1 undecided"),
        ({"query": [None] * 6}, {}, 400, "query[0]: must be a text"),
        ({"extra_logs": [1]}, {}, 400, "extra_logs: must be a JSON object"),
        ({"prompts": "sum"}, {}, 400, "prompts: must be a list"),
        ({}, {"alpha": "nan"}, 400, "alpha: must be a number"),
        ({}, {"metric": "outcome"}, 400, "metric: outcome needs more than texts"),
        ({}, {"metric": "surprise"}, 400, "metric: 'surprise' is none of"),
        ({}, {"names": "a"}, 400, "names: is no parameter"),
        ({}, {"namespace": "none"}, 404, "none"),
    ]
    for changed, parameters, status, told in cases:
        refused = reward(novelty[0], "/rewards/novelty", judged | changed, **(asked | parameters))
        assert (refused.status_code, told in refused.json()["message"]) == (status, True), refused.text
    del judged["rewards"]
    assert "rewards: is missing" in reward(novelty[0], "/rewards/novelty", judged, **asked).json()["message"]


def test_a_failure_is_a_status_and_never_a_0(url: str) -> None:
    sample = {"prompt": "", "response": "2", "label": "2"}
    custom = {"method": "custom", "verifier": "raises"}
    cases: list[tuple[dict[str, Any], dict[str, str], str]] = [
        ({"label": None}, {}, "label: is missing"),
        ({"label": "None"}, {}, "label: is missing"),
        ({"response": None}, {}, "response: must be a text, not NoneType"),
        ({}, custom, "could not be verified"),
        ({}, {"method": "maths"}, "method: 'maths' is none of"),
        ({}, {"undecide": "0"}, "undecide: is no parameter"),
        ({}, {"undecided": "nan"}, "undecided: must be a finite number, not 'nan'"),
        ({}, {"undecided": "-inf"}, "undecided: must be a finite number, not '-inf'"),
        ({}, {"undecided": "half"}, "undecided: must be a finite number, not 'half'"),
    ]
    for changed, parameters, told in cases:
        refused = reward(url, "/rewards/slime", sample | changed, **parameters)
        assert refused.status_code == 400
        assert told in refused.json()["message"]
    assert reward(url, "/rewards/slime", sample, undecided="-0.5", **custom).json() == -0.5
    assert httpx.post(f"{url}/rewards/slime", content=b"{", timeout=60).status_code == 400
    too_large = reward(url, "/rewards/slime", sample | {"response": "x" * 100_001})
    assert too_large.status_code == 400
    # A lone surrogate, which JSON can hold, is no answer.
    broken = b'{"prompt": "", "response": "so \\ud800", "label": "2"}'
    assert httpx.post(f"{url}/rewards/slime", content=broken, timeout=60).json() == 0


def commands(page: Path) -> list[str]:
    """Return the curl commands of a page, each in one line."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return re.findall(r"^curl .*?(?<=')$", joined, re.M | re.S)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_of_the_page_run(url: str, novelty: tuple[str, str]) -> None:
    verify, create, score, slime, paid = commands(ROOT / "docs" / "http.md")

    def run(command: str) -> Any:
        command = command.replace("http://localhost:8053", url).replace("http://localhost:8052", novelty[0])
        ran = subprocess.run(
            ["sh", "-c", f"{command} -sS"], capture_output=True, text=True, check=True, timeout=200
        )
        return json.loads(ran.stdout)

    assert run(verify)["verdicts"][0]["status"] == "VERDICT_STATUS_CORRECT"
    assert run(slime) == 1
    run(create)
    (group,) = run(score)["groups"]
    scores = np.frombuffer(base64.b64decode(group["novelty"]), "<f4")
    assert (scores.size, group["memoryAfter"]) == (2, 2)
    # Nothing is known of these prompts yet.
    assert run(paid)["rewards"] == [1, 1]
    servers = {"http://localhost:8053": url, "http://localhost:8052": novelty[0]}
    (program,) = blocks("docs/http.md", "python", servers)
    names: dict[str, Any] = {}
    exec(program, names)
    assert names["body"]["rewards"] == names["body"]["scores"] == [1, 1]


def test_grpc_answers_beside_it_with_the_same_limits_and_metrics(tmp_path: Path) -> None:
    file, port = tmp_path / "http-address", free_port()
    secret, digest = tokens.mint()
    entry = {"name": "slow", "sha256": digest, "scopes": {"*": "read"}, "requests_per_second": 0.001}
    with verification_server(
        tmp_path,
        workers=1,
        slow_workers=0,
        http_port=0,
        http_address_file=file,
        metrics_port=port,
        tokens=json.dumps([entry]),
    ) as server:
        url = f"http://{file.read_text(encoding='utf-8')}"
        headers = {"authorization": f"Bearer {secret}", "x-request-id": "of-http"}
        first = httpx.post(url + VERIFY, json={"items": [ITEM]}, headers=headers, timeout=60)
        assert first.json()["verdicts"][0]["status"] == "VERDICT_STATUS_CORRECT"
        # The one call of this token is used up, for both.
        second = httpx.post(url + VERIFY, json={"items": [ITEM]}, headers=headers, timeout=60)
        assert (second.status_code, second.json()["code"]) == (429, "resource_exhausted")
        assert [detail["type"] for detail in second.json()["details"]] == ["google.rpc.RetryInfo"]
        slime = {"prompt": "", "response": "2", "label": "2"}
        assert httpx.post(f"{url}/rewards/slime", json=slime, headers=headers, timeout=60).status_code == 429
        with (
            VerificationClient(server.address, credentials=Credentials(token=secret), patience=0) as client,
            pytest.raises(OverloadedError),
        ):
            client.verify(["2"], ["2"])
        page = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text
        counted = r'^extra_rl_rpcs_total\{code="(\w+)",method="Verify",.*\} (.*)$'
        counts = dict(re.findall(counted, page, re.M))
        assert counts == {"OK": "1.0", "RESOURCE_EXHAUSTED": "3.0"}
        server.process.terminate()
        assert server.process.wait(60) == 0


def test_tokens_of_a_file_change_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    minted = [tokens.mint() for _ in range(2)]

    def known(index: int) -> None:
        write_tokens(file, [(f"caller-{index}", minted[index][1])])

    known(0)
    with served(tmp_path, tokens_file=file) as address:
        for index in (0, 1, 0):
            known(index)
            answers = [
                httpx.post(
                    f"http://{address}{VERIFY}",
                    json={"items": [ITEM]},
                    headers={"authorization": f"Bearer {secret}"},
                    timeout=60,
                ).status_code
                for secret, _ in minted
            ]
            assert answers == [[200, 401], [401, 200]][index]
