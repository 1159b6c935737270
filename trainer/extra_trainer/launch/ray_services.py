"""Services on the nodes of a Ray cluster, each the child process of an actor that holds its resources.

The actor reserves a CPU and, for a generation replica, its GPUs. It starts `extra-rl serve`, which listens on
the node's address, and returns that address. The child holds a pipe of the actor, and the actor belongs to
the launcher's Ray job: whichever of them ends, in whatever way, the rest ends too.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from extra_client import UnavailableError, embedded

#: Seconds until a service must serve, including the wait for resources; large models load slowly.
START_SECONDS = 900.0
#: Seconds for an actor to stop its service, more than the service takes to drain.
STOP_SECONDS = 30.0


class ServiceActor:
    """Runs one service on its node; `RayServices.start` makes it a Ray actor."""

    def start(self, name: str, log: str, settings: dict[str, Any]) -> str:
        """Start the service and return its address once it serves."""
        import ray

        # The run folder need not be on this node's disks.
        log_file = Path(log) if Path(log).parent.is_dir() else None
        here = {"host": ray.util.get_node_ip_address(), "port": 0, **settings}
        if "tls_certificate" not in settings:
            # A Ray cluster's own traffic, code included, is not encrypted either: its network is trusted.
            here["allow_plaintext_network"] = True
        self._service = embedded.start(name, log_file, start_timeout=START_SECONDS, **here)
        return self._service.target

    def stop(self) -> None:
        """Stop the service; running calls may finish."""
        self._service.stop()


class RayServices:
    """A connection to a Ray cluster, and the services started through it.

    Args:
        address: Address of the cluster.
        stack: Connection and started services end with it.

    Raises:
        UnavailableError: If no cluster answers.
    """

    def __init__(self, address: str, stack: ExitStack) -> None:
        stack.enter_context(connected(address))
        self._stack = stack

    def start(self, name: str, log: Path, settings: dict[str, Any], *, gpus: int, here: bool = False) -> str:
        """Start a service and return its address once it serves.

        Args:
            name: The service.
            log: Its log file.
            settings: Its settings.
            gpus: GPUs to reserve.
            here: Whether to start it on this node of the cluster.

        Raises:
            UnavailableError: If no node has room, or the service ends instead of serving.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": gpus}
        if here:
            node = ray.get_runtime_context().get_node_id()
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=True)
        actor = ray.remote(ServiceActor).options(**options).remote()
        self._stack.callback(_stop, actor)
        try:
            target: str = ray.get(actor.start.remote(name, str(log), settings), timeout=START_SECONDS)
        except ray.exceptions.GetTimeoutError as error:
            raise UnavailableError(
                f"the {name} service did not serve on the Ray cluster within {START_SECONDS:g} s: "
                f"no node may have room for it (it takes 1 CPU and {gpus} GPUs)"
            ) from error
        except ray.exceptions.RayTaskError as error:
            raise UnavailableError(f"the {name} service on the Ray cluster: {error.cause}") from error
        except ray.exceptions.RayActorError as error:
            raise UnavailableError(f"the {name} service's Ray actor ended: {error}") from error
        return target


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect this process to the Ray cluster at `address`, and keep its own handler of SIGTERM.

    Raises:
        UnavailableError: If no cluster answers.
    """
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    import ray

    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UnavailableError(f"cannot join the Ray cluster at {address} (ray.address): {error}") from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _stop(actor: Any) -> None:
    import ray

    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(actor.stop.remote(), timeout=STOP_SECONDS)
    ray.kill(actor)
