"""Who is at the other end, behind proxies that are trusted to say so."""

from __future__ import annotations

import ipaddress

from hoop_core.errors import ConfigError

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_MOST_HOPS = 20


class Proxies:
    """The proxies whose `X-Forwarded-For` is believed."""

    def __init__(self, trusted: tuple[str, ...]) -> None:
        """Raises ConfigError."""
        self._networks: list[_Network] = []
        for text in trusted:
            try:
                self._networks.append(ipaddress.ip_network(text, strict=False))
            except ValueError:
                raise ConfigError(
                    f"gateway.trusted_proxies: {text!r} is neither an address nor a network.",
                    'Write it like "10.1.2.3" or "10.1.0.0/16".',
                ) from None

    def trusts(self, address: str | None) -> bool:
        parsed = _parsed(address or "")
        return parsed is not None and any(
            parsed in n for n in self._networks if n.version == parsed.version
        )

    def client(self, peer: str | None, forwarded: list[str]) -> str | None:
        """The client's address: the last one in the chain that no trusted proxy has.

        Each proxy appends whom it heard from, so only what trusted proxies appended is true; what stands
        before the first stranger may be made up. A chain that cannot be read counts as the proxy's own.
        """
        if not forwarded or not self.trusts(peer):
            return peer
        chain = ",".join(forwarded).split(",")
        client = peer
        for hop in reversed(chain[-_MOST_HOPS:]):
            parsed = _parsed(hop.strip())
            if parsed is None:
                break
            client = str(parsed)
            if not self.trusts(client):
                break
        return client


def _parsed(text: str) -> _Address | None:
    """An address as proxies write it, with or without a port."""
    bare = text
    if text.startswith("["):
        bare = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        bare = text.partition(":")[0]
    try:
        parsed = ipaddress.ip_address(bare)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed
