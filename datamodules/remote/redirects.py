"""Where a web server may send us: storage lives elsewhere, but never in somebody's own network.

Otherwise the owner of a URL could have any address read that this machine can reach: a cloud's
metadata at 169.254.169.254, or services that only this machine should see.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL


class RefusedRedirect(OSError):
    """A redirect to an address that the server should not know."""


def guard() -> aiohttp.TraceConfig:
    """Makes a session raise `RefusedRedirect` before it follows such a redirect."""
    from aiohttp import TraceConfig

    trace = TraceConfig()
    trace.on_request_redirect.append(_check)
    return trace


async def _check(session: Any, context: Any, redirect: Any) -> None:
    source: URL = redirect.url
    headers = redirect.response.headers  # aiohttp follows the obsolete one, too
    target = source.join(type(source)(headers.get("Location") or headers.get("URI", "")))
    if target.host is None or target.origin() == source.origin():
        return
    inside = [address for address in await _addresses(target) if not address.is_global]
    private = [a for a in inside if not (a.is_loopback or a.is_link_local or a.is_unspecified)]
    if not inside:
        return
    if inside == private and not any(a.is_global for a in await _addresses(source)):
        return  # from one machine of a private network to another
    raise RefusedRedirect(f"it redirects to {target.host}, an address of a private network")


async def _addresses(url: URL) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses of a URL's host; none if only a proxy may know them."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    addresses = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
    mapped = [getattr(address, "ipv4_mapped", None) for address in addresses]
    return [four or address for four, address in zip(mapped, addresses, strict=True)]
