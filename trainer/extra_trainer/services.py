"""The three services of a run: those the config gives an address for, and those started here."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from extra_client import GenerationClient, NoveltyClient, VerificationClient, embedded
from extra_trainer.config import ServiceConfig, ServicesConfig
from extra_trainer.run_folder import RunFolder


@dataclass(frozen=True)
class Addresses:
    """Where the services are."""

    generation: str
    novelty: str
    verification: str


def start(config: ServicesConfig, folder: RunFolder, model: Path, stack: ExitStack) -> Addresses:
    """Addresses of services that serve; what is started here stops with `stack`."""
    generation = {"model": model.resolve(), "weights_root": folder.weights.resolve()}
    return Addresses(
        _address("generation", config.generation, folder, stack, generation),
        _address("novelty", config.novelty, folder, stack, {"data_folder": folder.memory.resolve()}),
        _address("verification", config.verification, folder, stack, {}),
    )


def wait_for(addresses: Addresses, seconds: float = 60.0) -> None:
    """Returns once all three say that they serve; UnavailableError names the one that does not."""
    with (
        GenerationClient(addresses.generation) as generation,
        NoveltyClient(addresses.novelty, "unused") as novelty,
        VerificationClient(addresses.verification) as verification,
    ):
        for client in (generation, novelty, verification):
            client.wait_for_ready(seconds)


def _address(
    name: str, config: ServiceConfig, folder: RunFolder, stack: ExitStack, settings: dict[str, Path]
) -> str:
    if config.target is not None:
        return config.target
    folder.logs.mkdir(parents=True, exist_ok=True)
    log = folder.logs / f"{name}.log"
    return stack.enter_context(embedded.start(name, log, **{**settings, **config.settings})).target
