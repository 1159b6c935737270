"""`extra-rl token`: print a new secret once, for its owner, and the entry for the config of the servers."""

import sys

import yaml
from pydantic import ValidationError

from extra_rl.config_file import explain
from extra_services.runtime import tokens
from extra_services.runtime.tokens import TokenSettings


def mint(name: str, scopes: list[str]) -> None:
    """Print a new token on standard output and its config entry on standard error, so that each can be piped.

    Args:
        name: Owner of the token.
        scopes: PATTERN=SCOPE, such as "run-1*=write".
    """
    token, digest = tokens.mint()
    pairs = [scope.rpartition("=") for scope in scopes]
    entry = {"name": name, "sha256": digest, "scopes": {pattern: scope for pattern, _, scope in pairs}}
    try:
        TokenSettings.model_validate(entry)
    except ValidationError as error:
        sys.exit(f"extra-rl token: {explain(error, TokenSettings)}")
    print("# For the caller, as EXTRA_RL_TOKEN; it is shown only once:", file=sys.stderr)
    print(token, flush=True)
    print("# For the servers' config, under `tokens:`", file=sys.stderr)
    print(yaml.safe_dump([entry], sort_keys=False), end="", file=sys.stderr)
