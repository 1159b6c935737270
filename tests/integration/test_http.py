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
from support.processes import wait_for
from support.token_files import write_tokens
from support.verification_server import own_verifiers, verification_server

if find_spec("connectrpc") is None or find_spec("hypercorn") is None:
    pytest.skip("the extra `http` is not installed", allow_module_level=True)

from extra_client import VerificationClient, embedded

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


def test_what_is_no_unary_rpc_is_not_found(url: str) -> None:
    for path in ("/extra_rl.v1.VerificationService/VerifyStream", "/else"):
        assert httpx.post(url + path, json={}, timeout=60).status_code == 404


def test_the_description_names_every_rpc_and_every_type_it_uses(url: str) -> None:
    described = httpx.get(f"{url}/openapi.json", timeout=60).json()
    assert described["openapi"].startswith("3.1")
    service = "/extra_rl.v1.VerificationService"
    rewards = {"/rewards/openrlhf", "/rewards/slime", "/verify"}
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
def test_the_commands_of_the_page_run(url: str, tmp_path: Path) -> None:
    verify, create, score, slime = commands(ROOT / "docs" / "http.md")
    file = tmp_path / "http-address"
    service = embedded.start("novelty", port=0, http_port=0, http_address_file=str(file))
    novelty = f"http://{file.read_text(encoding='utf-8')}"

    def run(command: str) -> Any:
        command = command.replace("http://localhost:8053", url).replace("http://localhost:8052", novelty)
        ran = subprocess.run(
            ["sh", "-c", f"{command} -sS"], capture_output=True, text=True, check=True, timeout=200
        )
        return json.loads(ran.stdout)

    try:
        assert run(verify)["verdicts"][0]["status"] == "VERDICT_STATUS_CORRECT"
        assert run(slime) == 1
        run(create)
        (group,) = run(score)["groups"]
        scores = np.frombuffer(base64.b64decode(group["novelty"]), "<f4")
        assert (scores.size, group["memoryAfter"]) == (2, 2)
    finally:
        service.stop()


def test_grpc_still_answers_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "http-address"
    with (
        verification_server(
            tmp_path, workers=1, slow_workers=0, http_port=0, http_address_file=file
        ) as server,
        VerificationClient(server.address) as client,
    ):
        assert client.verify(["2"], ["2"])[0].correct is True
        address = file.read_text(encoding="utf-8")
        metrics = httpx.post(f"http://{address}{VERIFY}", json={"items": [ITEM]}, timeout=60)
        assert metrics.status_code == 200
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
