"""A training run whose services require a client certificate and a token with only the needed scopes."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from extra_client import embedded
from extra_services.runtime import tokens
from support.certificates import Authority
from support.processes import no_process_survives
from support.training_runs import metrics_of, output_of, start, tiny_config

#: What docs/security.md says a run needs.
SCOPES = {"run-*": "admin", "@generation": "admin", "@verification": "read"}


@pytest.fixture
def mark() -> Iterator[str]:
    with no_process_survives() as word:
        yield word


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_trains_over_mtls_with_a_token_that_its_folder_does_not_hold(
    mark: str, tiny_model: Path, tmp_path: Path
) -> None:
    authority, (secret, digest) = Authority(tmp_path), tokens.mint()
    server, client = authority.issue("server"), authority.issue("client")
    (tmp_path / "token").write_text(secret)
    common: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 0,
        "tls_certificate": server.certificate,
        "tls_key": server.key,
        "tls_client_ca": authority.file,
        "tokens": [{"name": "run", "sha256": digest, "scopes": SCOPES}],
    }
    config, run = tiny_config(tmp_path, tiny_model), tmp_path / "run"
    with ExitStack() as stack:
        settings: dict[str, dict[str, Any]] = {
            "generation": {"model": tiny_model, "threads": 1},
            "novelty": {"threads": 1},
            "verification": {"workers": 1},
        }
        flags = ["services.generation.weights=stream"]
        for name, own in settings.items():
            service = stack.enter_context(
                embedded.start(name, tmp_path / f"{name}.log", log_level="debug", **common, **own)
            )
            flags.append(f"services.{name}.target={service.target}")
        shown = {
            "token_file": str(tmp_path / "token"),
            "ca": str(authority.file),
            "certificate": str(client.certificate),
            "key": str(client.key),
        }
        flags.append(f"services.credentials={json.dumps(shown)}")
        output = output_of(start(mark, config, run, *(part for flag in flags for part in ("--set", flag))))
    assert [record["step"] for record in metrics_of(run)] == [1, 2, 3, 4, 5, 6], output
    for log in tmp_path.glob("*.log"):
        assert '"token": "run"' in log.read_text(), log
    written = [path for path in (*run.rglob("*"), *tmp_path.glob("*.log")) if path.is_file()]
    assert not [path for path in written if secret.encode() in path.read_bytes()]
    assert secret not in output
