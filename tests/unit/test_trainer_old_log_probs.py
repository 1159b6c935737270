"""The ratio of a step that makes a single update, without a forward pass before it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_trainer.openrlhf.missing_packages import stand_in_for_missing
from extra_trainer.openrlhf.old_log_probs import from_own_pass, not_computed, single_update


def _gradient(seed: int, correction: str, computed: bool) -> list[torch.Tensor]:
    """Return gradient, loss, and OpenRLHF's statistics."""
    stand_in_for_missing()
    from openrlhf.models.loss import PolicyLoss

    torch.manual_seed(seed)
    log_probs = (-3 * torch.rand(4, 7)).requires_grad_()
    mask = (torch.rand(4, 7) < 0.8).float()
    advantages = torch.randn(4, 1) * mask
    rolled_out = log_probs.detach() + 0.3 * torch.randn(4, 7)
    old = log_probs.detach().clone() if computed else not_computed([mask])[0]
    loss_of = PolicyLoss(
        0.2,
        0.28,
        dual_clip=10.0,
        is_correction_level=correction,
        is_correction_mode="clip",
        is_correction_threshold=[0.0, 2.0],
    )
    loss, *statistics = from_own_pass(loss_of)(
        log_probs, old, advantages, action_mask=mask, rollout_log_probs=rolled_out
    )
    loss.backward()
    assert log_probs.grad is not None
    return [log_probs.grad, loss.detach(), *(one for one in statistics if one is not None)]


@pytest.mark.parametrize("correction", ["off", "token"])
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_the_gradient_is_that_of_computed_log_probabilities(correction: str, seed: int) -> None:
    for left, right in zip(
        _gradient(seed, correction, computed=True), _gradient(seed, correction, computed=False), strict=True
    ):
        assert torch.isfinite(right).all()
        torch.testing.assert_close(left, right, rtol=0, atol=0)


def _args(**changes: Any) -> SimpleNamespace:
    settings = {
        "max_epochs": 1,
        "batch_size": 128,
        "dynamic": False,
        "use_loss": True,
        "init_coef": 0.001,
        "unbiased_gradient": False,
    } | changes
    return SimpleNamespace(
        train=SimpleNamespace(
            max_epochs=settings["max_epochs"],
            batch_size=settings["batch_size"],
            dynamic_batch_enable=settings["dynamic"],
        ),
        algo=SimpleNamespace(
            kl=SimpleNamespace(
                use_loss=settings["use_loss"],
                init_coef=settings["init_coef"],
                unbiased_gradient=settings["unbiased_gradient"],
            )
        ),
    )


def test_the_pass_is_left_out_only_where_nothing_needs_it() -> None:
    assert single_update(_args(), 128)
    assert single_update(_args(use_loss=False, init_coef=0), 120)
    assert not single_update(_args(), 136), "a second update"
    assert not single_update(_args(max_epochs=2), 128), "a second update on the same samples"
    assert not single_update(_args(dynamic=True), 128), "updates are cut by tokens"
    assert not single_update(_args(use_loss=False), 128), "KL in the reward"
    assert not single_update(_args(unbiased_gradient=True), 128), "KL weighted by the ratio"
