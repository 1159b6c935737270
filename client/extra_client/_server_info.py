"""The part of GetInfo that all services share."""

from dataclasses import dataclass

from extra_rl.v1 import common_pb2 as pb


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The server of a service."""

    #: Version of extra-rl on the server.
    version: str
    #: Largest message it accepts or sends, in bytes.
    max_message_bytes: int


def parse(server: pb.ServerInfo) -> ServerInfo:
    """Return the server as a dataclass."""
    return ServerInfo(server.version, server.max_message_bytes)
