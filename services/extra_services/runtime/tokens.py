"""Bearer tokens: identity of callers, and what they may do.

The config holds the SHA-256 of each token, so that reading it does not allow to call. A plain hash is enough:
tokens are made here from 256 random bits, which no dictionary holds; slow hashes are for passwords. A token
is compared with all known ones, each in constant time, so that the time reveals nothing. The rights of a
token are scopes by patterns of namespaces; a scope includes the lesser ones.

Tokens may be in a file that is replaced while the server runs. It is looked at before each call: a token that
is not in it any more is unknown from then on. A file that cannot be used is logged once, and the tokens stay.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from extra_rl.config_file import ConfigError, explain, read_yaml
from extra_services.errors import PermissionDenied, Unauthenticated
from extra_services.runtime.limits import RateLimit

log = structlog.get_logger()

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
        self.settings = settings
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


class TokensFile(BaseModel):
    """The content of a file of tokens."""

    model_config = ConfigDict(extra="forbid")

    tokens: list[TokenSettings]

    @model_validator(mode="after")
    def _differ(self) -> "TokensFile":
        check_distinct(self.tokens)
        return self


class Tokens:
    """All tokens of a server.

    Args:
        settings: The tokens.
        file: YAML file of further ones, read again when it changes.

    Raises:
        ConfigError: The file cannot be used.
    """

    def __init__(self, settings: Sequence[TokenSettings], file: Path | None = None) -> None:
        self._tokens = [Token(each) for each in settings]
        self._file = file
        self._seen: object = None
        if file is not None:
            self._seen = _stamp(file)
            self._take(_read(file))

    @property
    def required(self) -> bool:
        """Whether callers must send one; an empty file leaves none that would do."""
        return bool(self._tokens) or self._file is not None

    def identify(self, metadata: Iterable[tuple[str, str | bytes]]) -> Token:
        """Return the token in the call's metadata.

        Raises:
            Unauthenticated: There is none, or it is unknown.
        """
        self._reload()
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

    def _reload(self) -> None:
        if self._file is None or (stamp := _stamp(self._file)) == self._seen:
            return
        self._seen = stamp
        try:
            self._take(_read(self._file))
        except ConfigError as error:
            log.error("the file of tokens cannot be used, the old tokens stay", error=str(error))
            return
        log.info("new tokens", names=[token.name for token in self._tokens])

    def _take(self, settings: Iterable[TokenSettings]) -> None:
        """Use these tokens; one that stays as it is keeps its rate limit's count."""
        known = self._tokens
        self._tokens = [
            next((token for token in known if token.settings == each), None) or Token(each)
            for each in settings
        ]

    def _find(self, digest: bytes) -> Token | None:
        found = None
        for token in self._tokens:
            # Compare with all, also after a match.
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found


def _read(file: Path) -> list[TokenSettings]:
    try:
        return TokensFile.model_validate(read_yaml(file)).tokens
    except ValidationError as error:
        raise ConfigError(f"{file}: {explain(error, TokensFile)}") from error


def _stamp(file: Path) -> object:
    """Return what changes whenever the file does; None if there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def check_distinct(tokens: Sequence[TokenSettings]) -> None:
    """Raise ValueError if two tokens share a name or a hash."""
    for values in ([token.name for token in tokens], [token.sha256 for token in tokens]):
        if len(set(values)) < len(values):
            raise ValueError("tokens must differ in name and in sha256")


def mint() -> tuple[str, str]:
    """Return a new token of 256 random bits, and its SHA-256 in hex."""
    token = PREFIX + secrets.token_urlsafe(32)
    return token, hashlib.sha256(token.encode()).hexdigest()
