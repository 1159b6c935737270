"""The record of one rollout, with its JSON form: a line of a run folder's `rollouts/step-N.jsonl`.

The trainer writes it, and so do the sessions of the generation server; reports and inspector read it. A
reader ignores keys that it does not know. Token ids and entropies are compressed and stored as base64, a few
bytes a token.
"""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extra_rl.config_file import ConfigError
from extra_rl.groups import is_decided
from extra_rl.references import Answer, answer_of
from extra_rl.vocabulary import FinishReason, UnparseableSide, VerdictStatus


class RecordError(ConfigError):
    """A record or run folder that this release cannot read; the message says why."""


@dataclass(frozen=True, slots=True)
class NearestRecord:
    """The nearest neighbour of a rollout: a sample of its group, or a stored solution of its prompt.

    `solution` counts the solutions ever stored of the prompt. If neither is set, it is a rollout of another
    group of the prompt in the same step.
    """

    similarity: float
    sample: int | None = None
    solution: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        where = {"solution": self.solution} if self.sample is None else {"sample": self.sample}
        return {**where, "similarity": self.similarity}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "NearestRecord":
        """Read the JSON form.

        Raises:
            RecordError: A key is missing.
        """
        try:
            return cls(content["similarity"], content.get("sample"), content.get("solution"))
        except KeyError as error:
            raise missing_key("a nearest neighbour", error) from error


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """One rollout of a step, with its verdict and novelty."""

    prompt_id: str
    prompt: str
    answer: Answer
    #: Whether the rollout continues a hard prompt, from the prefix `prefix_id` ("": without a prefix).
    guided: bool
    prefix_id: str
    prefix_tokens: int
    #: Place of the group in its step, and of the rollout in its group, from 0.
    group: int
    sample: int
    #: Text of the prefix and the continuation.
    text: str
    #: None if an imported run does not say it.
    finish_reason: FinishReason | None
    #: None if nobody has verified an imported rollout.
    status: VerdictStatus | None
    #: Set if the status is "unparseable".
    unparseable_side: UnparseableSide | None
    #: The answer that was read from the response.
    extracted: str
    #: The verifier's rule that decided, and its explanation.
    rule: str
    detail: str
    #: The two answers as they were compared.
    normalized_response: str
    normalized_answer: str
    #: As measured, before scaling; 0 if the rollout was not scored, None in an imported run.
    novelty: float | None
    #: None if the rollout was not scored or there was nothing to compare with.
    nearest: NearestRecord | None
    #: Why the novelty service found the rollout suspicious; "" if it did not, or did not score it.
    suspicious: str
    #: Steps that no remembered solution had (metric derivation), the first few.
    new_steps: tuple[str, ...]
    #: Characters behind the final answer.
    behind_answer: int
    #: Times that the answer was given to the prompt in the groups that outcome novelty acted on, this one
    #: included; 0 if the answer is missing. None if outcome novelty did not score the rollout.
    times_given: float | None
    #: Part of the advantage that is from outcome novelty.
    outcome_bonus: float
    #: None if an imported run does not say it; likewise the next two.
    policy_version: int | None
    #: Length of the continuation.
    tokens: int | None
    #: In nats a token, over the continuation.
    mean_entropy: float | None
    #: `token_ids` and `entropies` as `pack_array` returns them.
    packed_token_ids: str
    packed_entropies: str
    #: From verifiers that give a score in [0, 1], and its parts by name.
    score: float | None = None
    components: Mapping[str, float] = field(default_factory=dict)
    #: Whether it was cut off and therefore left out (`rollout.overlong: mask`): it counts for nothing.
    masked: bool = False
    #: What another trainer logged about an imported rollout, by name: rewards, advantage, ...
    logged: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def unjudged(cls, **known: Any) -> "RolloutRecord":
        """Return a rollout that nobody has verified or scored, and that no prefix guided.

        Args:
            **known: Fields with other values than those that say so; all the others must be among them.
        """
        unknown: dict[str, Any] = {
            "guided": False,
            "prefix_id": "",
            "status": None,
            "unparseable_side": None,
            "extracted": "",
            "rule": "",
            "detail": "",
            "normalized_response": "",
            "normalized_answer": "",
            "novelty": None,
            "nearest": None,
            "suspicious": "",
            "new_steps": (),
            "behind_answer": 0,
            "times_given": None,
            "outcome_bonus": 0.0,
        }
        return cls(**(unknown | known))

    @property
    def token_ids(self) -> NDArray[np.int32]:
        """Tokens of the prefix and the continuation, int32 [prefix_tokens + tokens]."""
        return unpack_array(self.packed_token_ids, "<i4")

    @property
    def entropies(self) -> NDArray[np.float16]:
        """Entropies of the continuation's tokens in nats, float16 [tokens]."""
        return unpack_array(self.packed_entropies, "<f2")

    @property
    def correct(self) -> bool:
        """True if the response was found correct, and is not masked."""
        return self.status is VerdictStatus.CORRECT and not self.masked

    @property
    def decided(self) -> bool:
        """True if there is a verdict that says anything about the response, and it is not masked."""
        if self.masked or self.status is None:
            return False
        return is_decided(self.status, self.unparseable_side)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "prompt_id": self.prompt_id,
            "prompt": self.prompt,
            "answer": self.answer if isinstance(self.answer, str) else list(self.answer),
            "guided": self.guided,
            "prefix_id": self.prefix_id,
            "prefix_tokens": self.prefix_tokens,
            "group": self.group,
            "sample": self.sample,
            "text": self.text,
            "finish_reason": self.finish_reason,
            "status": self.status,
            "unparseable_side": self.unparseable_side,
            "extracted": self.extracted,
            "rule": self.rule,
            "detail": self.detail,
            "compared": [self.normalized_response, self.normalized_answer],
            "novelty": self.novelty,
            "nearest": self.nearest.to_json() if self.nearest else None,
            "suspicious": self.suspicious,
            "new_steps": list(self.new_steps),
            "behind_answer": self.behind_answer,
            "times_given": self.times_given,
            "outcome_bonus": self.outcome_bonus,
            "policy_version": self.policy_version,
            "tokens": self.tokens,
            "mean_entropy": self.mean_entropy,
            "token_ids": self.packed_token_ids,
            "entropies": self.packed_entropies,
            **({} if self.score is None else {"score": self.score, "components": dict(self.components)}),
            "masked": self.masked,
            **({"logged": dict(self.logged)} if self.logged else {}),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "RolloutRecord":
        """Read the JSON form; unknown keys are ignored.

        Raises:
            RecordError: A key is missing, or the value of an enum is unknown.
        """
        try:
            status = None if content["status"] is None else VerdictStatus(content["status"])
            finish_reason = content["finish_reason"]
            normalized_response, normalized_answer = content["compared"]
            nearest = content["nearest"]
            return cls(
                prompt_id=content["prompt_id"],
                prompt=content["prompt"],
                answer=answer_of(content["answer"]),
                guided=content["guided"],
                prefix_id=content["prefix_id"],
                prefix_tokens=content["prefix_tokens"],
                group=content["group"],
                sample=content["sample"],
                text=content["text"],
                finish_reason=None if finish_reason is None else FinishReason(finish_reason),
                status=status,
                unparseable_side=_unparseable_side(status, content.get("unparseable_side")),
                extracted=content["extracted"],
                rule=content["rule"],
                detail=content["detail"],
                normalized_response=normalized_response,
                normalized_answer=normalized_answer,
                novelty=content["novelty"],
                nearest=None if nearest is None else NearestRecord.from_json(nearest),
                suspicious=content.get("suspicious", ""),
                new_steps=tuple(content.get("new_steps", ())),
                behind_answer=content.get("behind_answer", 0),
                times_given=content.get("times_given"),
                outcome_bonus=content.get("outcome_bonus", 0.0),
                policy_version=content["policy_version"],
                tokens=content["tokens"],
                mean_entropy=content["mean_entropy"],
                packed_token_ids=content["token_ids"],
                packed_entropies=content["entropies"],
                score=content.get("score"),
                components=content.get("components", {}),
                masked=content.get("masked", False),
                logged=content.get("logged", {}),
            )
        except KeyError as error:
            raise missing_key("a rollout", error) from error
        except (TypeError, ValueError) as error:
            raise RecordError(f"a rollout cannot be read: {error}") from error


def _unparseable_side(status: VerdictStatus | None, side: str | None) -> UnparseableSide | None:
    if status is not VerdictStatus.UNPARSEABLE:
        return None
    # Version 1.0 stored the status alone; far more responses than reference answers cannot be read.
    return UnparseableSide(side) if side else UnparseableSide.RESPONSE


def pack_array(values: NDArray[Any]) -> str:
    """Encode an array as compressed little-endian bytes in base64."""
    data = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()
    # Level 1: higher levels hardly shrink token ids and entropies, and the step waits for this.
    return base64.b64encode(zlib.compress(data, 1)).decode()


def unpack_array(text: str, dtype: str) -> NDArray[Any]:
    """Decode what `pack_array` returned.

    Args:
        text: The encoded array.
        dtype: NumPy's name of its type, with byte order: "<i4" for token ids, "<f2" for entropies.
    """
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=dtype)


def missing_key(kind: str, error: KeyError) -> RecordError:
    """Return the error of a record, of the kind `kind`, that lacks a key."""
    return RecordError(f"{kind} cannot be read: the key {error} is missing in its record")
