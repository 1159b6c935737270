"""The recipes of the rehearsal's start models: what `model.path` may name instead of a folder.

A recipe is all that decides the fitted weights beside the seed and the code. They are apart from the fitting
(`start_model`), which imports torch, since a config is read and checked without it.
"""

from dataclasses import dataclass

from extra_trainer.rehearsal.problems import Slips


@dataclass(frozen=True)
class FitSettings:
    """Sizes of the model and of the fitting; the defaults are what the rehearsal uses."""

    hidden_size: int = 128
    layers: int = 4
    head_size: int = 32
    steps: int = 700
    drill_share: float = 0.45
    """Share of drills at the beginning; it falls linearly to zero."""
    easy_share: float = 0.4
    """The part of the steps, at the beginning, in which whole examples are short and in order."""
    tokens_per_step: int = 1536
    matrix_learning_rate: float = 0.02
    """Muon's; it falls linearly to zero, as the other one does."""
    learning_rate: float = 0.003
    """AdamW's, for embeddings, output layer and norms."""
    warmup_steps: int = 40
    slips: Slips | None = None
    """Of the worked examples; None leaves them all right."""


RECIPES: dict[str, FitSettings] = {
    "rehearsal": FitSettings(),
    # More steps: to notice a slip is to be learned as well.
    "rehearsal-self-correcting": FitSettings(steps=1200, slips=Slips(rate=0.3, noticed=0.6)),
}
"""By the name that `model.path` of a training config gives."""
