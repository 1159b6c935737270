"""slime's rollouts: the files of `--save-debug-rollout-data PATH_{rollout_id}.pt`.

A file holds {"rollout_id": ..., "samples": [...]}, each sample as `Sample.to_dict` returns it, with the
tokens of prompt and response. Such files are pickles: torch reads them with `weights_only`, which runs no
code of theirs.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from extra_inspector.imports.foreign import (
    ForeignRollout,
    conversation_text,
    judged,
    messages_of,
    number_of,
    numbers_of,
    reference,
)
from extra_rl.config_file import ConfigError
from extra_rl.vocabulary import FinishReason

#: What slime calls the reasons for which a sample ended; others say nothing of the kind.
FINISH_REASONS = {
    "completed": FinishReason.STOP,
    "truncated": FinishReason.LENGTH,
    "aborted": FinishReason.ABORT,
}


def files(source: Path) -> list[Path]:
    """Return the files in a folder, by rollout, without those of evaluations; of a file itself."""
    if source.is_file():
        return [source] if source.suffix == ".pt" else []
    found = [path for path in source.glob("*.pt") if "eval_" not in path.name]
    return sorted(found, key=lambda path: [int(part) for part in re.findall(r"\d+", path.stem)])


def read(path: Path) -> Iterator[ForeignRollout]:
    """Yield the samples of a file.

    Raises:
        ConfigError: The file is none of slime's, or holds objects that are not read.
    """
    content = _loaded(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("samples"), list):
        raise ConfigError(f"{path} is no file of --save-debug-rollout-data: it holds no samples")
    for sample in content["samples"]:
        try:
            yield _rollout(int(content["rollout_id"]), sample)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}: a sample cannot be read: {error!r}") from error


def _rollout(step: int, sample: Mapping[str, Any]) -> ForeignRollout:
    tokens = [int(token) for token in sample["tokens"]]
    length = int(sample["response_length"])
    first = len(tokens) - length
    reward, group = sample.get("reward"), sample.get("group_index")
    parts = reward if isinstance(reward, Mapping) else {"reward": number_of(reward)}
    versions = sample.get("weight_versions") or ()
    return ForeignRollout(
        step=step,
        # The tokens themselves, if there are any: what the model saw.
        sent=tokens[:first] or messages_of(sample["prompt"]),
        prompt=conversation_text(sample["prompt"]),
        text=sample["response"],
        answer=reference(sample.get("label")),
        group="" if group is None else str(group),
        finish_reason=FINISH_REASONS.get(sample.get("status", "")),
        token_ids=tokens[first:] if length else (),
        policy_version=int(versions[0]) if versions and str(versions[0]).isdecimal() else None,
        logged=numbers_of(parts),
        **judged(parts, "slime"),
    )


def _loaded(path: Path) -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ConfigError("slime's files are torch's, which need torch: pip install torch") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many kinds for what is no file of its own
        raise ConfigError(
            f"{path} cannot be read without running code in it, so it is not read: {error}"
        ) from error
