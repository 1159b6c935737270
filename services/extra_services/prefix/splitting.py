"""Where a rollout of a hard prompt is cut into prefixes.

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
    """Lengths of the prefixes of a rollout, int32 [length], in tokens, rising.

    Each ends with a newline token. Boundaries closer than `min_segment_tokens` to the last kept one are
    merged; the last one, if there are several, is dropped, for what follows it is only the end of the
    response; of more than 15, 15 are kept, evenly spaced.
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
