"""Hosts that only this machine can reach; client and servers must agree on them."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether `host`, a name or an address (IPv6 also in brackets), is this machine's loopback."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
