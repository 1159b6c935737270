"""Readers of the JSON and of the URL's parameters of a reward contract; what is wrong is named."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeVar

from extra_services.errors import InvalidInput

Member = TypeVar("Member", bound=StrEnum)


def value(body: Any, name: str) -> Any:
    """Return a field of the request.

    Raises:
        InvalidInput: It is missing.
    """
    if not isinstance(body, dict) or name not in body:
        raise InvalidInput(name, "is missing: the request must be a JSON object that has it")
    return body[name]


def listed(body: Any, name: str) -> list[Any]:
    """Return a field that must be a list.

    Raises:
        InvalidInput: It is missing, or no list.
    """
    found = value(body, name)
    if not isinstance(found, list):
        raise InvalidInput(name, f"must be a list, not {type(found).__name__}")
    return found


def text(given: Any, name: str) -> str:
    """Return a value that must be a text.

    Raises:
        InvalidInput: It is none.
    """
    if not isinstance(given, str):
        raise InvalidInput(name, f"must be a text, not {type(given).__name__}")
    return given


def responses(queries: Sequence[Any], prompts: Sequence[Any]) -> list[str]:
    """Return OpenRLHF's queries without the prompts that they begin with.

    Raises:
        InvalidInput: One of them is no text.
    """
    return [
        text(query, f"query[{index}]").removeprefix(text(prompt, f"prompts[{index}]"))
        for index, (query, prompt) in enumerate(zip(queries, prompts, strict=True))
    ]


def sendable(given: str) -> str:
    """Return a text as it can be sent: a lone surrogate, which JSON can hold, becomes a question mark."""
    return given.encode("utf-8", "replace").decode()


def check_parameters(query: Mapping[str, str], known: Sequence[str]) -> None:
    """Check the names of the URL's parameters.

    Raises:
        InvalidInput: One of them is unknown.
    """
    unknown = sorted(set(query) - set(known))
    if unknown:
        raise InvalidInput(unknown[0], f"is no parameter: there are {', '.join(known[:-1])} and {known[-1]}")


def member(kind: type[Member], query: Mapping[str, str], name: str, default: Member) -> Member:
    """Return the member of an enum that a parameter of the URL names.

    Raises:
        InvalidInput: It names none.
    """
    try:
        return kind(query.get(name, default))
    except ValueError as error:
        raise InvalidInput(name, f"{query[name]!r} is none of {', '.join(kind)}") from error
