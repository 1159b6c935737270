"""The three services of a run: those the config gives an address for, and those started here."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extra_client import GenerationClient, NoveltyClient, VerificationClient, embedded
from extra_trainer.config import ServicesConfig
from extra_trainer.run_folder import RunFolder


@dataclass(frozen=True)
class Addresses:
    """Where the services are."""

    generation: str
    novelty: str
    verification: str


def start(config: ServicesConfig, folder: RunFolder, model: Path, stack: ExitStack) -> Addresses:
    """Addresses of services that serve; what is started here stops with `stack`."""
    folder.logs.mkdir(parents=True, exist_ok=True)
    wanted = {
        "generation": {"model": model.resolve(), "weights_root": folder.weights.resolve()},
        "novelty": {"data_folder": folder.memory.resolve()},
        "verification": {},
    }

    def address(name: str) -> str:
        given = getattr(config, name)
        if given.target is not None:
            return str(given.target)
        settings: dict[str, Any] = {**wanted[name], **given.settings}
        service = embedded.start(name, folder.logs / f"{name}.log", **settings)
        stack.callback(service.stop)
        return service.target

    # Side by side: each loads its own models.
    with ThreadPoolExecutor(len(wanted)) as pool:
        return Addresses(*pool.map(address, wanted))


def wait_for(addresses: Addresses, seconds: float = 60.0) -> None:
    """Returns once all three say that they serve; UnavailableError names the one that does not."""
    with (
        GenerationClient(addresses.generation) as generation,
        NoveltyClient(addresses.novelty, "unused") as novelty,
        VerificationClient(addresses.verification) as verification,
    ):
        for client in (generation, novelty, verification):
            client.wait_for_ready(seconds)
