"""A rollout as another trainer logged it, and how values of logs are read."""

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from extra_client.integrations import content_text
from extra_rl.references import Answer, InvalidReference, answer_of, reference_texts
from extra_rl.vocabulary import FinishReason, VerdictStatus

#: Columns in which logs hold the reference answer, beside those of the trainer itself.
ANSWER_COLUMNS = ("answer", "solution", "ground_truth", "label", "target")


@dataclass(frozen=True, kw_only=True)
class ForeignRollout:
    """One rollout of a log; what the log does not say is None, or empty."""

    step: int
    #: What the model continued: a text, messages, or token ids; None if the log does not hold it by itself.
    sent: Any = None
    #: The prompt as a person reads it.
    prompt: str = ""
    text: str
    answer: Answer = ""
    #: What the rollouts of one group share; "": the prompt.
    group: str = ""
    finish_reason: FinishReason | None = None
    status: VerdictStatus | None = None
    #: The name of the log's own judgement, from which `status` is.
    rule: str = ""
    extracted: str = ""
    #: Sampled tokens.
    token_ids: Sequence[int] = ()
    policy_version: int | None = None
    #: Further numbers of the log, by name.
    logged: Mapping[str, float] = field(default_factory=dict)


def valid_text(text: str) -> str:
    """Return a text with U+FFFD in the place of lone surrogates, which no file can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def conversation_text(content: Any) -> str:
    """Return a prompt or a completion, a text or messages, as a person reads it."""
    if isinstance(content, str):
        return content
    messages = list(content)
    if len(messages) == 1:
        return content_text(messages[0])
    return "\n\n".join(f"{message.get('role', '?')}: {content_text(message)}" for message in messages)


def messages_of(content: Any) -> Any:
    """Return a prompt as the generation client takes it: a text, or messages of plain text."""
    if isinstance(content, str):
        return content
    return [{"role": str(m.get("role", "user")), "content": content_text(m)} for m in content]


def reference(value: Any) -> Answer:
    """Return a reference answer of a log, "" if it is missing or of a kind that nobody can verify."""
    try:
        return answer_of(reference_texts(value))
    except InvalidReference:
        return ""


def number_of(value: Any) -> float | None:
    """Return a number of a log, None for other values, truth values and NaN."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    return None if math.isnan(value) else float(value)


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among the values of a log, by name."""
    found = {name: number_of(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}


def judged(values: Mapping[str, Any], trainer: str) -> dict[str, Any]:
    """Return status, rule and extracted answer from a log's `acc` and `pred`, the names in verl and slime.

    A reward is no judgement: only `acc`, which says whether the answer is right, becomes a verdict.
    """
    right, answer = values.get("acc"), values.get("pred")
    if right not in (0, 1):
        return {}
    status = VerdictStatus.CORRECT if right else VerdictStatus.WRONG
    return {"status": status, "rule": f"acc of {trainer}", "extracted": "" if answer is None else str(answer)}
