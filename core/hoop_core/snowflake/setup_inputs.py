"""What the administrator gives the setup: addresses and Vault's public key, checked before they are used."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from hoop_core.errors import ConfigError
from hoop_core.snowflake.quoting import remark

_WIDEST = 8
_LEAST_BITS = 2048


def addresses(given: Sequence[str], what: str, *, any_address: bool = False) -> tuple[str, ...]:
    """IPv4 addresses or networks (CIDR), merged and in order. Raises ConfigError.

    Networks wider than /8, alone or together, are refused unless `any_address`.
    https://docs.snowflake.com/en/sql-reference/sql/create-network-rule
    """
    networks: list[ipaddress.IPv4Network] = []
    for text in given:
        try:
            networks.append(ipaddress.IPv4Network(text.strip(), strict=True))
        except ValueError:
            raise ConfigError(
                f"`{remark(text[:60])}` is no IPv4 network for {what}.",
                "Write 203.0.113.7 or 203.0.113.0/28: IPv4, without host bits beyond the prefix.",
            ) from None
    if not networks:
        raise ConfigError(
            f"{what} is missing: without it a leaked key would work from anywhere.",
            "Give the addresses from which Hoop reaches Snowflake, as Snowflake sees them.",
        )
    merged = sorted(ipaddress.collapse_addresses(networks))
    if not any_address and any(n.prefixlen < _WIDEST for n in merged):
        raise ConfigError(
            f"{what} admits {', '.join(map(str, merged))}: that is no bound at all.",
            "Name Hoop's own addresses; --unsafe-any-address takes the network policy's meaning away.",
        )
    return tuple(map(str, merged))


def public_key(pem: bytes, source: str) -> str:
    """The body that RSA_PUBLIC_KEY wants, written anew from the key itself. Raises ConfigError.

    https://docs.snowflake.com/en/user-guide/key-pair-auth
    """
    if b"PRIVATE KEY" in pem:
        raise ConfigError(
            f"{source} holds a private key, which belongs into Vault and nowhere else.",
            "Give the public one: openssl rsa -in KEY -pubout",
        )
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPublicKey) or key.key_size < _LEAST_BITS:
        raise ConfigError(
            f"{source} is no RSA public key of {_LEAST_BITS} bits or more in PEM.",
            "Make one: openssl genrsa 2048 | openssl pkcs8 -topk8 -nocrypt, then openssl rsa -pubout",
        )
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()
