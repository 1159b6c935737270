"""Credentials of a client: a token, and the files of TLS.

They are given to a client, or taken from the environment, where one setting serves every client of a process,
including those of the trainer and of the plug-ins. The files are read when a client connects.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from extra_client import embedded
from extra_client.errors import InvalidArgumentError
from extra_rl.hosts import is_loopback

TOKEN = "EXTRA_RL_TOKEN"
#: Variables that hold no secret: names of files, and a switch.
TOKEN_FILE = "EXTRA_RL_TOKEN_FILE"
CA = "EXTRA_RL_TLS_CA"
CERTIFICATE = "EXTRA_RL_TLS_CERTIFICATE"
KEY = "EXTRA_RL_TLS_KEY"
ALLOW_PLAINTEXT_NETWORK = "EXTRA_RL_ALLOW_PLAINTEXT_NETWORK"
NOT_SECRET = (TOKEN_FILE, CA, CERTIFICATE, KEY, ALLOW_PLAINTEXT_NETWORK)


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """A token and PEM files; each may be left out.

    With `ca`, connections to hosts use TLS, and the server must show a certificate of that authority for the
    target's name; for public certificates give the file with the system's authorities. Unix sockets and
    embedded services use no TLS.
    """

    #: Sent with every call.
    token: str = field(default="", repr=False)
    ca: str | Path | None = None
    #: Of this side, for servers that ask for it (mTLS), with its key.
    certificate: str | Path | None = None
    key: str | Path | None = None
    #: Send the token to other machines without TLS too: anyone on the way can read it.
    allow_plaintext_network: bool = False

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidArgumentError("certificate and key belong together", field="credentials.certificate")
        if self.certificate is not None and self.ca is None:
            raise InvalidArgumentError(
                "certificate and key are for TLS, which ca turns on", field="credentials.ca"
            )
        if not re.fullmatch("[!-~]*", self.token):
            raise InvalidArgumentError(
                "the token must be printable ASCII without spaces", field="credentials.token"
            )

    @classmethod
    def from_environment(cls) -> "Credentials":
        """Read EXTRA_RL_TOKEN (or EXTRA_RL_TOKEN_FILE), EXTRA_RL_TLS_CA and so on."""
        token, file = os.environ.get(TOKEN, ""), os.environ.get(TOKEN_FILE)
        return cls(
            token=_read(file).decode("ascii", "replace").strip() if file and not token else token,
            ca=os.environ.get(CA) or None,
            certificate=os.environ.get(CERTIFICATE) or None,
            key=os.environ.get(KEY) or None,
            allow_plaintext_network=os.environ.get(ALLOW_PLAINTEXT_NETWORK, "").lower()
            in ("1", "true", "yes"),
        )

    def channel_credentials(self, target: str) -> grpc.ChannelCredentials | None:
        """Return TLS credentials for a channel to `target`; None where it uses no TLS.

        Raises:
            InvalidArgumentError: That would send the token over the network unencrypted, or a file cannot be
                read.
        """
        child = embedded.find(target)
        if self.ca is not None and not target.startswith("unix:") and (child is None or child.tls):
            shown = (
                (_read(self.key), _read(self.certificate)) if self.key and self.certificate else (None, None)
            )
            return grpc.ssl_channel_credentials(_read(self.ca), *shown)
        if self.token and not self.allow_plaintext_network and not stays_here(target):
            raise InvalidArgumentError(
                f"the token would go to {target} unencrypted: give the server's authority (ca, or {CA}), or, "
                f"if the network is yours alone, allow_plaintext_network ({ALLOW_PLAINTEXT_NETWORK}=true)",
                field="credentials.ca",
            )
        return None


def stays_here(target: str) -> bool:
    """Return whether `target` names only servers on this machine."""
    if target.startswith("unix:"):
        return True
    addresses = re.sub(r"^(dns:(//[^/]*/)?|ipv4:|ipv6:)", "", target).split(",")
    return all(is_loopback(re.sub(r":\d+$", "", address)) for address in addresses)


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {path}: {error.strerror}", field="credentials") from None
