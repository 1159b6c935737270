"""`extra-rl serve`: import the service's main module late and pass the flags on to it.

`serve all` runs the three servers as child processes. When it gets a signal to stop, or one server ends, it
stops the others. Each child holds the reading end of a pipe of this process, so that none outlives it.
"""

import importlib
import signal
import subprocess
import sys

from extra_cli.extras import needs

#: Service -> the module whose `main(arguments)` reads its settings and serves.
MAINS = {
    "generation": "extra_services.generation.main",
    "novelty": "extra_services.novelty.main",
    "verification": "extra_services.verification.main",
}


def serve(service: str, arguments: list[str]) -> None:
    """Serve until stopped.

    Args:
        service: "generation", "novelty", "verification" or "all".
        arguments: Flags of the service.

    Raises:
        SystemExit: The service is unknown, not installed, or configured wrongly; the message says which.
    """
    if service == "all":
        sys.exit(_serve_all(arguments))
    if service not in MAINS:
        sys.exit(f"unknown service {service!r}; there are: {', '.join(MAINS)}, all")
    with needs(service):
        main = importlib.import_module(MAINS[service]).main
    from extra_rl.config_file import ConfigError

    try:
        main(arguments)
    except ConfigError as error:
        sys.exit(f"extra-rl serve {service}: {error}")


USAGE = """usage: extra-rl serve all [--config FILE] [--SERVICE.FLAG VALUE ...] [--FLAG VALUE ...]

Serves generation, novelty and verification, each in a process of its own. `--novelty.port 50052` gives
`--port 50052` to the novelty server; a flag without a service's name goes to all three. Ends with code 0
after SIGTERM or SIGINT, or else with the code of the server that ended by itself."""

#: Above the servers' own drain_seconds, after which they end by themselves.
STOP_SECONDS = 15.0


def _serve_all(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0
    flags = _flags_by_service(arguments)
    wanted = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
    # An empty handler: a signal that is ignored by default may never become pending for sigwait.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children = {
        name: subprocess.Popen(
            [sys.executable, "-m", "extra_cli", "serve", name, "--stop-with-stdin", *flags[name]],
            stdin=subprocess.PIPE,
            # Ctrl-C reaches this process alone, which then stops them in its own time.
            start_new_session=True,
        )
        for name in MAINS
    }
    # Not earlier: children inherit the mask.
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    asked_to_stop = False
    while not asked_to_stop and all(child.poll() is None for child in children.values()):
        asked_to_stop = signal.sigwait(wanted) != signal.SIGCHLD
    ended = {name: code for name, child in children.items() if (code := child.poll()) is not None}
    for name, code in ended.items():
        print(f"extra-rl serve all: the {name} server ended (exit code {code})", file=sys.stderr)
    for child in children.values():
        assert child.stdin is not None
        child.stdin.close()
    for child in children.values():
        _wait(child)
    return 0 if asked_to_stop else max(_exit_code(code) for code in ended.values()) or 1


def _exit_code(code: int) -> int:
    # A shell reports a process that a signal ended in this way.
    return code if code >= 0 else 128 - code


def _wait(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _flags_by_service(arguments: list[str]) -> dict[str, list[str]]:
    flags: dict[str, list[str]] = {name: [] for name in MAINS}
    receivers = list(MAINS)
    for argument in arguments:
        if argument.startswith("--"):
            name, dot, flag = argument.removeprefix("--").partition(".")
            receivers = [name] if dot and name in MAINS else list(MAINS)
            argument = f"--{flag}" if receivers == [name] else argument
        for receiver in receivers:
            flags[receiver].append(argument)
    return flags
