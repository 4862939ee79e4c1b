"""What users prove themselves with: passwords as digests, RSA public keys and their fingerprints.

https://docs.snowflake.com/en/user-guide/key-pair-auth
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from hoop_core.devstack.emulator.errors import bad_value


@dataclass(frozen=True, slots=True)
class Password:
    """PBKDF2-HMAC-SHA256. Few rounds: a stand-in that is started for each test run."""

    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    @classmethod
    def of(cls, clear: str) -> Password:
        salt = secrets.token_bytes(16)
        return cls(salt, cls._derive(clear, salt))

    @staticmethod
    def _derive(clear: str, salt: bytes) -> bytes:
        return hashlib.pbkdf2_hmac("sha256", clear.encode(), salt, 20_000)

    def matches(self, clear: str) -> bool:
        return hmac.compare_digest(self._derive(clear, self.salt), self.digest)


def load_public_key(text: str, parameter: str) -> RSAPublicKey:
    """The body of a PEM file without its delimiters, as Snowflake wants it. Raises SqlError."""
    try:
        key = load_der_public_key(base64.b64decode(re.sub(r"\s", "", text), validate=True))
    except (binascii.Error, ValueError, UnsupportedAlgorithm):
        raise bad_value(parameter) from None
    if not isinstance(key, RSAPublicKey) or key.key_size < 2048:
        raise bad_value(parameter)
    return key


def fingerprint(key: RSAPublicKey) -> str:
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode()
