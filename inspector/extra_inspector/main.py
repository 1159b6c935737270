"""The command `extra-rl inspect`: checks its settings, serves the page until Ctrl-C, returns an exit code."""

import re
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from nicegui import ui

from extra_inspector.access import LOOPBACK, Guard
from extra_inspector.index import Index
from extra_inspector.memories import LiveMemories, StoredMemories
from extra_inspector.tokens import Vocabulary
from extra_inspector.web import Inspector
from extra_rl.config_file import ConfigError
from extra_trainer.runs.folder import RunFolder


def inspect(
    run: Path,
    novelty: str | None,
    namespace: str | None,
    host: str,
    port: int,
    token_sha256: str,
    cache: Path | None,
) -> int:
    """Serve the page of a run until it is stopped.

    Args:
        run: The run folder.
        novelty: Address of a live novelty service; None: the memory is read from the run folder.
        namespace: The run's namespace there; None: the identity of the run.
        host: Address to listen on; outside the loopback interface a token is required.
        port: Port to listen on.
        token_sha256: SHA-256 of the readers' token, in hex; "": no token.
        cache: Folder of the index; None: the user's cache folder.

    Returns:
        The exit code: 0 when stopped, 1 for bad settings.
    """
    try:
        server = uvicorn.Server(configure(run, novelty, namespace, host, port, token_sha256, cache))
    except ConfigError as error:
        print(f"extra-rl inspect: {error}", file=sys.stderr)
        return 1
    server.run()
    return 0 if server.started else 1


def configure(
    run: Path,
    novelty: str | None,
    namespace: str | None,
    host: str,
    port: int,
    token_sha256: str,
    cache: Path | None,
) -> uvicorn.Config:
    """Return the configured server; the arguments are those of `inspect`.

    Raises:
        ConfigError: A setting is bad, the folder holds no run, or this release cannot read its records.
    """
    if token_sha256 and not re.fullmatch("[0-9a-f]{64}", token_sha256):
        raise ConfigError("--token-sha256 must be 64 lower-case hex digits: the SHA-256 of a token")
    if host not in LOOPBACK and not token_sha256:
        raise ConfigError(
            f"to serve on {host}, which others can reach, give --token-sha256: the SHA-256 of a token"
        )
    folder = RunFolder(run)
    index = Index.of(folder, cache)
    prefix = index.config.get("prefix", {})
    memories = (
        LiveMemories(novelty, namespace or folder.existing_identity()) if novelty else StoredMemories(folder)
    )
    Inspector(index, Vocabulary(folder, prefix.get("min_segment_tokens", 1)), memories).add_pages()
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    # `dark` None: light or dark as the system's setting.
    ui.run_with(
        app, dark=None, tailwind=False, title="extra-rl inspect", favicon="🔎", show_welcome_message=False
    )
    shown = f"[{host}]" if ":" in host else host
    print(f"{run} on http://{shown}:{port} (Ctrl-C stops it)", flush=True)
    return uvicorn.Config(Guard(app, token_sha256), host=host, port=port, log_level="warning", lifespan="on")
