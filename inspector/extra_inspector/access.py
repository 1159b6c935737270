"""Access to the page.

On the loopback interface every user of this machine has access, but only under a name of this machine: a web
site whose name resolves to this machine (DNS rebinding) is refused. On other interfaces a bearer token is
required; the inspector knows its SHA-256, in the form of the services' tokens. A browser gets the token once,
as `?token=...`, and keeps it in a cookie that scripts cannot read and other sites do not send.
"""

import hashlib
import hmac
from dataclasses import dataclass
from http.cookies import SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

COOKIE = "extra_rl_inspect"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: Headers of every response: no other site may embed the page, and the browser sends it no referrer.
HEADERS = (
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


@dataclass
class Guard:
    """ASGI middleware. `sha256` is the token's hash in hex; empty: no token, and only names of loopback."""

    app: ASGIApp
    sha256: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on allowed requests, and answer the others."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(headers, scope)
        if refusal is None:
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, send)

    def _refusal(self, headers: Headers, scope: Scope) -> PlainTextResponse | RedirectResponse | None:
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host", ""):
            return PlainTextResponse("This page cannot be used from other sites.\n", 403)
        if not self.sha256:
            if (urlsplit(f"//{headers.get('host', '')}").hostname or "") in LOOPBACK:
                return None
            return PlainTextResponse("This page is served only under a name of this machine.\n", 403)
        if self._known(_bearer(headers)) or self._known(_cookie(headers)):
            return None
        parameters = dict(parse_qsl(scope.get("query_string", b"").decode()))
        token = parameters.pop("token", "")
        if scope["type"] == "http" and self._known(token):
            rest = urlencode(parameters)
            answer = RedirectResponse(scope["path"] + (f"?{rest}" if rest else ""), 303)
            answer.set_cookie(COOKIE, token, httponly=True, samesite="strict")
            return answer
        return PlainTextResponse(
            "A token is needed: open this address with ?token=TOKEN, or send Authorization: Bearer TOKEN.\n",
            401,
            {"WWW-Authenticate": "Bearer"},
        )

    def _known(self, token: str) -> bool:
        return hmac.compare_digest(hashlib.sha256(token.encode()).hexdigest(), self.sha256)


def _bearer(headers: Headers) -> str:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _cookie(headers: Headers) -> str:
    found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    return found.value if found else ""


def _with_headers(send: Send) -> Send:
    async def wrapped(message: dict) -> None:  # type: ignore[type-arg]
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *HEADERS]
        await send(message)

    return wrapped  # type: ignore[return-value]
