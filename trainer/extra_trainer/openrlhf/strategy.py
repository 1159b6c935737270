"""OpenRLHF's DeepSpeed strategy with gradients that add up over dynamic batches.

With dynamic batches OpenRLHF calls `backward` for each batch and `step` after the last, but configures
DeepSpeed for one batch per step. DeepSpeed 0.19.6 then treats every `backward` as the end of a step and
keeps the last batch's gradients alone (measured: a gradient norm of 0.12 instead of 0.75, in another
direction). With unmanaged accumulation, a step ends where `step` is called.
"""

from typing import Any

from openrlhf.utils.deepspeed import DeepspeedStrategy


class AccumulatingStrategy(DeepspeedStrategy):  # type: ignore[misc]
    """DeepspeedStrategy that accumulates gradients over dynamic batches."""

    def get_ds_train_config(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Return OpenRLHF's DeepSpeed configuration of a trained model, with unmanaged accumulation."""
        config: dict[str, Any] = super().get_ds_train_config(*arguments, **options)
        if self.use_dynamic_batch:
            config["managed_gradient_accumulation"] = False
        return config
