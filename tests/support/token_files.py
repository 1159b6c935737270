"""Files of access tokens that are replaced while a server runs, as an operator would replace them."""

import os
from collections.abc import Iterable
from pathlib import Path

import yaml


def write_tokens(file: Path, digests: Iterable[tuple[str, str]], **more: object) -> None:
    """Replace `file` at once by one that allows reading to these tokens.

    Args:
        file: The file.
        digests: Name and SHA-256 of each token, the latter as `tokens.mint` returns it.
        more: Further settings of each.
    """
    entries = [{"name": name, "sha256": digest, "scopes": {"*": "read"}, **more} for name, digest in digests]
    whole = file.with_suffix(".new")
    whole.write_text(yaml.safe_dump({"tokens": entries}))
    os.replace(whole, file)
