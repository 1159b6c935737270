"""What a run keeps of a step, as JSON: rollouts with their tokens, and which prefixes were split and chosen.

Tokens and entropies are deflated and kept as base64, so that a line stays short: for each token a few bytes.
What tokens read is kept once a run (RunFolder.vocabulary). A candidate prefix is named by a digest of its
text: the text itself is that of a rollout which was split earlier.
"""

import base64
import hashlib
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from extra_client import Nearest, PrefixCandidate
    from extra_trainer.exploration.results import GroupNovelty, PrefixChoice
    from extra_trainer.rollouts.collector import Group

#: Characters of a verdict's explanation at most.
DETAIL_CHARACTERS = 500


def rollouts(groups: "Sequence[Group]", novelty: "Sequence[GroupNovelty]") -> list[dict[str, Any]]:
    """A record a rollout, groups in order."""
    return [
        _rollout(place, group, sample, scores)
        for place, (group, scores) in enumerate(zip(groups, novelty, strict=True))
        for sample in range(len(group.rollouts))
    ]


def _rollout(place: int, group: "Group", sample: int, scores: "GroupNovelty") -> dict[str, Any]:
    request, rollout, verdict = group.request, group.rollouts[sample], group.verdicts[sample]
    return {
        "prompt_id": request.prompt_id,
        "prompt": request.prompt,
        "answer": request.answer,
        "guided": request.guided,
        "prefix_id": request.prefix_id,
        "prefix_tokens": len(request.prefix_tokens),
        "group": place,
        "sample": sample,
        "text": rollout.text,
        "finish_reason": str(rollout.finish_reason),
        "status": str(verdict.status),
        "extracted": verdict.extracted,
        "rule": verdict.rule,
        "detail": verdict.detail[:DETAIL_CHARACTERS],
        "compared": [verdict.normalized_response, verdict.normalized_answer],
        "novelty": round(float(scores.raw[sample]), 6),
        "nearest": _nearest(scores.nearest[sample]) if scores.nearest else None,
        "policy_version": rollout.policy_version,
        "tokens": len(rollout.token_ids),
        "mean_entropy": round(float(rollout.entropies.mean()), 5),
        # Of the prefix and the continuation, and of the continuation alone.
        "token_ids": packed(np.concatenate([np.array(request.prefix_tokens, np.int32), rollout.token_ids])),
        "entropies": packed(rollout.entropies.astype(np.float16)),
    }


def _nearest(nearest: "Nearest | None") -> dict[str, Any] | None:
    """Where the nearest neighbour is: a sample of the group, or a solution by its number in its prompt."""
    if nearest is None:
        return None
    where = {"solution": nearest.solution_id} if nearest.sibling is None else {"sample": nearest.sibling}
    return {**where, "similarity": round(nearest.similarity, 6)}


def choices(made: "Sequence[PrefixChoice]") -> list[dict[str, Any]]:
    """A record a hard group."""
    return [
        {
            "group": choice.place,
            "prompt_id": choice.prompt_id,
            "sample": choice.sample,
            "lengths": list(choice.lengths),
            "characters": list(choice.characters),
            "selected": choice.selected.prefix_id if choice.selected else None,
            "candidates": None if choice.candidates is None else [_candidate(c) for c in choice.candidates],
        }
        for choice in made
    ]


def _candidate(candidate: "PrefixCandidate") -> dict[str, Any]:
    return {
        "prefix_id": candidate.prefix_id,
        "text_digest": text_digest(candidate.text),
        "length": candidate.length,
        "mean_entropy": round(candidate.mean_entropy, 6),
        "smoothed_entropy": round(candidate.smoothed_entropy, 6),
        "rollouts": candidate.rollouts,
        "successes": candidate.successes,
        "score": round(candidate.score, 6),
        "dropped": candidate.dropped,
    }


def text_digest(text: str) -> str:
    """Names a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def packed(values: NDArray[Any]) -> str:
    """An array as text; little-endian."""
    data = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()
    # Level 1: entropies and token ids hardly gain by more, and a step waits for it.
    return base64.b64encode(zlib.compress(data, 1)).decode()


def unpacked(text: str, dtype: str) -> NDArray[Any]:
    """What `packed` was given; dtype "<i4" or "<f2"."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=dtype)
