"""docs/settings.md is generated from the settings, and has the flags and variables that the servers take."""

import re
import subprocess
import sys

import pytest

from extra_rl.config_file import ConfigError
from extra_services.runtime.settings import ServerSettings, load
from scripts.make_settings import PAGE, SERVERS, page

SECTIONS = dict(re.findall(r"^## .*?\n+`extra-rl serve (\w+)`\n(.*?)(?=^## |\Z)", page(), re.M | re.S))
COMMON = page().partition("## All servers")[2].partition("\n## ")[0]


def rows(server: type[ServerSettings]) -> list[tuple[str, str]]:
    """Return flags and variables of a server, as the page says."""
    found = re.findall(r"^\| `--(\S+)` \| `(\S+)` \|", COMMON + SECTIONS[server.section], re.M)
    return [(flag, variable.replace("...", server.section.upper())) for flag, variable in found]


def test_the_page_is_what_the_classes_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make protos`"


@pytest.mark.parametrize("server", SERVERS)
def test_the_page_has_the_flags_that_the_server_takes(server: type[ServerSettings]) -> None:
    command = [sys.executable, "-m", "extra_cli", "serve", server.section, "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout
    flags = set(re.findall(r"--([a-z][a-z-]+)", shown)) - {"help", "config"}
    assert {flag for flag, _ in rows(server)} == {flag.removeprefix("no-") for flag in flags}


@pytest.mark.parametrize("server", SERVERS)
def test_each_variable_on_the_page_is_read(
    server: type[ServerSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {name for name, field in server.model_fields.items() if field.annotation in (int, float, bool)}
    for flag, variable in rows(server):
        if flag.replace("-", "_") in numbers:
            monkeypatch.setenv(variable, "no number")
    with pytest.raises(ConfigError) as refused:
        load(server, ["--model=."] if server.section == "generation" else [])
    assert {line.partition(":")[0] for line in str(refused.value).splitlines()} == numbers
