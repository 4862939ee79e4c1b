"""Vault's database engine: mint a Snowflake user, take it back.

Hoop signs in with its own workload identity (`auth/jwt`), never with the caller's token: a caller whose
token Vault accepted could mint a user past Hoop. There is no static Vault token anywhere.
https://developer.hashicorp.com/vault/docs/secrets/databases/snowflake
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import hvac
import requests
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, VaultError

from hoop_core.config import VaultSettings
from hoop_core.errors import VaultUnavailable
from hoop_core.model import Lease, RoleBinding
from hoop_core.snowflake.keypair import public_key_fingerprint

_NOTHING_RAN = "Nothing was run. Ask the platform team to look at Vault, then try again."


def _plain_session() -> requests.Session:
    """No proxy and no .netrc of whoever started the process: credentials pass through here."""
    session = requests.Session()
    session.trust_env = False
    return session


@dataclass(slots=True)
class VaultMinter:
    """Synchronous (hvac): call it from a worker thread."""

    settings: VaultSettings
    _session: requests.Session = field(default_factory=_plain_session, repr=False)

    def _login(self) -> hvac.Client:
        """A fresh client with a short token. Each lease hangs on a token of its own."""
        client = hvac.Client(
            url=self.settings.address,
            token="",  # else hvac would pick one up from the environment or the home folder
            timeout=self.settings.timeout_seconds,
            session=self._session,
            allow_redirects=False,
        )
        try:
            token = self.settings.jwt_file.read_text().strip()
        except OSError as e:
            raise VaultUnavailable(
                f"Hoop's workload token {self.settings.jwt_file} cannot be read: {e.strerror}.",
                _NOTHING_RAN,
            ) from None
        client.auth.jwt.jwt_login(
            role=self.settings.auth_role, jwt=token, path=self.settings.auth_mount
        )
        return client

    def mint(self, role: RoleBinding, session_id: str) -> Lease:
        """Make a Snowflake user for `role`. Raises VaultUnavailable; then no user was handed out."""
        asked = datetime.now(UTC)
        answer = self._guarded(
            lambda: self._generate(role), f"mint a Snowflake user for the role {role.vault_role!r}"
        )
        key = str(answer["data"].get("rsa_private_key") or "").encode()
        if not key:
            self.revoke(answer["lease_id"])
            raise VaultUnavailable(
                f"Vault's role {role.vault_role!r} gives no key pair.",
                "Set credential_type=rsa_private_key: Snowflake refuses passwords of services.",
            )
        return Lease(
            lease_id=answer["lease_id"],
            # Vault answers in mixed case; an unquoted CREATE USER stores it in upper case.
            snowflake_user=str(answer["data"]["username"]).upper(),
            role=role,
            session_id=session_id,
            created_at=asked,
            expires_at=asked + timedelta(seconds=int(answer["lease_duration"])),
            public_key_fingerprint=public_key_fingerprint(key),
            private_key=key,
        )

    def _generate(self, role: RoleBinding) -> dict[str, Any]:
        """Whatever goes wrong after the sign-in, the token is given back.

        A user that Vault made while we no longer listened hangs on that token and ends with it.
        """
        client = self._login()
        try:
            answer: dict[str, Any] = client.secrets.database.generate_credentials(
                name=role.vault_role, mount_point=self.settings.database_mount
            )
        except BaseException:
            with suppress(VaultError, requests.RequestException):
                client.auth.token.revoke_self()
            raise
        return answer

    def revoke(self, lease_id: str) -> None:
        """Drop the user and wait until Vault says it was dropped. Raises VaultUnavailable.

        An asynchronous revocation answers 202 although nothing was dropped: never use it.
        """

        def call() -> Any:
            client = self._login()
            client.adapter.put("/v1/sys/leases/revoke", json={"lease_id": lease_id, "sync": True})
            client.auth.token.revoke_self()

        self._guarded(call, "revoke a Snowflake user")

    def _guarded(self, call: Any, what: str) -> Any:
        try:
            return call()
        except Forbidden:
            raise VaultUnavailable(
                f"Vault does not let Hoop {what}.",
                "Check Vault's policy for Hoop and the audience of its workload token.",
            ) from None
        except (InvalidRequest, InvalidPath) as e:
            detail = "; ".join(map(str, e.errors or []))[:200]
            raise VaultUnavailable(f"Vault cannot {what}: {detail}.", _NOTHING_RAN) from None
        except (VaultError, requests.RequestException) as e:
            raise VaultUnavailable(
                f"Vault cannot be reached to {what} ({type(e).__name__}).", _NOTHING_RAN
            ) from None
