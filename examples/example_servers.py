"""The two services as child processes, for examples whose trainer has an environment of its own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from extra_client import NoveltyClient, VerificationClient

#: A server reads its model first, which takes a few seconds, or minutes beside much other work.
START_SECONDS = 300


@contextmanager
def served() -> Iterator[None]:
    """Serve novelty and verification; the variables NOVELTY and VERIFICATION say where.

    EXTRA_RL_SERVICES_PYTHON is the Python of the environment that they run in; without it, this one.
    """
    python = os.environ.get("EXTRA_RL_SERVICES_PYTHON", sys.executable)
    with tempfile.TemporaryDirectory() as name:
        targets = {"NOVELTY": f"unix:{name}/novelty", "VERIFICATION": f"unix:{name}/verification"}
        serve = [python, "-m", "extra_cli", "serve"]
        commands = [
            [*serve, service.lower(), f"--host={target}", "--metrics-port=off", "--stop-with-stdin"]
            for service, target in targets.items()
        ]
        commands[0].append(f"--data-folder={name}/memory")
        servers = [subprocess.Popen(command, stdin=subprocess.PIPE) for command in commands]
        os.environ |= targets
        try:
            VerificationClient(targets["VERIFICATION"]).wait_for_ready(START_SECONDS)
            NoveltyClient(targets["NOVELTY"], "my-run").wait_for_ready(START_SECONDS)
            yield
        finally:
            for server in servers:
                server.terminate()
            for server in servers:
                server.wait(START_SECONDS)
