"""TLS of a server, with certificates that are replaced while it runs.

gRPC asks for the certificate at the start of every connection, and the files are read then. If they hold a
new valid certificate, connections get it from then on; open ones keep theirs. Invalid files (a key of another
certificate, a file half written) are logged once, and the server goes on with the old certificate.
"""

import ssl
import threading
from collections.abc import Sequence
from pathlib import Path

import grpc
import structlog

from extra_rl.config_file import ConfigError

log = structlog.get_logger()


class Certificates:
    """The PEM files `certificate` (with its chain), its `key` and, for mTLS, the `client_ca`.

    Raises:
        ConfigError: They cannot be used now.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._lock = threading.Lock()
        try:
            self._seen = self._read()
            self._check(self._seen)
        except OSError as error:
            raise ConfigError(f"tls_certificate, tls_key, tls_client_ca: {_reason(error)}") from error

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return credentials that follow the files; with a `client_ca`, clients need a certificate of it."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(self._seen), self._renewed, self._client_ca is not None
        )

    def ssl_context(self, protocols: Sequence[str]) -> ssl.SSLContext:
        """Return a context for Python's own servers that follows the files.

        Args:
            protocols: To offer by ALPN, the preferred one first.
        """
        context = self._new_context(protocols)

        # Called at the start of every connection, also without a name.
        def follow(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            nonlocal context
            if self._renewed() is not None:
                context = self._new_context(protocols)
            connection.context = context

        first = context
        first.sni_callback = follow
        return first

    def _new_context(self, protocols: Sequence[str]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._certificate, self._key, password="")
        context.set_alpn_protocols(list(protocols))
        if self._client_ca:
            context.load_verify_locations(self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Configuration for new connections; None if nothing has changed. Called by threads of gRPC."""
        with self._lock:
            try:
                found = self._read()
                if found == self._seen:
                    return None
                self._seen = found
                self._check(found)
            except OSError as error:
                log.error("the new certificate cannot be used, the old one stays", error=_reason(error))
                return None
        log.info("new certificate", file=str(self._certificate))
        return self._configuration(found)

    def _read(self) -> list[bytes]:
        return [path.read_bytes() for path in self._paths()]

    def _paths(self) -> Sequence[Path]:
        return [self._certificate, self._key, *([self._client_ca] if self._client_ca else [])]

    def _check(self, contents: list[bytes]) -> None:
        """Raise OSError (or ssl's subclass) if gRPC would not accept `contents`; gRPC gives no reason."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # With an empty password an encrypted key is an error; without one, OpenSSL would ask for it.
        context.load_cert_chain(self._certificate, self._key, password="")
        if self._client_ca:
            context.load_verify_locations(self._client_ca)
        if self._read() != contents:
            raise OSError("the files are being written")

    def _configuration(self, contents: list[bytes]) -> grpc.ServerCertificateConfiguration:
        certificate, key, *client_ca = contents
        return grpc.ssl_server_certificate_configuration(
            [(key, certificate)], client_ca[0] if client_ca else None
        )


def _reason(error: OSError) -> str:
    if error.filename:
        return f"cannot read {error.filename}: {error.strerror}"
    if isinstance(error, ssl.SSLError):
        why = error.reason or error
        return f"{why}: they must be PEM files, the key that of the certificate and without a password"
    return str(error)
