"""The recipes of the made start models, which `model.path` may name instead of a folder.

A recipe, the seed and the code determine the fitted weights. Recipes are separate from the fitting
(`start_model`), which imports torch: a config is read and checked without it.
"""

from dataclasses import dataclass

from extra_trainer.rehearsal.problems import Slips

#: Symbols of an answer that can be guessed: one of eight.
GUESSABLE_SYMBOLS = 1


@dataclass(frozen=True)
class FitSettings:
    """Sizes of the model and of the fitting; each kind of problem has a class of its own."""

    hidden_size: int
    layers: int
    head_size: int
    steps: int
    matrix_learning_rate: float = 0.02
    """Of Muon; it falls linearly to zero, like that of AdamW."""
    learning_rate: float = 0.003
    """Of AdamW, for embeddings, output layer and norms."""
    warmup_steps: int = 40


@dataclass(frozen=True)
class SumsFit(FitSettings):
    """Fitting on sums (`problems`); the defaults are those of the rehearsal."""

    hidden_size: int = 128
    layers: int = 4
    head_size: int = 32
    steps: int = 700
    drill_share: float = 0.45
    """Share of drills at the beginning; it falls linearly to zero."""
    easy_share: float = 0.4
    """The share of steps, at the beginning, in which whole examples are short and in order."""
    tokens_per_step: int = 1536
    slips: Slips | None = None
    """Slips in the worked examples; None: all are right."""


@dataclass(frozen=True)
class OperatorsFit(FitSettings):
    """Fitting on chains of operators (`operators`)."""

    hidden_size: int = 96
    layers: int = 3
    head_size: int = 24
    steps: int = 1000
    examples_per_step: int = 128
    rarest: float = 0.0005
    """Probability of applying the hardest operator correctly in a worked example."""
    stray_share: float = 0.2
    """Share of the wrongly applied operators that are another one than the decoy."""
    known_share: float = 0.5
    """Share of worked examples that name the operators by small letters and are always right."""
    noise_share: float | None = None
    """Share of the wrong results that are random symbols, which hardly repeat; None: none."""
    answer_symbols: int | None = None
    """Symbols of the last result that the box holds; None: all."""


RECIPES: dict[str, FitSettings] = {
    "rehearsal": SumsFit(),
    # More steps, as noticing slips must be learned as well.
    "rehearsal-self-correcting": SumsFit(steps=1200, slips=Slips(rate=0.3, noticed=0.6)),
    "rehearsal-operators": OperatorsFit(),
    "rehearsal-operators-noisy": OperatorsFit(noise_share=0.5),
    "rehearsal-operators-guessable": OperatorsFit(answer_symbols=GUESSABLE_SYMBOLS),
}
"""Name in `model.path` of a training config -> recipe."""
