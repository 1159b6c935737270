"""Which hosts only this machine can reach: client and servers must agree on it."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address (an IPv6 one may be in brackets), is this machine's loopback."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
