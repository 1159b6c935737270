"""The part of GetInfo that is the same for all services of a server."""

from extra_rl import __version__
from extra_rl.v1 import common_pb2
from extra_services.runtime.settings import ServerSettings


def server_info(settings: ServerSettings) -> common_pb2.ServerInfo:
    """Return the version of extra-rl and the limits that hold for every service."""
    return common_pb2.ServerInfo(version=__version__, max_message_bytes=settings.max_message_bytes)
