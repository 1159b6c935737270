"""`extra-rl health`: check once whether a service is ready, with the credentials of the environment.

For platforms whose own probes cannot connect: those of Kubernetes support no TLS.
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
    """Check whether a service reports that it serves.

    Args:
        service: Its name.
        target: Its address.
        timeout: Seconds to wait for the report.

    Returns:
        The exit code: 0 if it serves; else 1, with the reason on stderr.
    """
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
