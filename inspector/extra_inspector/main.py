"""The command `extra-rl inspect`: checks its settings, serves the page until Ctrl-C, returns an exit code."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from nicegui import ui

from extra_client import ExtraError, GenerationClient, VerificationClient
from extra_inspector.access import LOOPBACK, Guard
from extra_inspector.imports.run import ImportedRun, Services, format_of
from extra_inspector.index import Index, cache_folder
from extra_inspector.memories import LiveMemories, StoredMemories
from extra_inspector.tokens import Vocabulary
from extra_inspector.web import Inspector
from extra_rl.config_file import ConfigError
from extra_rl.vocabulary import Method
from extra_trainer.runs.folder import RunFolder


@dataclass(frozen=True)
class ImportOptions:
    """How logs of another trainer become a run."""

    #: The trainer; None: it is found out.
    format: str | None = None
    #: Addresses of the services that give verdicts and entropies; None: what the log lacks stays missing.
    verification: str | None = None
    method: str = Method.MATH
    generation: str | None = None
    #: Folder of the model's tokenizer, for logs without token ids.
    tokenizer: Path | None = None

    @property
    def given(self) -> bool:
        """Whether any of them is set."""
        return any((self.format, self.verification, self.generation, self.tokenizer))

    def services(self) -> Services:
        """Return the services to ask.

        Raises:
            ConfigError: The tokenizer cannot be loaded, or there is no such method.
        """
        if self.method not in list(Method):
            raise ConfigError(f"--method {self.method} is none of {', '.join(Method)}")
        return Services(
            VerificationClient(self.verification) if self.verification else None,
            Method(self.method),
            GenerationClient(self.generation) if self.generation else None,
            _tokenizer(self.tokenizer) if self.tokenizer else None,
        )


NO_IMPORT = ImportOptions()


def inspect(
    run: Path,
    novelty: str | None,
    namespace: str | None,
    host: str,
    port: int,
    token_sha256: str,
    cache: Path | None,
    imports: ImportOptions = NO_IMPORT,
) -> int:
    """Serve the page of a run until it is stopped.

    Args:
        run: The run folder, or a file or folder of logs of another trainer.
        novelty: Address of a live novelty service; None: the memory is read from the run folder.
        namespace: The run's namespace there; None: the identity of the run.
        host: Address to listen on; outside the loopback interface a token is required.
        port: Port to listen on.
        token_sha256: SHA-256 of the readers' token, in hex; "": no token.
        cache: Folder of the index; None: the user's cache folder.
        imports: How logs of another trainer become a run.

    Returns:
        The exit code: 0 when stopped, 1 for bad settings.
    """
    try:
        server = uvicorn.Server(configure(run, novelty, namespace, host, port, token_sha256, cache, imports))
    except (ConfigError, ExtraError) as error:
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
    imports: ImportOptions = NO_IMPORT,
) -> uvicorn.Config:
    """Return the configured server; the arguments are those of `inspect`.

    Raises:
        ConfigError: A setting is bad, the folder holds no run, or this release cannot read its records.
        ExtraError: The verification service failed.
    """
    if token_sha256 and not re.fullmatch("[0-9a-f]{64}", token_sha256):
        raise ConfigError("--token-sha256 must be 64 lower-case hex digits: the SHA-256 of a token")
    if host not in LOOPBACK and not token_sha256:
        raise ConfigError(
            f"to serve on {host}, which others can reach, give --token-sha256: the SHA-256 of a token"
        )
    imported = _imported(run, cache, imports)
    folder = imported.folder if imported else RunFolder(run)
    index = Index.of(folder, cache)
    prefix = index.config.get("prefix", {})
    memories = (
        LiveMemories(novelty, namespace or folder.existing_identity()) if novelty else StoredMemories(folder)
    )
    vocabulary = Vocabulary(folder, prefix.get("min_segment_tokens", 1))
    Inspector(index, vocabulary, memories, imported).add_pages()
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    # `dark` None: light or dark as the system's setting.
    ui.run_with(
        app, dark=None, tailwind=False, title="extra-rl inspect", favicon="🔎", show_welcome_message=False
    )
    shown = f"[{host}]" if ":" in host else host
    print(f"{run} on http://{shown}:{port} (Ctrl-C stops it)", flush=True)
    return uvicorn.Config(Guard(app, token_sha256), host=host, port=port, log_level="warning", lifespan="on")


def _imported(run: Path, cache: Path | None, options: ImportOptions) -> ImportedRun | None:
    """Import the logs of another trainer; return None for a run of ours.

    Raises:
        ConfigError: There is nothing to import, or it cannot be read.
        ExtraError: The verification service failed.
    """
    if not run.exists():
        raise ConfigError(f"{run} does not exist")
    if RunFolder(run).config.is_file() and options.format is None:
        if options.given:
            raise ConfigError(
                "--verification, --generation and --tokenizer are for logs of other trainers: this run has"
                " verdicts and entropies of its own (extra-rl reverify judges it anew)"
            )
        return None
    imported = ImportedRun(run, format_of(run, options.format), cache_folder(cache), options.services())
    imported.update()
    return imported


def _tokenizer(folder: Path) -> Any:
    try:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder)
    except ModuleNotFoundError as error:
        raise ConfigError("--tokenizer needs transformers: pip install transformers") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"--tokenizer {folder} cannot be loaded: {error}") from error
