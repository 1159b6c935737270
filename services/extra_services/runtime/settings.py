"""Settings of the servers: each has one name, given in a YAML file, in the environment, or as a flag.

`memory_capacity` of the novelty server, for example, is `novelty: {memory_capacity: 16}` in the file,
`EXTRA_RL_NOVELTY_MEMORY_CAPACITY` in the environment and `--memory-capacity` on the command line; flags
win over the environment, and that over the file.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, cast

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from extra_rl.config_file import ConfigError, explain, read_yaml
from extra_rl.hosts import is_loopback
from extra_services.runtime.tokens import TokenSettings, check_distinct

MetricsPort = Annotated[int, Field(ge=0, le=65535)] | Literal["off"]
HttpPort = Annotated[int, Field(ge=0, le=65535)] | Literal["off"]


class ServerSettings(BaseSettings):
    """Settings of every server."""

    model_config = SettingsConfigDict(extra="forbid")
    section: ClassVar[str] = ""

    host: str = Field("127.0.0.1", description="Address to listen on, or unix:PATH (then port is not used).")
    port: int = Field(0, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    address_file: Path | None = Field(
        None, description="File the server writes its address into, once it serves."
    )
    stop_with_stdin: bool = Field(
        False, description="Stop when standard input ends: a parent that dies takes the server with it."
    )
    drain_seconds: float = Field(
        10.0, ge=0, description="Seconds that running calls may still take after SIGTERM."
    )
    max_message_bytes: int = Field(64 * 2**20, gt=0, description="Largest message accepted or sent.")
    max_concurrent_rpcs: int = Field(
        4096, gt=0, description="Calls served at once; more get RESOURCE_EXHAUSTED."
    )
    http_port: HttpPort = Field(
        "off",
        description="Port of the unary RPCs over HTTP, as JSON or binary; 0 takes a free one, off has none.",
    )
    http_address_file: Path | None = Field(
        None, description="File the server writes the address of its HTTP port into, once it serves."
    )
    metrics_port: MetricsPort = Field(
        "off",
        description="Port that Prometheus reads /metrics from; 0 takes a free one, off has none.",
    )
    metrics_host: str = Field("127.0.0.1", description="Address the metrics are served on.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level logged.")
    tls_certificate: Path | None = Field(
        None, description="PEM file of the server's certificate and its chain; may be replaced at any time."
    )
    tls_key: Path | None = Field(None, description="PEM file of the certificate's key.")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of the authority whose certificates clients must show (mTLS)."
    )
    tokens: list[TokenSettings] = Field(
        [],
        description="Tokens that callers must send, each {name, sha256, scopes, requests_per_second}; none:"
        " everybody who can connect may do everything.",
    )
    tokens_file: Path | None = Field(
        None,
        description="YAML file with such a list, `tokens: [...]`, instead; may be replaced at any time.",
    )
    allow_plaintext_network: bool = Field(
        False,
        description="Serve other machines without TLS: anybody on the way can read and change all data.",
    )

    @model_validator(mode="after")
    def _check_security(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: set both or neither")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if self.tls_certificate is not None and self.host.startswith("unix:"):
            raise ValueError("a unix: socket has no TLS: leave out tls_certificate, or give a host")
        if self.http_port != "off" and self.host.startswith("unix:"):
            raise ValueError("http_port needs a host: a unix: socket serves gRPC alone")
        check_distinct(self.tokens)
        if self.tokens and self.tokens_file is not None:
            raise ValueError("give tokens or tokens_file, not both")
        if self.tls_certificate is None and not self.allow_plaintext_network and not stays_here(self.host):
            tokens = ", and so would the tokens" if self.tokens or self.tokens_file else ""
            raise ValueError(
                f"host {self.host}: without TLS all that other machines send and get could be read and"
                f" changed on the way{tokens}. Set tls_certificate and tls_key; or listen on 127.0.0.1; or,"
                " if the network is yours alone, set allow_plaintext_network"
            )
        return self


def stays_here(host: str) -> bool:
    """Return whether only this machine can reach a server that listens on `host`."""
    return host.startswith("unix:") or is_loopback(host)


Settings = TypeVar("Settings", bound=ServerSettings)


#: The servers, whose settings one file may hold together.
SECTIONS = ("generation", "novelty", "verification")


def load(settings: type[Settings], arguments: list[str]) -> Settings:
    """Load settings from the command line `arguments`, the environment, and the YAML file of `--config`.

    Raises:
        ConfigError: Settings are unknown or out of range; it names all of them.
    """
    arguments, path = _take_config(arguments)
    sections = read_yaml(path) if path else {}
    if unknown := sorted(sections.keys() - set(SECTIONS)):
        raise ConfigError(
            f"{path}: unknown names: {', '.join(unknown)}; the sections are {', '.join(SECTIONS)}"
        )
    section = sections.get(settings.section, {})
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: {settings.section} must be a mapping of settings")

    class Loaded(settings):  # type: ignore[valid-type, misc]
        model_config = SettingsConfigDict(env_prefix=f"EXTRA_RL_{settings.section.upper()}_", extra="forbid")

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], env_settings: PydanticBaseSettingsSource, **_: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            flags: CliSettingsSource[Any] = CliSettingsSource(
                settings_cls,
                cli_parse_args=arguments,
                cli_prog_name=f"extra-rl serve {settings.section} [--config FILE]",
                cli_kebab_case=True,
                cli_implicit_flags=True,
            )
            return flags, env_settings, InitSettingsSource(settings_cls, init_kwargs=section)

    try:
        # The mypy plug-in of pydantic loses the type variable.
        return cast(Settings, settings.model_construct(**dict(Loaded())))
    except ValidationError as error:
        raise ConfigError(explain(error, settings)) from error
    except SettingsError as error:
        raise ConfigError(f"{error}: it must be JSON") from error


def _take_config(arguments: list[str]) -> tuple[list[str], str | None]:
    for index, argument in enumerate(arguments):
        if argument == "--config" and index + 1 < len(arguments):
            return arguments[:index] + arguments[index + 2 :], arguments[index + 1]
        if argument.startswith("--config="):
            return arguments[:index] + arguments[index + 1 :], argument.partition("=")[2]
    return arguments, None
