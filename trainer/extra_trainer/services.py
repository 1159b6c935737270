"""The three services of a run: those the config gives an address for, and those started here."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extra_client import NoveltyClient, VerificationClient, embedded
from extra_trainer.config import ServicesConfig
from extra_trainer.generation_pool import GenerationPool
from extra_trainer.run_folder import RunFolder


@dataclass(frozen=True)
class Addresses:
    """Where the services are."""

    #: Of the replicas.
    generation: tuple[str, ...]
    novelty: str
    verification: str


def start(config: ServicesConfig, folder: RunFolder, model: Path, stack: ExitStack) -> Addresses:
    """Addresses of services that serve; what is started here stops with `stack`."""
    folder.logs.mkdir(parents=True, exist_ok=True)

    def child(name: str, log: str, settings: dict[str, Any]) -> str:
        service = embedded.start(name, folder.logs / f"{log}.log", **settings)
        stack.callback(service.stop)
        return service.target

    return _addresses(config, folder, model, child)


def _addresses(
    config: ServicesConfig, folder: RunFolder, model: Path, begin: Callable[[str, str, dict[str, Any]], str]
) -> Addresses:
    """The given addresses, and those of what `begin(service, name of its log, settings)` starts."""
    generation, novelty_settings = config.generation, config.novelty.settings
    weights = {"model": model.resolve(), "weights_root": folder.weights.resolve(), **generation.settings}
    logs = (
        ["generation"]
        if generation.replicas == 1
        else [f"generation-{number}" for number in range(1, generation.replicas + 1)]
    )
    # Side by side: each loads its own models.
    with ThreadPoolExecutor(generation.replicas + 2) as pool:
        replicas = [
            pool.submit(begin, "generation", log, weights) for log in ([] if generation.targets else logs)
        ]
        others = [
            pool.submit(begin, name, name, settings) if given.target is None else None
            for name, given, settings in (
                (
                    "novelty",
                    config.novelty,
                    {"data_folder": folder.memory.resolve(), **novelty_settings},
                ),
                ("verification", config.verification, dict(config.verification.settings)),
            )
        ]
    started = tuple(replica.result() for replica in replicas)
    novelty, verification = (other.result() if other else "" for other in others)
    return Addresses(
        generation.targets or started,
        config.novelty.target or novelty,
        config.verification.target or verification,
    )


def wait_for(addresses: Addresses, seconds: float = 60.0) -> None:
    """Returns once all say that they serve; UnavailableError names the one that does not."""
    with (
        GenerationPool(addresses.generation) as generation,
        NoveltyClient(addresses.novelty, "unused") as novelty,
        VerificationClient(addresses.verification) as verification,
    ):
        for client in (generation, novelty, verification):
            client.wait_for_ready(seconds)
