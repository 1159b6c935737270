"""Draw tokens so that a draw depends on seed, indices and logits, and not on the other rows of the batch.

A token is drawn by the Gumbel-max trick: the largest of log-probability + Gumbel noise, over the tokens that
top-k, top-p and min-p leave. The noise is counter-based: numpy's Philox, keyed by (seed, prompt_index,
sample_index), gives each sample one 64-bit key per token, and an integer hash of (key, token id) gives the
noise of each token id. So the noise does not depend on the batch. The last bits of the logits do, since
matrix products round differently at different batch sizes. Where the two best candidates lie closer than
`TIE`, that could change the draw; `draw` reports such rows, and the engine computes the position again for
that sample alone. The alternative, a uniform number in the cumulative distribution, is more sensitive: there
rounding moves every boundary, and with more tokens more draws lie near one.

Log-probabilities and entropies come from the float32 log-softmax that is sampled from, before filters; those
after filters are computed on request.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from extra_services.generation.requests import SamplingParameters

#: In nats at temperature 1: above the rounding noise of float32 logits (about 1e-5), which a lower
#: temperature multiplies; about one draw in 1e4 is closer.
TIE = 1e-4


def noise_keys(seed: int, prompt_index: int, sample_index: int, count: int) -> NDArray[np.int32]:
    """Return int32 [count, 2]: one key for each token that the sample may draw."""
    philox = np.random.Philox(np.random.SeedSequence([seed, prompt_index, sample_index]))
    return philox.random_raw(count).view(np.int32).reshape(count, 2)


@dataclass(frozen=True)
class RowParameters:
    """Sampling parameters of the rows of a batch, as tensors [rows] on its device."""

    #: Softmax temperature; 1 where the row is greedy.
    temperature: torch.Tensor
    #: Factor of the noise: 0 where the row is greedy, else 1.
    noise: torch.Tensor
    #: int64; the vocabulary size where it is off.
    top_k: torch.Tensor
    top_p: torch.Tensor
    #: Log of min-p; -inf where it is off.
    log_min_p: torch.Tensor
    #: Whether any row has a temperature other than 1.
    scaled: bool
    #: Whether any row needs entropies at temperature 1 too.
    raw: bool
    #: Whether any row is filtered; otherwise the cost of filters is saved.
    filtered: bool
    #: Whether any row needs the numbers of the distribution that filters leave.
    truncated: bool = False

    @classmethod
    def of(
        cls,
        rows: list[SamplingParameters],
        raw: bool,
        vocab_size: int,
        device: torch.device,
        truncated: bool = False,
    ) -> "RowParameters":
        """Convert the parameters of `rows`, in order."""
        greedy = [row.temperature == 0 for row in rows]
        return cls(
            temperature=torch.tensor([row.temperature or 1.0 for row in rows], device=device),
            noise=torch.tensor([0.0 if g else 1.0 for g in greedy], device=device),
            top_k=torch.tensor([row.top_k or vocab_size for row in rows], device=device),
            top_p=torch.tensor([row.top_p for row in rows], device=device),
            log_min_p=torch.tensor([row.min_p for row in rows], device=device).log(),
            scaled=any(row.temperature not in (0, 1) for row in rows),
            raw=raw,
            filtered=any(row.top_k or row.top_p < 1 or row.min_p for row in rows),
            truncated=truncated,
        )


@dataclass(frozen=True)
class Drawn:
    """One token for each row, as tensors [rows]."""

    tokens: torch.Tensor
    #: Log-probability of the token, in nats, at the row's temperature.
    logprobs: torch.Tensor
    #: Exact entropy of the row's full distribution, in nats, at the row's temperature.
    entropies: torch.Tensor
    #: The same at temperature 1; equal to `entropies` if no row needs it.
    raw_entropies: torch.Tensor
    #: Whether the best two candidates lie within `TIE`.
    tied: torch.Tensor
    #: [rows, 3] if a row needs it: see `rollouts.Truncated`, in its order.
    truncated: torch.Tensor | None = None


def draw(
    logits: torch.Tensor,
    rows: RowParameters,
    keys: torch.Tensor,
    banned: tuple[list[int], list[int]] | None = None,
) -> Drawn:
    """Draw one token for each row.

    Args:
        logits: float32 [rows, vocabulary].
        rows: Parameters of the rows.
        keys: int32 [rows, 2], of `noise_keys`.
        banned: (row indices, token ids) of equal length: tokens that a row must not draw.
    """
    # The step of a small model takes as long as it has operations, so those without effect are left out.
    at_one = torch.log_softmax(logits, dim=-1) if rows.raw or not rows.scaled else None
    logprobs = torch.log_softmax(logits / rows.temperature[:, None], dim=-1) if rows.scaled else at_one
    assert logprobs is not None
    entropies = _entropies(logprobs)
    raw = _entropies(at_one) if at_one is not None and rows.scaled else entropies
    scores = logprobs
    if banned is not None:
        scores = scores.clone()
        scores[banned] = -torch.inf
    if rows.filtered:
        scores = _filtered(scores, rows)
    noisy = torch.addcmul(scores, _gumbel(keys, logits.shape[-1]), rows.noise[:, None])
    best, chosen = noisy.topk(2)
    drawn = chosen[:, :1]
    # Rounding moves scores by as much as a temperature below 1 multiplies the logits.
    tied = best[:, 0] - best[:, 1] < (TIE / rows.temperature.clamp_max(1) if rows.scaled else TIE)
    truncated = _truncated(scores, drawn) if rows.truncated else None
    return Drawn(drawn[:, 0], logprobs.gather(-1, drawn)[:, 0], entropies, raw, tied, truncated)


def _truncated(scores: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Return float32 [rows, 3]: kept mass, log-probability of the token `drawn` [rows, 1], entropy.

    `scores` [rows, vocabulary] are log-probabilities, with -inf for the tokens that could not be drawn.
    """
    # At most 0: rounding gives slightly more where nothing is cut off.
    mass = scores.logsumexp(-1, keepdim=True).clamp_max_(0)
    left = scores - mass
    return torch.cat([mass.exp(), left.gather(-1, drawn), _entropies(left)[:, None]], dim=-1)


def _entropies(logprobs: torch.Tensor) -> torch.Tensor:
    # Clamped, since 0 x -inf is NaN.
    return torch.linalg.vecdot(logprobs.exp(), logprobs.clamp_min(torch.finfo(logprobs.dtype).min)).neg_()


def _filtered(logprobs: torch.Tensor, rows: RowParameters) -> torch.Tensor:
    """Return `logprobs` with -inf for the tokens that the filters remove; the most likely one stays."""
    ordered, order = logprobs.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.exp()
    before = probabilities.cumsum(-1) - probabilities
    rank = torch.arange(logprobs.shape[-1], device=logprobs.device)
    out = (rank >= rows.top_k[:, None]) | (before >= rows.top_p[:, None])
    out |= ordered < ordered[:, :1] + rows.log_min_p[:, None]
    out[:, 0] = False
    return logprobs.masked_fill(torch.zeros_like(out).scatter_(-1, order, out), -torch.inf)


def _gumbel(keys: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Return Gumbel noise float32 [rows, vocab_size] from keys int32 [rows, 2], by two MurmurHash3 mixers."""
    ids = torch.arange(vocab_size, dtype=torch.int32, device=keys.device)
    mixed = _mix((ids * -1640531527)[None, :] ^ keys[:, :1])
    mixed = _mix(mixed ^ keys[:, 1:])
    # Uniform in (0, 1); floats are densest near 0, where the largest noise comes from.
    uniform = (mixed & 0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31).clamp_(max=1 - 2.0**-24)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """Apply MurmurHash3's 32-bit finalizer in place; shifts of int32 are masked to be those of uint32."""
    bits ^= (bits >> 16) & 0xFFFF
    bits *= -2048144789
    bits ^= (bits >> 13) & 0x7FFFF
    bits *= -1028477387
    bits ^= (bits >> 16) & 0xFFFF
    return bits
