"""OpenRLHF's DeepSpeed strategy, so that dynamic batches add up.

With dynamic batches OpenRLHF calls `backward` for each batch and `step` after the last, and tells DeepSpeed
that a step has one batch. DeepSpeed 0.19.6 then takes every `backward` for the end of a step and keeps the
last batch's gradients alone (measured: a gradient norm of 0.12 where the whole batch's is 0.75, in another
direction). Unmanaged accumulation is DeepSpeed's name for what OpenRLHF means: a step ends where `step` is
called.
"""

from typing import Any

from openrlhf.utils.deepspeed import DeepspeedStrategy


class AccumulatingStrategy(DeepspeedStrategy):  # type: ignore[misc]
    """DeepspeedStrategy whose dynamic batches accumulate."""

    def get_ds_train_config(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """OpenRLHF's DeepSpeed configuration of a model that is trained."""
        config: dict[str, Any] = super().get_ds_train_config(*arguments, **options)
        if self.use_dynamic_batch:
            config["managed_gradient_accumulation"] = False
        return config
