"""What `extra-rl inspect` does: settings in, a page served until Ctrl-C, an exit code out."""

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
    """Serves the page of a run; 0 when stopped, 1 for settings that cannot be served."""
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
    """The server, ready to run; ConfigError for settings that cannot be served."""
    if token_sha256 and not re.fullmatch("[0-9a-f]{64}", token_sha256):
        raise ConfigError("--token-sha256 must be 64 lower-case hex digits: the SHA-256 of a token")
    if host not in LOOPBACK and not token_sha256:
        raise ConfigError(
            f"to serve on {host}, which others can reach, give --token-sha256: the SHA-256 of a token"
        )
    folder = RunFolder(run)
    index = Index.of(folder, cache)
    prefix = index.config.get("prefix", {})
    identity = folder.path / "identity"
    memories = (
        LiveMemories(
            novelty, namespace or (identity.read_text(encoding="utf-8") if identity.is_file() else "")
        )
        if novelty
        else StoredMemories(folder)
    )
    Inspector(index, Vocabulary(folder, prefix.get("min_segment_tokens", 1)), memories).add_pages()
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    # `dark` None: as the system has it.
    ui.run_with(
        app, dark=None, tailwind=False, title="extra-rl inspect", favicon="🔎", show_welcome_message=False
    )
    shown = f"[{host}]" if ":" in host else host
    print(f"{run} on http://{shown}:{port} (Ctrl-C stops it)", flush=True)
    return uvicorn.Config(Guard(app, token_sha256), host=host, port=port, log_level="warning", lifespan="on")
