"""Keys of Vault's transit engine that encrypt other keys: what they wrap is of no use without Vault.

https://openbao.org/api-docs/secret/transit/#generate-data-key
"""

from __future__ import annotations

import base64
import binascii
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import hvac
import requests
from hvac.exceptions import VaultError

from hoop_core.config import VaultSettings
from hoop_core.credentials.vault_login import VaultLogin
from hoop_core.errors import VaultUnavailable

KEY_BYTES = 32


@dataclass(slots=True)
class TransitDataKeys:
    """Data keys wrapped by one transit key. Synchronous: for worker threads. Raises VaultUnavailable."""

    settings: VaultSettings
    name: str
    token: str = field(default="", repr=False)
    """A person's own, to open recordings with; else Hoop signs in with its workload identity."""
    _vault: VaultLogin = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._vault = VaultLogin(self.settings)

    def new(self) -> tuple[bytes, str]:
        """A new key, and the same wrapped (`vault:v1:...`)."""
        data = self._asked(
            "datakey/plaintext", {"bits": KEY_BYTES * 8}, "make a key for recordings"
        )
        return _key(data["plaintext"]), str(data["ciphertext"])

    def unwrapped(self, wrapped: str) -> bytes:
        """The key that `new` wrapped."""
        data = self._asked("decrypt", {"ciphertext": wrapped}, "unwrap the key of a recording")
        return _key(data["plaintext"])

    def _asked(self, what: str, body: dict[str, Any], told: str) -> dict[str, Any]:
        path = f"/v1/{self.settings.transit_mount}/{what}/{self.name}"

        def call() -> dict[str, Any]:
            if self.token:
                return _data(self._vault.client(self.token), path, body)
            client, _ = self._vault.login()
            try:
                return _data(client, path, body)
            finally:
                _leave(client)

        return self._vault.guarded(call, told)


def _data(client: hvac.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = client.adapter.post(path, json=body)["data"]
    return found


def _leave(client: hvac.Client) -> None:
    """The token ends by itself soon if this fails."""
    with suppress(VaultError, requests.RequestException):
        client.auth.token.revoke_self()


def _key(plaintext: Any) -> bytes:
    try:
        key = base64.b64decode(str(plaintext), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise VaultUnavailable(
            "Vault gave a key for recordings that is none of 256 bits.",
            "Nothing was run. Look at the transit key that store.recordings_key names.",
        )
    return key
