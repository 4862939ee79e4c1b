"""A look behind Hoop's back: the emulator's administrator asks Snowflake itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

from hoop_core.config import Settings
from hoop_core.credentials.vault import VaultMinter
from hoop_core.devstack.stack import StackInfo
from hoop_core.errors import SnowflakeError
from hoop_core.model import Lease, RoleBinding
from hoop_core.snowflake.http import SnowflakeHttp
from hoop_core.snowflake.session import open_session

CUSTOMERS = "PROD.CRM.CUSTOMERS"
FEATURES = "PROD.FEATURES.CHURN_FEATURES"
STAGING = "PROD.FEATURES.CHURN_STAGING"


@dataclass(frozen=True, slots=True)
class Login:
    user: str
    success: bool


@dataclass(frozen=True, slots=True)
class Ran:
    """A statement as Snowflake's QUERY_HISTORY has it."""

    user: str
    role: str
    text: str
    status: str


@dataclass(frozen=True, slots=True)
class RevokedKey:
    """What one key opened before and after its user was revoked; `refusal` is empty if it still does."""

    user: str
    opened_before: bool
    refusal: str


class Administrator:
    """The emulator's administrator. Hoop knows nothing of this connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            return [tuple(r) for r in cursor.execute(sql, values or None)]

    def count(self, table: str) -> int:
        return int(self.rows(f"SELECT COUNT(*) FROM {table}")[0][0])  # noqa: S608  own constants

    def users(self) -> tuple[str, ...]:
        return tuple(str(r[0]) for r in self.rows("SHOW USERS"))

    def customers(self, ids: list[int]) -> dict[int, dict[str, Any]]:
        """The true values of those customers, by id."""
        names = ("CUSTOMER_ID", "EMAIL", "SSN", "CARD_NUMBER", "REGION", "SEGMENT", "MRR")
        marks = ", ".join(["%s"] * len(ids))
        sql = f"SELECT {', '.join(names)} FROM {CUSTOMERS} WHERE CUSTOMER_ID IN ({marks})"  # noqa: S608
        return {int(r[0]): dict(zip(names, r, strict=True)) for r in self.rows(sql, *ids)}

    def unmasked_features(self) -> int:
        """Rows of the feature table that hold a customer's whole e-mail address."""
        sql = (
            f"SELECT COUNT(*) FROM {FEATURES} f JOIN {CUSTOMERS} c "  # noqa: S608
            "ON f.CUSTOMER_ID = c.CUSTOMER_ID WHERE f.EMAIL_DOMAIN = c.EMAIL"
        )
        return int(self.rows(sql)[0][0])

    def logins(self) -> tuple[Login, ...]:
        sql = "SELECT USER_NAME, IS_SUCCESS FROM SNOWFLAKE.ACCOUNT_USAGE.LOGIN_HISTORY"
        return tuple(Login(str(u), str(s).upper() in {"YES", "TRUE"}) for u, s in self.rows(sql))

    def history(self) -> tuple[Ran, ...]:
        sql = (
            "SELECT USER_NAME, ROLE_NAME, QUERY_TEXT, EXECUTION_STATUS "
            "FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY ORDER BY START_TIME"
        )
        return tuple(Ran(str(u), str(r), str(t), str(s)) for u, r, t, s in self.rows(sql))


def import_driver() -> None:
    """Import the connector, which takes a second or two, at a time when nobody waits for it."""
    import snowflake.connector  # noqa: F401, PLC0415


@contextmanager
def administrator(info: StackInfo) -> Iterator[Administrator]:
    import snowflake.connector  # noqa: PLC0415  slow to import

    with snowflake.connector.connect(
        account=info.snowflake_account,
        host=info.snowflake_host,
        port=info.snowflake_port,
        protocol="http",
        user=info.admin_user,
        password=info.admin_password,
        platform_detection_timeout_seconds=0.0,
    ) as connection:
        yield Administrator(connection)


def try_revoked_key(settings: Settings, role: RoleBinding) -> RevokedKey:
    """Mint a user as the gateway does, sign in, revoke it, and try the same key again.

    No key of a user that the gateway minted ever leaves the gateway, so this one is the demo's own.
    Raises VaultUnavailable, SnowflakeUnavailable.
    """
    minter = VaultMinter(settings.vault)
    lease = minter.mint(minter.draft(role, "demo"))
    try:
        before = asyncio.run(_refusal(settings, lease))
    finally:
        minter.revoke(lease)
    return RevokedKey(lease.snowflake_user, not before, asyncio.run(_refusal(settings, lease)))


async def _refusal(settings: Settings, lease: Lease) -> str:
    """Why Snowflake does not let this key in; empty when it does."""
    async with aclosing(SnowflakeHttp(settings.snowflake)) as http:
        try:
            session = await open_session(http, settings.snowflake, lease)
        except SnowflakeError as e:
            return f"{e.errno}: {e.message.partition(' [')[0]}"  # without the request's number
        await session.close()
    return ""
