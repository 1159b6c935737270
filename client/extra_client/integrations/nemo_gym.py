"""Verification for NeMo-Gym: a resources server whose /verify asks the verification service.

`resources_server` makes a subclass of Gym's own SimpleResourcesServer, so sessions and aggregated metrics are
Gym's. Without Python the HTTP port of the verification server answers /verify and /seed_session itself, but
no aggregated metrics. Novelty is no part of it: Gym verifies one rollout at a time. What was tested:
docs/plugins/nemo-rl.md.
"""

from typing import Any

from extra_client import FailedPreconditionError, Method, VerifyOptions, aio


def resources_server(
    target: str,
    *,
    method: Method | str = Method.MATH,
    options: VerifyOptions | None = None,
    undecided_reward: float | None = None,
    deadline: float = 120.0,
) -> Any:
    """Make the class of a resources server: reward 1 for a correct response, 0 for a wrong one.

    Rows have `expected_answer` beside responses_create_params; the answer has all that the request had, and
    extracted_answer.

    Args:
        target: host:port of a verification server.
        method: How answers are compared.
        options: Conventions of the comparison, and the name of a custom verifier; None: the defaults.
        undecided_reward: Reward of an undecided response (timeout, error, unreadable answer). None: /verify
            fails, and with it the rollout.
        deadline: Seconds a call may take.
    """
    from nemo_gym.base_resources_server import BaseVerifyRequest, BaseVerifyResponse, SimpleResourcesServer
    from pydantic import ConfigDict

    class Request(BaseVerifyRequest):  # type: ignore[misc]
        model_config = ConfigDict(extra="allow")
        expected_answer: Any

    class Response(BaseVerifyResponse):  # type: ignore[misc]
        model_config = ConfigDict(extra="allow")
        extracted_answer: str | None

    client: aio.VerificationClient | None = None

    class VerificationServer(SimpleResourcesServer):  # type: ignore[misc]
        async def verify(self, body: Request) -> Response:
            nonlocal client
            # Made where it is used: an asyncio client belongs to one event loop.
            client = client or aio.VerificationClient(target, deadline=deadline)
            (verdict,) = await client.verify(
                [body.response.output_text], [body.expected_answer], method=method, options=options
            )
            reward = undecided_reward if verdict.correct is None else float(verdict.correct)
            if reward is None:
                raise FailedPreconditionError(
                    f"the response could not be verified ({verdict.detail}): correct expected_answer, or set "
                    "undecided_reward"
                )
            return Response(**body.model_dump(), reward=reward, extracted_answer=verdict.final_answer)

    return VerificationServer
