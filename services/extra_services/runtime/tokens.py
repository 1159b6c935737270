"""Bearer tokens: identity of callers, and what they may do.

The config holds the SHA-256 of each token, so that reading it does not allow to call. A plain hash is enough:
tokens are made here from 256 random bits, which no dictionary holds; slow hashes are for passwords. A token
is compared with all known ones, each in constant time, so that the time reveals nothing. The rights of a
token are scopes by patterns of namespaces; a scope includes the lesser ones.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from extra_services.errors import PermissionDenied, Unauthenticated
from extra_services.runtime.limits import RateLimit

Scope = Literal["read", "write", "admin"]
#: From the least to the greatest, which includes all.
SCOPES: tuple[Scope, ...] = ("read", "write", "admin")
#: First characters of every token, for scanners that look for leaked ones.
PREFIX = "extra_rl_"


class TokenSettings(BaseModel):
    """One token in the config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, description="Who has it; appears in logs.")
    sha256: str = Field(description="SHA-256 of the token, in hex; `extra-rl token NAME` makes both.")
    scopes: dict[str, Scope] = Field(
        min_length=1, description="Namespace pattern, such as run-1* or *, to read, write or admin."
    )
    requests_per_second: float | None = Field(None, gt=0, description="Calls a second; absent: any number.")

    @model_validator(mode="after")
    def _hash_is_one(self) -> "TokenSettings":
        # A check of the model and not of the field: the error must not repeat a value that may be the token.
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError("sha256 must be the 64 lower-case hex digits that `extra-rl token` prints")
        return self


class Token:
    """A token in use: its settings and its rate limit."""

    def __init__(self, settings: TokenSettings) -> None:
        self.name = settings.name
        self.digest = bytes.fromhex(settings.sha256)
        self._scopes = settings.scopes
        self._limit = RateLimit(settings.requests_per_second) if settings.requests_per_second else None

    def count(self) -> None:
        """Count a call; raise Overloaded if it is one too many."""
        if self._limit:
            self._limit.take()

    def require(self, scope: Scope, namespace: str) -> None:
        """Raise PermissionDenied unless the token has at least `scope` in `namespace`."""
        enough = SCOPES[SCOPES.index(scope) :]
        if not any(have in enough and fnmatchcase(namespace, glob) for glob, have in self._scopes.items()):
            raise PermissionDenied(f"token {self.name!r} has no scope {scope!r} for namespace {namespace!r}")


class Tokens:
    """All tokens of a server."""

    def __init__(self, settings: Iterable[TokenSettings]) -> None:
        self._tokens = [Token(each) for each in settings]

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def identify(self, metadata: Iterable[tuple[str, str | bytes]]) -> Token:
        """Return the token in the call's metadata.

        Raises:
            Unauthenticated: There is none, or it is unknown.
        """
        values = [value for key, value in metadata if key == "authorization"]
        if not values:
            raise Unauthenticated("this server wants a token: send metadata `authorization: Bearer TOKEN`")
        kind, _, token = str(values[0]).partition(" ")
        if len(values) > 1 or kind.lower() != "bearer":
            raise Unauthenticated("metadata `authorization` must be there once, as `Bearer TOKEN`")
        found = self._find(hashlib.sha256(token.strip().encode()).digest())
        if found is None:
            raise Unauthenticated("the token is not one of those this server knows")
        return found

    def _find(self, digest: bytes) -> Token | None:
        found = None
        for token in self._tokens:
            # Compare with all, also after a match.
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found


def check_distinct(tokens: Sequence[TokenSettings]) -> None:
    """Raise ValueError if two tokens share a name or a hash."""
    for values in ([token.name for token in tokens], [token.sha256 for token in tokens]):
        if len(set(values)) < len(values):
            raise ValueError("tokens must differ in name and in sha256")


def mint() -> tuple[str, str]:
    """Return a new token of 256 random bits, and its SHA-256 in hex."""
    token = PREFIX + secrets.token_urlsafe(32)
    return token, hashlib.sha256(token.encode()).hexdigest()
