"""Settings from YAML into pydantic models, with errors that say what to change.

Services and trainer both read YAML and neither may import the other, so the shared code is here. It needs
pydantic and PyYAML.
"""

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says where and what to do."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        ConfigError: There is no such file, or it holds anything else.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read config file {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, not a {type(content).__name__}")
    return content


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return one line per problem: its path, the problem, and for an unknown key the nearest known name."""
    return "\n".join(_explain_one(dict(problem), model) for problem in error.errors())


def _explain_one(problem: dict[str, Any], model: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        # The content of a whole section would hide the message. And a wrong value in `tokens` may be a
        # secret.
        hidden = isinstance(problem["input"], dict) or problem["loc"][:1] == ("tokens",)
        got = "" if hidden else f" (got {problem['input']!r})"
        return f"{path}: {problem['msg']}{got}".removeprefix(": ")
    known = _fields_at(model, problem["loc"][:-1])
    near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.0)
    return f"{path}: unknown setting; did you mean {near[0]!r}?" if near else f"{path}: unknown setting"


def _fields_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None or not (
            isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        ):
            return []
        model = field.annotation
    return list(model.model_fields)
