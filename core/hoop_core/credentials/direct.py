"""Minting without Vault: Hoop's own service key pair makes the users and drops them.

For teams without Vault. The price: a lasting key with CREATE USER lies on Hoop's host. Names are Hoop's to
choose, so every user is in the store, under its full name, before it can exist.
https://docs.snowflake.com/en/sql-reference/sql/create-user
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from hoop_core.config import DirectSettings, SnowflakeSettings
from hoop_core.credentials.minting import Draft, Threads, draft_id, new_number
from hoop_core.errors import ConfigError, SnowflakeError, Unavailable
from hoop_core.model import Lease, RoleBinding, quote_part
from hoop_core.snowflake.http import SnowflakeHttp
from hoop_core.snowflake.keypair import public_key_fingerprint
from hoop_core.snowflake.quoting import identifier, literal
from hoop_core.snowflake.session import SnowflakeSession, open_session

PASSPHRASE = "HOOP_CREDENTIALS_KEY_PASSPHRASE"  # noqa: S105 - the name of a variable
_LONGEST_REQUEST = 15.0
_SESSION_OVER = {390104, 390111, 390112, 390114}
_LIFETIME = timedelta(days=1)
"""What DAYS_TO_EXPIRY can say at least: the last resort, not the lease."""
_KEYS_AT_ONCE = 2


def read_key(path: Path | None) -> bytes:
    """Hoop's own private key as PEM without a passphrase. Raises ConfigError."""
    if path is None:
        raise ConfigError(
            "credentials.direct.private_key_file is not set.",
            "Name the private key of Hoop's own Snowflake user (PEM, mode 0600).",
        )
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode) or stat.S_IMODE(mode) & 0o077:
                raise ConfigError(
                    f"The private key {path} may be used by others (mode {stat.S_IMODE(mode):o}).",
                    f"chmod 600 {path}",
                )
            pem = file.read()
        passphrase = os.environ.get(PASSPHRASE, "").encode() or None
        encrypted = b"ENCRYPTED" in pem
        key = load_pem_private_key(pem, passphrase if encrypted else None)
    except OSError as e:
        raise ConfigError(f"The private key {path} cannot be read: {e.strerror}.") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(
            f"The private key {path} is no PEM that can be opened.",
            f"The passphrase of an encrypted one is taken from {PASSPHRASE}.",
        ) from None
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < 2048:
        raise ConfigError(f"The private key {path} is no RSA key of 2048 bits or more.")
    return _pem(key)


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def new_key() -> tuple[bytes, str]:
    """A new RSA key: private as PEM, public as the body that RSA_PUBLIC_KEY wants."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return _pem(key), "".join(public.decode().splitlines()[1:-1])


class DirectMinter:
    """Works for one account, in one session of Hoop's own user, which is opened when it is needed."""

    def __init__(
        self,
        settings: DirectSettings,
        account: SnowflakeSettings,
        installation: str,
        *,
        http: SnowflakeHttp | None = None,
    ) -> None:
        """Raises ConfigError for a key that cannot be used, and for names that cannot be."""
        self._settings = settings
        seconds = min(account.request_seconds, _LONGEST_REQUEST)
        self._account = account.model_copy(update={"request_seconds": seconds})
        self.prefix = f"HOOP_{installation.upper()}_"
        self._http = http or SnowflakeHttp(self._account)
        self._keys = Threads("keys", _KEYS_AT_ONCE)
        self._opening = asyncio.Lock()
        self._session: SnowflakeSession | None = None
        read_key(settings.private_key_file)
        for name in (settings.user, settings.role, settings.warehouse):
            identifier(name)

    async def draft(self, role: RoleBinding, session_id: str, account: str) -> Draft:
        """Choose the name, and see that Hoop's own user can sign in. Raises Unavailable."""
        await self._signed_in()
        number = new_number()
        asked = datetime.now(UTC)
        lease = Lease(
            lease_id=draft_id(number),
            snowflake_user=self.prefix + number,
            role=role,
            session_id=session_id,
            created_at=asked,
            expires_at=asked + _LIFETIME,
            public_key_fingerprint="",
            account=account,
        )
        return Draft(lease)

    async def mint(self, draft: Draft) -> Lease:
        private, public = await self._keys.run(new_key)
        asked = draft.lease
        try:
            await self._run(self._creation(asked.snowflake_user, asked.role, public))
        except SnowflakeError as e:
            raise _unavailable(
                f"Hoop's own Snowflake user cannot make users of {asked.role.snowflake_role} ({e.errno}).",
                "Nothing was run. Run what `hoop snowflake setup-sql` prints for the policy in force.",
            ) from None
        return replace(
            asked,
            lease_id=f"direct/{asked.snowflake_user}",
            public_key_fingerprint=public_key_fingerprint(private),
            private_key=private,
        )

    def _creation(self, user: str, role: RoleBinding, public_key: str) -> Sequence[str]:
        own = self._settings
        name, granted = identifier(user), identifier(role.snowflake_role)
        policy = f" NETWORK_POLICY = {identifier(own.network_policy)}" if own.network_policy else ""
        return (
            f"CREATE USER {name} TYPE = SERVICE RSA_PUBLIC_KEY = {literal(public_key)} "
            f"DEFAULT_ROLE = {granted} DEFAULT_SECONDARY_ROLES = () "
            f"DEFAULT_WAREHOUSE = {identifier(role.warehouse or own.warehouse)}{policy} "
            f"DAYS_TO_EXPIRY = {_LIFETIME.days} COMMENT = 'Minted for one session of Hoop'",
            f"GRANT ROLE {granted} TO USER {name}",
        )

    async def revoke(self, lease: Lease) -> None:
        """Disabling aborts what the user runs; dropping alone is not documented to."""
        user = quote_part(lease.snowflake_user)
        await self._run(
            (
                f"ALTER USER IF EXISTS {user} SET DISABLED = TRUE",
                f"DROP USER IF EXISTS {user}",
            )
        )

    async def sweep(self) -> int:
        return 0  # nobody but Hoop itself was asked to end anything

    async def _run(self, statements: Sequence[str]) -> None:
        """One after the other. A session that is over is opened anew, once."""
        done = 0
        for last in (False, True):
            session = await self._signed_in()
            try:
                for statement in statements[done:]:
                    await session.rows(statement)
                    done += 1
                return
            except SnowflakeError as e:
                if e.errno not in _SESSION_OVER or last:
                    raise
                if self._session is session:
                    self._session = None

    async def _signed_in(self) -> SnowflakeSession:
        async with self._opening:
            if self._session is None:
                self._session = await self._open()
            return self._session

    async def _open(self) -> SnowflakeSession:
        own, now = self._settings, datetime.now(UTC)
        try:
            key = await asyncio.to_thread(read_key, own.private_key_file)
        except ConfigError as e:
            raise _unavailable(e.message, e.hint) from None
        lease = Lease(
            lease_id="",
            snowflake_user=own.user,
            role=RoleBinding("", own.role, own.warehouse),
            session_id="",
            created_at=now,
            expires_at=now,
            public_key_fingerprint="",
            private_key=key,
        )
        try:
            return await open_session(self._http, self._account, lease)
        except SnowflakeError as e:
            raise _unavailable(
                f"Hoop's own Snowflake user {own.user} cannot sign in ({e.errno}).",
                "Nothing was run. Check its public key, its role and from where it may come.",
            ) from None

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        await self._http.aclose()
        self._keys.close()


def _unavailable(message: str, hint: str) -> Unavailable:
    return Unavailable(message, hint, errno=99101, reason="MINTER_UNAVAILABLE")
