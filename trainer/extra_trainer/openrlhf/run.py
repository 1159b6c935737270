"""One launch of a training run, as it is sent from the launcher to the driver and the trainer's Ray actor."""

from dataclasses import dataclass

from extra_trainer.config import Config
from extra_trainer.runs.folder import RunFolder


@dataclass(frozen=True)
class Run:
    """Config, run folder and addresses of the services."""

    config: Config
    folder: RunFolder
    #: Addresses of the replicas.
    generation: tuple[str, ...]
    novelty: str
    verification: str
    #: Unique to this launch, resumed or not: part of the keys of idempotent writes.
    launch_id: str

    @property
    def namespace(self) -> str:
        """Name of the run's novelty and prefix memories."""
        return self.folder.identity()
