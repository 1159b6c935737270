"""The generation server with a pause after each step of the batch: `extra-rl bench slow_generation`.

A larger model on an accelerator takes longer for a step of the batch, about as long whatever the number of
samples in it, and leaves the processors free. The pause does the same to a small model: with it, generation
and update have the ratio of a large run on a machine without an accelerator. For measurements only, such as
trainer/experiments/staleness.yaml. `--pause 0.02` are the seconds; all other options are those of
`extra-rl serve generation`.
"""

import argparse
import time

from extra_services.generation import main as generation
from extra_services.generation.engines.transformers.engine import TransformersEngine


def slow_down(pause: float) -> None:
    """Let the engines of this process sleep after each step of the batch.

    Args:
        pause: Seconds.
    """
    step = TransformersEngine._step

    def slow_step(engine: TransformersEngine) -> None:
        step(engine)
        time.sleep(pause)

    TransformersEngine._step = slow_step  # type: ignore[assignment, method-assign]


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(
        prog="extra-rl bench slow_generation", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--pause", type=float, required=True, help="seconds after each step of the batch")
    options, settings = parser.parse_known_args()
    slow_down(options.pause)
    generation.main(settings)


if __name__ == "__main__":
    main()
