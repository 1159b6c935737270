"""The three services of a run: those with an address in the config, and those started here."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extra_client import NoveltyClient, VerificationClient, embedded
from extra_trainer.config import Config, ServicesConfig
from extra_trainer.launch.ray_services import RayServices
from extra_trainer.rollouts.generation_pool import GenerationPool
from extra_trainer.runs.folder import RunFolder


@dataclass(frozen=True)
class Addresses:
    """Addresses of the three services."""

    #: One per replica.
    generation: tuple[str, ...]
    novelty: str
    verification: str


def start(config: Config, folder: RunFolder, model: Path, stack: ExitStack) -> Addresses:
    """Start the services that have no address in the config, and return all addresses.

    With `ray.address` they are started on that cluster: the novelty server, whose memory is in the run
    folder, on this node, the others on any node with room. Otherwise they are child processes of this one.

    Args:
        config: The run's config.
        folder: The run folder.
        model: Folder of the start model.
        stack: Started services stop with it.

    Raises:
        UnavailableError: If a service does not start.
    """
    folder.logs.mkdir(parents=True, exist_ok=True)
    given = config.services
    all_run = given.generation.targets and given.novelty.target and given.verification.target
    cluster = None if all_run or config.ray.address is None else RayServices(config.ray.address, stack)

    def begin(name: str, log: str, settings: dict[str, Any]) -> str:
        log_file = folder.logs.absolute() / f"{log}.log"
        if cluster:
            gpus = given.generation.gpus if name == "generation" else 0
            return cluster.start(name, log_file, settings, gpus=gpus, here=name == "novelty")
        return start_here(name, log_file, stack, **settings)

    return _addresses(given, folder, model, begin)


def start_here(name: str, log_file: Path, stack: ExitStack, **settings: Any) -> str:
    """Start a service as a child process that stops with `stack`, and return its address."""
    service = embedded.start(name, log_file, **settings)
    stack.callback(service.stop)
    return service.target


def _addresses(
    config: ServicesConfig, folder: RunFolder, model: Path, begin: Callable[[str, str, dict[str, Any]], str]
) -> Addresses:
    """Return the given addresses, and those that `begin(service, name of its log, settings)` returns."""
    novelty = {"data_folder": str(folder.memory.resolve()), **config.novelty.settings}
    starting = [] if config.generation.targets else _replica_logs(config.generation.replicas)
    # At the same time: each loads its own models.
    with ThreadPoolExecutor(config.generation.replicas + 2) as pool:
        settings = _generation_settings(config, folder, model)
        replicas = [pool.submit(begin, "generation", log, settings) for log in starting]
        others = [
            pool.submit(begin, name, name, settings) if target is None else None
            for name, target, settings in (
                ("novelty", config.novelty.target, novelty),
                ("verification", config.verification.target, dict(config.verification.settings)),
            )
        ]
    started = tuple(replica.result() for replica in replicas)
    found = [other.result() if other else "" for other in others]
    return Addresses(
        config.generation.targets or started,
        config.novelty.target or found[0],
        config.verification.target or found[1],
    )


def _generation_settings(config: ServicesConfig, folder: RunFolder, model: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {"model": str(model.resolve()), "weights_root": str(folder.weights.resolve())}
    if config.generation.settings.get("engine") == "vllm" and config.generation.gpus > 1:
        settings["tensor_parallel_size"] = config.generation.gpus
    return {**settings, **config.generation.settings}


def _replica_logs(replicas: int) -> list[str]:
    if replicas == 1:
        return ["generation"]
    return [f"generation-{number}" for number in range(1, replicas + 1)]


def wait_for(addresses: Addresses, seconds: float = 60.0) -> None:
    """Wait until all services serve.

    Raises:
        UnavailableError: If one does not within `seconds`; the message names it.
    """
    with (
        GenerationPool(addresses.generation) as generation,
        NoveltyClient(addresses.novelty, "unused") as novelty,
        VerificationClient(addresses.verification) as verification,
    ):
        for client in (generation, novelty, verification):
            client.wait_for_ready(seconds)
