"""Whom an address counts as, where requests are counted.

    counted_as("2001:db8::5:1") == counted_as("2001:db8::9:9") == "2001:db8::/64"

By IPv4 one machine, or those behind one router. By IPv6 the /64 that every subscriber has at least: he may
ask from each of its 2**64 addresses.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address

_SUBSCRIBER_BITS = 64


def counted_as(remote: str | None) -> str:
    """The name that requests from the address ``remote`` are counted under; a socket's is empty."""
    try:
        address = ip_address(remote or "")
    except ValueError:  # a UNIX socket
        return remote or ""
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address), _SUBSCRIBER_BITS), strict=False))
