"""OpenRLHF's DeepSpeed strategy with gradients that add up over dynamic batches, and whole checkpoints.

With dynamic batches OpenRLHF calls `backward` for each batch and `step` after the last, but configures
DeepSpeed for one batch per step. DeepSpeed 0.19.6 then treats every `backward` as the end of a step and
keeps the last batch's gradients alone (measured: a gradient norm of 0.12 instead of 0.75, in another
direction). With unmanaged accumulation, a step ends where `step` is called.

DeepSpeed names the newest checkpoint in the file `latest` before all workers have written theirs, and empties
that file first: a run that is killed then has no checkpoint, or an incomplete one. Here the file is replaced
when all have.
"""

from pathlib import Path
from typing import Any

from openrlhf.utils.deepspeed import DeepspeedStrategy

from extra_trainer.runs.folder import mark_checkpoint


class AccumulatingStrategy(DeepspeedStrategy):  # type: ignore[misc]
    """DeepspeedStrategy that accumulates gradients over dynamic batches, and names only whole checkpoints."""

    def get_ds_train_config(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Return OpenRLHF's DeepSpeed configuration of a trained model, with unmanaged accumulation."""
        config: dict[str, Any] = super().get_ds_train_config(*arguments, **options)
        if self.use_dynamic_batch:
            config["managed_gradient_accumulation"] = False
        return config

    def save_ckpt(self, model: Any, save_dir: str, tag: str, *arguments: Any, **options: Any) -> None:
        """Write a checkpoint as OpenRLHF does, and name it as the newest one after all workers' barrier."""
        super().save_ckpt(model, save_dir, tag, *arguments, **{**options, "save_latest": False})
        if self.is_rank_0():
            mark_checkpoint(Path(save_dir), tag)
