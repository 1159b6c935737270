"""NeMo-Gym's own agent and client with our verification: over HTTP, and as a resources server in Python.

Gym needs Python 3.12: `make test-nemo-gym` makes an environment of it and runs these tests. The services run
in the main environment. A stand-in for the model answers the agent.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any
from unittest.mock import MagicMock

import pytest

if find_spec("nemo_gym") is None:
    pytest.skip(
        "nemo-gym is not installed: `make test-nemo-gym` installs it and runs these", allow_module_level=True
    )

import httpx
import uvicorn
from fastapi import Request, Response
from nemo_gym import server_utils
from nemo_gym.base_resources_server import BaseResourcesServerConfig
from nemo_gym.config_types import BaseServerConfig, ModelServerRef, ResourcesServerRef
from nemo_gym.openai_utils import NeMoGymResponse, NeMoGymResponseCreateParamsNonStreaming
from nemo_gym.server_utils import ServerClient
from omegaconf import OmegaConf
from responses_api_agents.simple_agent.app import SimpleAgent, SimpleAgentConfig

from support.pages import blocks
from support.verification_server import verification_server


class Agent(SimpleAgent):  # type: ignore[misc]
    """Gym's agent, with a model that says what it is asked."""

    async def responses(
        self, request: Request, response: Response, body: NeMoGymResponseCreateParamsNonStreaming
    ) -> NeMoGymResponse:
        part = {"type": "output_text", "text": body.input[0].content, "annotations": []}
        message = {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [part],
        }
        return NeMoGymResponse.model_validate(
            {
                "id": "r",
                "created_at": 0.0,
                "model": "stand-in",
                "object": "response",
                "output": [message | {"content": [part]}],
                "parallel_tool_calls": True,
                "tool_choice": "auto",
                "tools": [],
            }
        )


@pytest.fixture(scope="module")
def verification(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A verification server: its target for gRPC, and the address of its HTTP port."""
    folder = tmp_path_factory.mktemp("verification")
    file = folder / "http-address"
    with verification_server(
        folder, workers=1, slow_workers=0, http_port=0, http_address_file=file
    ) as server:
        yield server.address, file.read_text(encoding="utf-8")


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Serve an app of Gym's in this event loop, and yield its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done(), "uvicorn has ended"
        await asyncio.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.should_exit = True
        await running


def entry(address: str) -> dict[str, Any]:
    """Return what Gym's configuration has of a server."""
    host, _, port = address.rpartition(":")
    return {"kind": {"name": {"host": host, "port": int(port)}}}


@asynccontextmanager
async def agent(verifier: str) -> AsyncIterator[str]:
    """Serve Gym's agent, whose resources server is at an address; yield the agent's."""
    config: Any = OmegaConf.create({"verifier": entry(verifier)})
    client = server_utils.set_global_aiohttp_client(server_utils.GlobalAIOHTTPAsyncClientConfig())
    made = Agent(
        config=SimpleAgentConfig(
            host="127.0.0.1",
            port=0,
            entrypoint="",
            name="agent",
            resources_server=ResourcesServerRef(type="resources_servers", name="verifier"),
            model_server=ModelServerRef(type="responses_api_models", name="agent"),
        ),
        server_client=ServerClient(
            head_server_config=BaseServerConfig(host="127.0.0.1", port=0), global_config_dict=config
        ),
    )
    try:
        async with serving(made.setup_webserver()) as address:
            config["agent"] = entry(address)
            yield address
    finally:
        # Gym closes its client at the end of the process only; the next event loop needs another.
        await client.close()
        server_utils._GLOBAL_AIOHTTP_CLIENT = None


async def rewards(verifier: str) -> list[Any]:
    """Run an agent's rollouts of a right, a wrong and an undecidable row; return rewards, or the status."""
    rows = [(r"so \boxed{2}", "2"), (r"so \boxed{3}", "2"), (r"so \boxed{2}", "nan")]
    found: list[Any] = []
    async with agent(verifier) as address, httpx.AsyncClient(timeout=120) as http:
        for text, expected in rows:
            row = {
                "responses_create_params": {"input": [{"role": "user", "content": text}]},
                "expected_answer": expected,
            }
            answer = await http.post(f"http://{address}/run", json=row)
            if answer.status_code != 200:
                found.append(answer.status_code)
                continue
            body = answer.json()
            assert body["expected_answer"] == expected
            found.append((body["reward"], body["extracted_answer"]))
    return found


async def test_gyms_agent_is_rewarded_over_http_and_fails_on_failures(verification: tuple[str, str]) -> None:
    assert await rewards(verification[1]) == [(1, "2"), (0, "3"), 500]


async def test_gyms_agent_is_rewarded_by_the_resources_server_of_the_page(
    verification: tuple[str, str],
) -> None:
    (program,) = (
        block
        for block in blocks("docs/plugins/nemo-rl.md", "python", {"localhost:50053": verification[0]})
        if "resources_server" in block
    )
    names: dict[str, Any] = {"__name__": "app"}
    exec(program, names)
    config = BaseResourcesServerConfig(host="127.0.0.1", port=0, entrypoint="", name="verifier")
    made = names["Server"](config=config, server_client=MagicMock(spec=ServerClient))
    async with serving(made.setup_webserver()) as address:
        assert await rewards(address) == [(1, "2"), (0, "3"), 500]
        async with httpx.AsyncClient(timeout=120) as http:
            rows = [
                {"reward": reward, "_ng_task_index": 0, "_ng_rollout_index": index}
                for index, reward in enumerate((1.0, 0.0))
            ]
            answer = await http.post(f"http://{address}/aggregate_metrics", json={"verify_responses": rows})
    assert answer.status_code == 200
    assert answer.json()["key_metrics"]["mean/reward"] == 0.5
