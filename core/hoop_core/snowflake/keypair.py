"""Key-pair sign-in to Snowflake: the JWT and the fingerprint of the public key.

https://docs.snowflake.com/en/developer-guide/sql-api/authenticating#using-key-pair-authentication
"""

from __future__ import annotations

import base64
import hashlib
import time

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from joserfc import jwt
from joserfc.jwk import RSAKey

from hoop_core.errors import VaultUnavailable

_LIFETIME_SECONDS = 60


def public_key_fingerprint(private_pem: bytes) -> str:
    """ "SHA256:<base64>" of the public key, as Snowflake shows it in RSA_PUBLIC_KEY_FP."""
    key = load_pem_private_key(private_pem, None)
    if not isinstance(key, RSAPrivateKey):
        raise VaultUnavailable("Vault minted a key that is not RSA.", "Set key_bits and format.")
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode()


def login_token(account: str, user: str, private_pem: bytes) -> str:
    """A JWT that signs `user` in for one minute. The account is its locator without the region."""
    subject = f"{account.partition('.')[0].upper()}.{user.upper()}"
    now = int(time.time())
    claims = {
        "iss": f"{subject}.{public_key_fingerprint(private_pem)}",
        "sub": subject,
        "iat": now,
        "exp": now + _LIFETIME_SECONDS,
    }
    return jwt.encode(
        {"alg": "RS256"}, claims, RSAKey.import_key(private_pem), algorithms=["RS256"]
    )
