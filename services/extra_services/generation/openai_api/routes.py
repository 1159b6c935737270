"""The routes: /v1/completions, /v1/chat/completions, /v1/models and /v1/sessions.

Prompts become token ids here, by the tokenizer that the service has too. Everything else is the service's own
Generate: the routes send it one request and translate what it streams.
"""

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from extra_rl.v1 import common_pb2
from extra_rl.v1 import generation_pb2 as pb
from extra_services.errors import InvalidInput, NotFound
from extra_services.gateway.upstream import (
    CODES,
    Failure,
    Upstream,
    failure_of,
    forwarded,
    read_json,
)
from extra_services.generation.openai_api.answers import Answer
from extra_services.generation.openai_api.requests import (
    ChatRequest,
    CompletionRequest,
    parsed,
)
from extra_services.generation.openai_api.sessions import Place, Sessions
from extra_services.generation.requests import EngineLimits
from extra_services.generation.tokenizer import Tokenizer
from extra_services.runtime.interceptor import REQUEST_ID

GENERATE = "/extra_rl.v1.GenerationService/Generate"
GET_INFO = "/extra_rl.v1.GenerationService/GetInfo"
SESSION = "x-extra-session"
LINES = "application/x-ndjson"
#: Names of Generate's fields -> of OpenAI's.
_NAMES = {
    "stop_strings": "stop",
    "prompt_logprobs": "logprobs",
    "prompts": "prompt",
    "token_ids": "prompt",
    "token_ids.ids": "prompt",
    "chat": "messages",
    "chat.messages": "messages",
}
#: Status in HTTP -> OpenAI's type of an error; others are the server's.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}

Asked = TypeVar("Asked", ChatRequest, CompletionRequest)
Body = ChatRequest | CompletionRequest


class _Refused(Exception):
    """A prompt was refused."""

    def __init__(self, error: common_pb2.Error) -> None:
        super().__init__(error.message)
        self.error = error


class OpenAiApi:
    """OpenAI's API over the generation service of this server.

    Args:
        model: Name of the served model.
        tokenizer: Of the model.
        limits: Of the engine.
        sessions: The recorded conversations.
    """

    prefix = "/v1/"

    def __init__(self, model: str, tokenizer: Tokenizer, limits: EngineLimits, sessions: Sessions) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._limits = limits
        self._sessions = sessions
        self._created = int(time.time())

    def routes(self, upstream: Upstream) -> list[BaseRoute]:
        """Return the routes, which answer with what `upstream` does."""

        def route(path: str, method: str, handler: Callable[..., Awaitable[Response]]) -> Route:
            async def answer(request: Request) -> Response:
                headers = forwarded(request.headers)
                try:
                    response = await handler(request, upstream, headers)
                except Exception as error:
                    response = self.failed(_failure(error, request.url.path, headers))
                response.headers[REQUEST_ID] = headers[REQUEST_ID]
                return response

            return Route(path, answer, methods=[method])

        return [
            route("/v1/completions", "POST", self._completions),
            route("/v1/chat/completions", "POST", self._chat),
            route("/v1/models", "GET", self._models),
            route("/v1/models/{model:path}", "GET", self._one_model),
            route("/v1/sessions", "GET", self._export),
            route("/v1/sessions/{session:path}", "GET", self._export),
            route("/v1/sessions/{session:path}", "DELETE", self._delete),
        ]

    def paths(self, schemas: dict[str, Any]) -> dict[str, Any]:
        """Return the description of the routes in OpenAPI; their schemas are added to `schemas`."""
        schemas["OpenAiError"] = {
            "type": "object",
            "properties": {"error": {"type": "object", "required": ["message", "type", "param", "code"]}},
        }
        for kind in (CompletionRequest, ChatRequest):
            schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {}) | {kind.__name__: schema}
        session = {"name": SESSION, "in": "header", "schema": {"type": "string"}}
        named = {"name": "session", "in": "path", "required": True, "schema": {"type": "string"}}
        return {
            "/v1/completions": {"post": _described("completions", request="CompletionRequest")},
            "/v1/chat/completions": {
                "post": _described("chat.completions", request="ChatRequest", parameters=[session])
            },
            "/v1/models": {"get": _described("models")},
            "/v1/models/{model}": {
                "get": _described("models.retrieve", parameters=[named | {"name": "model"}])
            },
            "/v1/sessions": {"get": _described("sessions", answer=LINES)},
            "/v1/sessions/{session}": {
                "get": _described("sessions.export", answer=LINES, parameters=[named]),
                "delete": _described("sessions.delete", parameters=[named]),
            },
        }

    def failed(self, failure: Failure) -> Response:
        """Return an error in OpenAI's form."""
        headers = {}
        if failure.retry_seconds is not None:
            headers["retry-after"] = str(math.ceil(failure.retry_seconds))
        return JSONResponse(_error(failure), failure.status, headers)

    async def _completions(
        self, request: Request, upstream: Upstream, headers: Mapping[str, str]
    ) -> Response:
        body = await self._body(CompletionRequest, request, upstream)
        if SESSION in request.headers:
            raise InvalidInput(SESSION, "records conversations: use it with /v1/chat/completions")
        prompts = await asyncio.to_thread(self._prompts, body.prompt)
        return await self._answer(request, upstream, headers, body, prompts, None)

    async def _chat(self, request: Request, upstream: Upstream, headers: Mapping[str, str]) -> Response:
        body = await self._body(ChatRequest, request, upstream)
        if SESSION not in request.headers:
            ids = await asyncio.to_thread(self._tokenizer.encode_chat, body.pairs)
            return await self._answer(request, upstream, headers, body, [ids], None)
        if body.prefix_token_ids:
            raise InvalidInput("prefix_token_ids", f"cannot be used with {SESSION}: leave out one of them")
        # Before anything is kept for the caller: gRPC's checks of tokens and scopes.
        await upstream.call(GET_INFO, pb.GenerationServiceGetInfoRequest(), headers)
        session = self._sessions.open(upstream.caller(headers), request.headers[SESSION])
        place = await asyncio.to_thread(self._sessions.place, session, body.pairs)
        return await self._answer(request, upstream, headers, body, [place.prompt], place)

    async def _body(self, kind: type[Asked], request: Request, upstream: Upstream) -> Asked:
        body = parsed(kind, await read_json(request, upstream.limit))
        if body.model != self._model:
            raise self._not_served(body.model)
        return body

    def _not_served(self, model: str) -> NotFound:
        return NotFound(f"the model {model!r} is not served here: use {self._model!r}")

    def _prompts(self, prompt: str | list[str] | list[int] | list[list[int]]) -> list[NDArray[np.int32]]:
        """Return prompts as int32 [length] each."""
        several: Sequence[Any] = prompt if isinstance(prompt, list) and not _is_ids(prompt) else [prompt]
        if len(several) > self._limits.max_prompts:
            text = f"{len(several)} prompts; send at most {self._limits.max_prompts} in a request"
            raise InvalidInput("prompt", text)
        return [
            self._tokenizer.encode(each) if isinstance(each, str) else _token_ids(each) for each in several
        ]

    async def _answer(
        self,
        request: Request,
        upstream: Upstream,
        headers: Mapping[str, str],
        body: Body,
        prompts: list[NDArray[np.int32]],
        place: Place | None,
    ) -> Response:
        wanted = body.generate_request(prompts, self._limits.max_model_len)
        answer = Answer(
            body, [ids.tolist() for ids in prompts], self._tokenizer, headers[REQUEST_ID], int(time.time())
        )
        events = _events(upstream, wanted, headers)
        if body.stream:
            # The first event before the status: a refused request is an error and no stream.
            first = await _unless_gone(request, anext(events))
            chunks = _chunks(answer, first, events, place, body.stream_options.include_usage)
            sent = _sent(chunks, request.url.path, headers)
            return StreamingResponse(sent, media_type="text/event-stream")
        rollouts = await _unless_gone(request, _collected(events))
        session = None if place is None else [place.record(rollout) for rollout in rollouts]
        return JSONResponse(answer.whole(rollouts, session))

    async def _models(self, request: Request, upstream: Upstream, headers: Mapping[str, str]) -> Response:
        return JSONResponse({"object": "list", "data": [await self._described_model(upstream, headers)]})

    async def _one_model(self, request: Request, upstream: Upstream, headers: Mapping[str, str]) -> Response:
        found = await self._described_model(upstream, headers)
        if request.path_params["model"] != self._model:
            raise self._not_served(request.path_params["model"])
        return JSONResponse(found)

    async def _described_model(self, upstream: Upstream, headers: Mapping[str, str]) -> dict[str, Any]:
        info = await upstream.call(GET_INFO, pb.GenerationServiceGetInfoRequest(), headers)
        return {
            "id": self._model,
            "object": "model",
            "created": self._created,
            "owned_by": "extra-rl",
            "policy_version": info.policy_version,
            "max_model_len": info.max_model_len,
            "vocab_hash": info.vocab_hash,
        }

    async def _export(self, request: Request, upstream: Upstream, headers: Mapping[str, str]) -> Response:
        await upstream.call(GET_INFO, pb.GenerationServiceGetInfoRequest(), headers)
        found = self._sessions.export(upstream.caller(headers), request.path_params.get("session"))
        lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in found)
        return StreamingResponse(lines, media_type=LINES)

    async def _delete(self, request: Request, upstream: Upstream, headers: Mapping[str, str]) -> Response:
        await upstream.call(GET_INFO, pb.GenerationServiceGetInfoRequest(), headers)
        self._sessions.delete(upstream.caller(headers), request.path_params["session"])
        return JSONResponse({"id": request.path_params["session"], "deleted": True})


async def _events(
    upstream: Upstream, wanted: pb.GenerateRequest, headers: Mapping[str, str]
) -> AsyncGenerator[pb.GenerateResponse, None]:
    """Yield the rollouts and tokens of a request; the first refused prompt fails it."""
    async with aclosing(upstream.stream(GENERATE, wanted, headers)) as events:
        async for event in events:
            if event.HasField("prompt_error"):
                raise _Refused(event.prompt_error.error)
            yield event


async def _collected(events: AsyncIterator[pb.GenerateResponse]) -> list[pb.Rollout]:
    found = [event.rollout async for event in events]
    return sorted(found, key=lambda rollout: (rollout.prompt_index, rollout.sample_index))


async def _chunks(
    answer: Answer,
    first: pb.GenerateResponse,
    events: AsyncGenerator[pb.GenerateResponse, None],
    place: Place | None,
    with_usage: bool,
) -> AsyncGenerator[dict[str, Any], None]:
    async with aclosing(events):
        for chunk in answer.first_chunks():
            yield chunk
        async for event in _with_first(first, events):
            if event.HasField("rollout"):
                session = None if place is None else place.record(event.rollout)
                yield answer.last_chunk(event.rollout, session)
            elif (part := answer.token_chunk(event.token)) is not None:
                yield part
    if with_usage:
        yield answer.usage_chunk()


async def _with_first(
    first: pb.GenerateResponse, events: AsyncIterator[pb.GenerateResponse]
) -> AsyncIterator[pb.GenerateResponse]:
    yield first
    async for event in events:
        yield event


async def _sent(
    chunks: AsyncGenerator[dict[str, Any], None], path: str, headers: Mapping[str, str]
) -> AsyncIterator[str]:
    """Yield chunks as server-sent events; a failure is the last of them, without [DONE]."""
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                yield f"data: {json.dumps(chunk)}\n\n"
    except Exception as error:
        yield f"data: {json.dumps(_error(_failure(error, path, headers)))}\n\n"
        return
    yield "data: [DONE]\n\n"


Result = TypeVar("Result")


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Result] | Awaitable[Result]) -> Result:
    """Return the result of `work`; end it if the caller hangs up, so that nothing is computed for nobody."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise InvalidInput("request", "its caller has hung up")
        return working.result()
    finally:
        gone.cancel()
        working.cancel()


def _failure(error: Exception, path: str, headers: Mapping[str, str]) -> Failure:
    if isinstance(error, _Refused):
        told = error.error
        text = f"{told.field}: {told.message}" if told.field else told.message
        return Failure(CODES[told.code], text, told.field)
    return failure_of(error, path, headers)


def _error(failure: Failure) -> dict[str, Any]:
    param = failure.field.removeprefix("sampling.")
    name, bracket, rest = param.partition("[")
    param = _NAMES.get(name, name) + bracket + rest
    message = failure.message.removeprefix(f"{failure.field}: ")
    status = failure.status
    return {
        "error": {
            "message": f"{param}: {message}" if param else message,
            "type": _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error"),
            "param": param or None,
            "code": failure.code.value,
        }
    }


def _is_ids(prompt: Sequence[Any]) -> bool:
    return bool(prompt) and isinstance(prompt[0], int)


def _token_ids(ids: Sequence[int]) -> NDArray[np.int32]:
    try:
        return np.array(ids, np.int32)
    except OverflowError as error:
        raise InvalidInput("prompt", "holds a number that is no token id") from error


def _described(
    name: str, *, request: str = "", answer: str = "application/json", parameters: Sequence[Any] = ()
) -> dict[str, Any]:
    """Return the description of a route in OpenAPI."""
    failure = {"schema": {"$ref": "#/components/schemas/OpenAiError"}}
    described: dict[str, Any] = {
        "operationId": f"v1.{name}",
        "tags": ["OpenAI"],
        "parameters": list(parameters),
        "responses": {
            "200": {"description": "The answer.", "content": {answer: {}}},
            "default": {"description": "It failed.", "content": {"application/json": failure}},
        },
    }
    if request:
        schema = {"schema": {"$ref": f"#/components/schemas/{request}"}}
        described["requestBody"] = {"required": True, "content": {"application/json": schema}}
        described["responses"]["200"]["content"]["text/event-stream"] = {}
    return described
