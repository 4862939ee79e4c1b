"""The key that signs the log, in a file or in Vault; and the log of a configuration, opened."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import requests
from hvac.exceptions import VaultError

from hoop_core.audit.checkpoint import Signer, load_or_create_key
from hoop_core.audit.log import AuditLog
from hoop_core.audit.stored import store_has_entries
from hoop_core.config import Settings
from hoop_core.credentials.vault_login import VaultLogin
from hoop_core.errors import ConfigError, StoreUnavailable, VaultUnavailable
from hoop_core.store import Store


@dataclass
class TransitKey(Signer):
    """An ed25519 key that never leaves Vault. Its public half is read once.

    https://developer.hashicorp.com/vault/api-docs/secret/transit
    """

    name: str
    key: str
    version: int
    mount: str
    vault: VaultLogin = field(repr=False)
    _public: bytes = field(default=b"", repr=False)

    @property
    def public(self) -> bytes:
        if not self._public:
            self._public = self._call("read the key that signs the log", self._read)
        return self._public

    def signature(self, content: bytes) -> bytes:
        def sign(client: Any) -> bytes:
            answer = client.secrets.transit.sign_data(
                name=self.key,
                hash_input=base64.b64encode(content).decode(),
                key_version=self.version,
                mount_point=self.mount,
            )
            prefix, _, encoded = str(answer["data"]["signature"]).rpartition(":")
            if prefix != f"vault:v{self.version}":
                raise ValueError("signed by another version")
            return base64.b64decode(encoded, validate=True)

        return self._call("sign the log", sign)

    def _read(self, client: Any) -> bytes:
        told = client.secrets.transit.read_key(name=self.key, mount_point=self.mount)["data"]
        if told["type"] != "ed25519":
            raise ConfigError(f"Vault's key {self.key} is of the type {told['type']}, not ed25519.")
        for loose in ("exportable", "allow_plaintext_backup", "derived"):
            if told.get(loose):
                raise ConfigError(
                    f"Vault's key {self.key} is {loose.replace('_', ' ')}: who has it can sign a forged log.",
                    "Make one with type=ed25519 exportable=false allow_plaintext_backup=false.",
                )
        version = told["keys"].get(str(self.version))
        if version is None:
            raise ConfigError(f"Vault's key {self.key} has no version {self.version}.")
        try:
            public = base64.b64decode(version["public_key"], validate=True)
        except binascii.Error:
            raise ValueError("no public key") from None
        if len(public) != 32:
            raise ValueError("no ed25519 key")
        return public

    def _call(self, what: str, work: Any) -> bytes:
        def call() -> bytes:
            client, _ = self.vault.login()
            try:
                return bytes(work(client))
            finally:
                with suppress(VaultError, requests.RequestException):
                    client.auth.token.revoke_self()

        try:
            return self.vault.guarded(call, what)
        except VaultUnavailable as e:
            raise StoreUnavailable(f"The log cannot be signed. {e.message}", e.hint) from None


def signer_of(settings: Settings) -> Signer:
    """Raises ConfigError. A key in Vault is not asked for yet."""
    audit = settings.audit
    if audit.transit_key:
        _check_origin(audit.origin)
        return TransitKey(
            audit.origin, audit.transit_key, audit.transit_version, settings.vault.transit_mount,
            VaultLogin(settings.vault),
        )  # fmt: skip
    return load_or_create_key(audit.key_file, audit.origin)


def existing_signer(settings: Settings) -> Signer:
    """For those who come to a log that is there: a key is never made. Raises ConfigError."""
    if not settings.audit.transit_key and not settings.audit.key_file.exists():
        raise ConfigError(
            f"The log's key {settings.audit.key_file} is not there.",
            "Do this where the gateway runs, with its configuration.",
        )
    return signer_of(settings)


def open_log(settings: Settings, store: Store) -> AuditLog:
    """The log of a gateway that starts. Raises ConfigError, StoreUnavailable."""
    signer = existing_signer(settings) if store_has_entries(store) else signer_of(settings)
    log = AuditLog(store, signer)
    log.claim()
    return log


@contextmanager
def opened_log(settings: Settings) -> Iterator[tuple[Store, AuditLog]]:
    """The store and its log, for a command beside the gateway. Raises ConfigError, StoreUnavailable."""
    signer = existing_signer(settings)
    store = Store.of(settings.store)
    try:
        store.attach()
        log = AuditLog(store, signer)
        log.claim()
        yield store, log
    finally:
        store.close()


def _check_origin(origin: str) -> None:
    if not origin or any(c.isspace() or c == "+" for c in origin):
        raise ConfigError(f"The log origin {origin!r} must not hold white space or '+'.")
