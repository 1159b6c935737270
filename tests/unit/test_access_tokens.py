"""Tokens in a file that changes while the server runs."""

from pathlib import Path

import pytest

from extra_rl.config_file import ConfigError
from extra_services.errors import Overloaded, Unauthenticated
from extra_services.runtime.tokens import Token, Tokens, mint
from extra_services.verification.main import VerificationSettings
from support.token_files import write_tokens

SECRETS = {name: mint() for name in ("ada", "bob")}


def write(file: Path, *names: str, **more: object) -> None:
    write_tokens(file, [(name, SECRETS[name][1]) for name in names], **more)


def identify(tokens: Tokens, name: str) -> Token | None:
    try:
        return tokens.identify([("authorization", f"Bearer {SECRETS[name][0]}")])
    except Unauthenticated:
        return None


def known(tokens: Tokens) -> list[str]:
    return [name for name in SECRETS if identify(tokens, name) is not None]


def test_a_replaced_file_counts_from_the_next_call_on(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    write(file, "ada")
    tokens = Tokens([], file)
    assert known(tokens) == ["ada"]
    for names in (["ada", "bob"], ["bob"], ["ada"]):
        write(file, *names)
        assert known(tokens) == names


@pytest.mark.parametrize("broken", ["", "tokens: [", "tokens: {}", "tokens: [{name: x}]", "a: 1", "\0"])
def test_a_file_that_cannot_be_used_leaves_the_old_tokens(tmp_path: Path, broken: str) -> None:
    file = tmp_path / "tokens.yaml"
    file.write_text(broken)
    with pytest.raises(ConfigError):
        Tokens([], file)
    write(file, "ada")
    tokens = Tokens([], file)
    file.write_text(broken)
    assert known(tokens) == ["ada"]
    file.unlink()
    assert known(tokens) == ["ada"]
    write(file, "bob")
    assert known(tokens) == ["bob"]
    write(file, "bob", "bob")  # two of one name
    assert known(tokens) == ["bob"]


def test_a_file_without_tokens_opens_the_server_to_nobody(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    write(file, "ada")
    tokens = Tokens([], file)
    write(file)
    assert known(tokens) == []
    assert tokens.required
    assert Tokens([], file).required
    assert not Tokens([]).required


def test_a_token_that_stays_keeps_the_count_of_its_rate_limit(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    write(file, "ada", requests_per_second=0.01)
    tokens = Tokens([], file)
    (first,) = [identify(tokens, "ada")]
    assert first is not None
    first.count()
    write(file, "ada", "bob", requests_per_second=0.01)
    again = identify(tokens, "ada")
    assert again is first
    with pytest.raises(Overloaded):
        again.count()


def test_tokens_are_given_in_one_place() -> None:
    entry = {"name": "ada", "sha256": SECRETS["ada"][1], "scopes": {"*": "read"}}
    with pytest.raises(ValueError, match="tokens or tokens_file, not both"):
        VerificationSettings(tokens=[entry], tokens_file="tokens.yaml")
