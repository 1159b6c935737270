"""The YAML file of `extra-rl serve --config`: one section a server, and nothing else."""

from pathlib import Path

import pytest

from extra_rl.config_file import ConfigError
from extra_services.runtime.settings import load
from extra_services.verification.main import VerificationSettings


@pytest.mark.parametrize("name", ["verificaton", "port"])
def test_an_unknown_section_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "servers.yaml"
    path.write_text(f"{name}: {{max_queue: 7}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=name):
        load(VerificationSettings, [f"--config={path}"])


def test_sections_of_other_servers_may_stand_beside(tmp_path: Path) -> None:
    path = tmp_path / "servers.yaml"
    path.write_text("verification: {max_queue: 7}\nnovelty: {port: 5}\n", encoding="utf-8")
    assert load(VerificationSettings, [f"--config={path}"]).max_queue == 7
