"""`extra-rl serve`: finds the service's main module, imports it late, and hands it the flags."""

import importlib
import sys

#: What each name serves: the module whose `main(arguments)` reads its settings and serves.
MAINS = {
    "generation": "extra_services.generation.main",
    "novelty": "extra_services.novelty.main",
    "verification": "extra_services.verification.main",
}


def serve(service: str, arguments: list[str]) -> None:
    """Serves until stopped; exits with a message if the service is unknown or not installed."""
    if service not in MAINS:
        sys.exit(f"unknown service {service!r}; there are: {', '.join(MAINS)}, all")
    try:
        main = importlib.import_module(MAINS[service]).main
    except ModuleNotFoundError as error:
        sys.exit(f"cannot import {error.name!r}: pip install 'extra-rl[{service}]'")
    from extra_rl.config_file import ConfigError

    try:
        main(arguments)
    except ConfigError as error:
        sys.exit(f"extra-rl serve {service}: {error}")
