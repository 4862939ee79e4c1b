"""Network rules and policies: which addresses a user may come from.

A policy on a user takes precedence over any other. What is on the blocked list is out, whatever the
allowed list says; what is not on an allowed list that is there is out too.
https://docs.snowflake.com/en/user-guide/network-policies
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from hoop_core.devstack.emulator.errors import bad_value

Name = tuple[str, ...]
BLOCKED = "390422"


@dataclass(frozen=True, slots=True)
class NetworkRule:
    """TYPE = IPV4, MODE = INGRESS: the only form that the stand-in knows."""

    networks: tuple[ipaddress.IPv4Network, ...]

    def holds(self, address: ipaddress.IPv4Address) -> bool:
        return any(address in network for network in self.networks)


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    allowed: tuple[Name, ...]
    blocked: tuple[Name, ...] = ()

    def admits(self, address: str, rules: Mapping[Name, NetworkRule]) -> bool:
        """A rule that is gone allows nobody; an address that is no IPv4 address is not allowed."""
        try:
            asked = ipaddress.IPv4Address(address)
        except ValueError:
            return False
        if any(rules[name].holds(asked) for name in self.blocked if name in rules):
            return False
        return not self.allowed or any(
            rules[name].holds(asked) for name in self.allowed if name in rules
        )


def rule_of(values: tuple[str, ...]) -> NetworkRule:
    """Raises SqlError for a value that is no IPv4 address or network."""
    try:
        return NetworkRule(tuple(ipaddress.IPv4Network(v, strict=False) for v in values))
    except ValueError:
        raise bad_value("VALUE_LIST") from None


def blocked_text(address: str) -> str:
    return (
        f"Incoming request with IP/Token {address} is not allowed to access Snowflake. "
        "Contact your account administrator."
    )
