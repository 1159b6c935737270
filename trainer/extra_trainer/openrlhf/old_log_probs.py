"""The log-probabilities that a step's ratio is measured from, without a forward pass of their own.

GRPO's ratio compares the policy with what it was before the step's first update. A step that makes a single
update starts from those weights in all of its micro-batches: the log-probabilities of the update's own
forward pass are the old ones, the ratio is 1, and its gradient is the policy's. So the pass over all samples
before the update, a third of the update's work, is left out. TRL does the same for one iteration a batch.

NaN stands for a log-probability that was not computed. The loss puts its own in that place, so a NaN that
anything else reads is seen at once.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def single_update(args: Any, samples: int) -> bool:
    """Return whether a step over so many samples makes one update, and nothing but the ratio needs the pass.

    Args:
        args: OpenRLHF's arguments.
        samples: Samples of the step, of all workers.
    """
    kl = args.algo.kl
    return (
        args.train.max_epochs == 1
        and samples <= args.train.batch_size
        # Its updates are cut by tokens.
        and not args.train.dynamic_batch_enable
        # In the reward KL is computed before the update.
        and (kl.use_loss or kl.init_coef <= 0)
        and not kl.unbiased_gradient
    )


def not_computed(action_masks: list[Tensor]) -> list[Tensor]:
    """Return NaN for each action token, float32 of the shapes of the masks."""
    return [torch.full(mask.shape, torch.nan) for mask in action_masks]


def from_own_pass(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Return OpenRLHF's policy loss with its own log-probabilities in the place of those not computed.

    Args:
        loss: Takes new and old log-probabilities first, [samples, actions].
    """

    @functools.wraps(loss)
    def with_own(log_probs: Tensor, old_log_probs: Tensor, *arguments: Any, **named: Any) -> Any:
        old = torch.where(old_log_probs.isnan(), log_probs.detach(), old_log_probs)
        return loss(log_probs, old, *arguments, **named)

    return with_own
