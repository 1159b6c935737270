"""Splits a rollout of a hard prompt into prefixes.

Source: ExTra (arXiv 2606.24994), as its reference code does it; section 4 of docs/algorithm.md, step 1.
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

#: Prefixes of one rollout at most.
MAX_PREFIXES = 15


def boundaries(
    token_ids: NDArray[np.int32], newline_token_ids: Collection[int], min_segment_tokens: int
) -> list[int]:
    """Return the lengths of a rollout's prefixes in tokens, rising.

    Each prefix ends with a newline token. Boundaries closer than `min_segment_tokens` to the last kept one
    are merged. If there are several, the last one is dropped, because only the end of the response follows
    it. Of more than 15, 15 are kept, evenly spaced.

    Args:
        token_ids: Tokens of the rollout, int32 [length].
        newline_token_ids: Tokens whose text contains a newline.
        min_segment_tokens: Least distance of two boundaries.
    """
    newlines = np.flatnonzero(np.isin(token_ids, list(newline_token_ids))) + 1
    kept: list[int] = []
    for boundary in newlines.tolist():
        if not kept or boundary - kept[-1] >= min_segment_tokens:
            kept.append(boundary)
    if len(kept) > 1:
        kept.pop()
    if len(kept) > MAX_PREFIXES:
        kept = [kept[i * len(kept) // MAX_PREFIXES] for i in range(MAX_PREFIXES)]
    return kept
