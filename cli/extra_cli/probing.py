"""`extra-rl health`: one look at a service's readiness, with the credentials of the environment.

For probes where the platform's own cannot connect: those of Kubernetes know no TLS.
"""

import sys
from collections.abc import Callable
from typing import Any

from extra_client import ExtraError, GenerationClient, NoveltyClient, VerificationClient

CLIENTS: dict[str, Callable[[str], Any]] = {
    "generation": GenerationClient,
    "novelty": lambda target: NoveltyClient(target, "unused"),
    "verification": VerificationClient,
}


def probe(service: str, target: str, timeout: float) -> int:
    """0 if `service` at `target` says within `timeout` seconds that it serves; else 1, and why on stderr."""
    if service not in CLIENTS:
        print(f"unknown service {service!r}; there are: {', '.join(CLIENTS)}", file=sys.stderr)
        return 1
    try:
        with CLIENTS[service](target) as client:
            client.wait_for_ready(timeout)
    except ExtraError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
