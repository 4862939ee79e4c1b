"""Vault's database engine: mint a Snowflake user, take it back.

Hoop signs in with its own workload identity (`auth/jwt`), never with the caller's token: a caller whose
token Vault accepted could mint a user past Hoop. There is no static Vault token anywhere.
https://developer.hashicorp.com/vault/docs/secrets/databases/snowflake

The user's name is Vault's to choose, and begins with the display name of the token that asked: so each
user is asked for with a token of its own, whose name is in the store before.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import hvac
import requests
from hvac.exceptions import (
    Forbidden,
    InternalServerError,
    InvalidRequest,
    VaultError,
)

from hoop_core.config import VaultSettings
from hoop_core.credentials.minting import (
    Draft,
    Threads,
    draft_id,
    has_lease,
    new_number,
)
from hoop_core.credentials.vault_login import NOTHING_RAN, VaultLogin, plain_session
from hoop_core.errors import VaultUnavailable
from hoop_core.model import Lease, RoleBinding
from hoop_core.snowflake.keypair import public_key_fingerprint

_TEMPLATE = "V_TOKEN_HOOP_"
"""How the engine's default `username_template` begins for a token that is called `hoop-...`."""


@dataclass(slots=True)
class VaultMinter:
    """Synchronous (hvac): call it from a worker thread, or through `OnThreads`.

    `installation` is what tells this installation's users from those of others.
    """

    settings: VaultSettings
    installation: str = "000000"
    _session: requests.Session = field(default_factory=plain_session, repr=False)
    _vault: VaultLogin = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._vault = VaultLogin(self.settings, self._session)

    @property
    def prefix(self) -> str:
        return f"{_TEMPLATE}{self.installation.upper()}_"

    def draft(self, role: RoleBinding, session_id: str, account: str = "") -> Draft:
        """Sign in, and get a token that bears the coming user's name. Raises VaultUnavailable."""
        number = new_number()
        asked = datetime.now(UTC)

        def call() -> tuple[str, str]:
            client, accessor = self._vault.login()
            name = f"hoop-{self.installation.lower()}-{number.lower()}"
            body = {"display_name": name, "no_default_policy": True}
            try:
                made = client.adapter.post("/v1/auth/token/create", json=body)
                return accessor, str(made["auth"]["client_token"])
            except BaseException:
                with suppress(VaultError, requests.RequestException):
                    client.auth.token.revoke_self()
                raise

        accessor, token = self._vault.guarded(call, "get a token for a Snowflake user")
        lease = Lease(
            lease_id=draft_id(number),
            snowflake_user=self.prefix + number,
            role=role,
            session_id=session_id,
            created_at=asked,
            expires_at=asked + timedelta(days=1),
            public_key_fingerprint="",
            account=account,
            accessor=accessor,
        )
        return Draft(lease, token)

    def mint(self, draft: Draft) -> Lease:
        """Make the Snowflake user. Raises VaultUnavailable; a user that was made hangs on the draft's token."""
        what = f"mint a Snowflake user for the role {draft.lease.role.vault_role!r}"
        return self._vault.guarded(lambda: self._lease(draft.lease, self._generate(draft)), what)

    @staticmethod
    def _lease(asked: Lease, answer: dict[str, Any]) -> Lease:
        role = asked.role
        key = str(answer["data"].get("rsa_private_key") or "").encode()
        if not key:
            raise VaultUnavailable(
                f"Vault's role {role.vault_role!r} gives no key pair.",
                "Set credential_type=rsa_private_key: Snowflake refuses passwords of services.",
            )
        # Vault answers in mixed case; an unquoted CREATE USER stores it in upper case.
        user = str(answer["data"]["username"]).upper()
        if not user.startswith(asked.snowflake_user + "_"):
            raise VaultUnavailable(
                "Vault names users in a way by which Hoop could not find them again after a crash.",
                "Take username_template out of the connection in Vault: the default one is right.",
            )
        return Lease(
            lease_id=answer["lease_id"],
            snowflake_user=user,
            role=role,
            session_id=asked.session_id,
            created_at=asked.created_at,
            expires_at=asked.created_at + timedelta(seconds=int(answer["lease_duration"])),
            public_key_fingerprint=public_key_fingerprint(key),
            private_key=key,
            account=asked.account,
            accessor=asked.accessor,
        )

    def _generate(self, draft: Draft) -> dict[str, Any]:
        """Whatever goes wrong, the token is given back.

        A user that Vault made while we no longer listened hangs on that token and ends with it.
        """
        client = self._vault.client(draft.secret)
        try:
            answer: dict[str, Any] = client.secrets.database.generate_credentials(
                name=draft.lease.role.vault_role, mount_point=self.settings.database_mount
            )
        except BaseException:
            with suppress(VaultError, requests.RequestException):
                client.auth.token.revoke_self()
            raise
        return answer

    def revoke(self, lease: Lease) -> None:
        """Drop the user and wait until Vault says it was dropped. Raises VaultUnavailable.

        An asynchronous revocation answers 202 although nothing was dropped: never use it. Of a draft the
        token is ended, and with it, a moment later, whatever hangs on it.
        """

        def call() -> None:
            client, _ = self._vault.login()
            if has_lease(lease):
                _revoke_lease(client, lease.lease_id)
            if lease.accessor:
                _end_token(client, lease.accessor)
            client.auth.token.revoke_self()

        self._vault.guarded(call, "revoke a Snowflake user")

    def sweep(self) -> int:
        """Revoke what Vault itself gave up to revoke: after six attempts nothing there tries it again.

        Such leases are over, whoever they were for. https://openbao.org/api-docs/system/leases
        """

        def call() -> int:
            client, _ = self._vault.login()
            found = client.adapter.get("/v1/sys/leases", params={"type": "irrevocable"})
            ours = f"{self.settings.database_mount}/creds/"
            given_up = [
                str(lease["lease_id"])
                for lease in (found.get("data") or {}).get("leases") or []
                if str(lease.get("lease_id")).startswith(ours)
            ]
            for lease_id in given_up:
                _revoke_lease(client, lease_id)
            client.auth.token.revoke_self()
            return len(given_up)

        return self._vault.guarded(call, "revoke what it had given up")

    def check_reachable(self) -> None:
        """Raises VaultUnavailable when Vault does not answer, is sealed or not initialised.

        https://openbao.org/api-docs/system/health
        """
        url = f"{self.settings.address.rstrip('/')}/v1/sys/health"
        accepted = {"standbyok": "true", "perfstandbyok": "true"}

        def call() -> int:
            timeout = self.settings.timeout_seconds
            with self._session.get(
                url, params=accepted, timeout=timeout, allow_redirects=False, stream=True
            ) as answer:
                return answer.status_code

        status = self._vault.guarded(call, "look at its health")
        if status != requests.codes.ok:
            sealed = {501: "is not initialised", 503: "is sealed"}
            why = sealed.get(status, f"answers HTTP {status}")
            raise VaultUnavailable(f"Vault {why}.", NOTHING_RAN)

    def check_login(self) -> None:
        """Raises VaultUnavailable when Vault does not take Hoop's workload identity."""

        def call() -> None:
            client, _ = self._vault.login()
            client.auth.token.revoke_self()

        self._vault.guarded(call, "sign in")


def _revoke_lease(client: hvac.Client, lease_id: str) -> None:
    """Wait until Vault has dropped the user. Twice if need be: where its plugin's process has died, the first
    call only finds that out.
    """
    body = {"lease_id": lease_id, "sync": True}
    try:
        client.adapter.put("/v1/sys/leases/revoke", json=body)
    except (InvalidRequest, InternalServerError):
        client.adapter.put("/v1/sys/leases/revoke", json=body)


def _end_token(client: hvac.Client, accessor: str) -> None:
    """End the token that a lease hung on. One that is over already is refused as invalid."""
    with suppress(InvalidRequest, Forbidden):
        client.adapter.post("/v1/auth/token/revoke-accessor", json={"accessor": accessor})


class OnThreads:
    """A VaultMinter for the event loop. Minting and ending have threads of their own: neither starves the other."""

    def __init__(self, minter: VaultMinter, concurrency: int) -> None:
        self._minter = minter
        self._minting, self._ending = Threads("mint", concurrency), Threads("revoke", concurrency)

    @property
    def prefix(self) -> str:
        return self._minter.prefix

    async def draft(self, role: RoleBinding, session_id: str, account: str) -> Draft:
        return await self._minting.run(lambda: self._minter.draft(role, session_id, account))

    async def mint(self, draft: Draft) -> Lease:
        return await self._minting.run(lambda: self._minter.mint(draft))

    async def revoke(self, lease: Lease) -> None:
        await self._ending.run(lambda: self._minter.revoke(lease))

    async def sweep(self) -> int:
        return await self._ending.run(self._minter.sweep)

    async def close(self) -> None:
        self._minting.close()
        self._ending.close()
