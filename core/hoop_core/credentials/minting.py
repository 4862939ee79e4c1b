"""What makes and ends Snowflake users, and how the users of this installation are told from all others.

Every user's name begins with the installation and a number that is in the store before the user can exist.
So a user whose name is in no entry is nobody's, however and wherever a process ended.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from hoop_core.model import Lease, RoleBinding

T = TypeVar("T")

INSTALLATION_DIGITS = 6
_NUMBER_BYTES = 7
_MINTING, _ORPHAN = "minting/", "orphan/"
VAULT_FAULT = "VAULT_FAULT"
"""The reason of an error inside Vault itself, by HTTP 500: another try may find it well."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What is about to be minted. `secret` is what the minter needs for it, and stays in this process."""

    lease: Lease
    secret: str = field(repr=False, default="")


class Minter(Protocol):
    """Both ways of minting. Every method is bounded in time."""

    @property
    def prefix(self) -> str:
        """What the names of all users of this installation begin with, in stored case."""

    async def draft(self, role: RoleBinding, session_id: str, account: str) -> Draft:
        """Prepare: nothing exists in Snowflake yet. Raises Unavailable."""

    async def mint(self, draft: Draft) -> Lease:
        """Make the user. Raises Unavailable or SnowflakeError; whether there is a user is then not known."""

    async def revoke(self, lease: Lease) -> None:
        """End a user, or what may have come of a draft; it may be gone already.

        Raises Unavailable or SnowflakeError.
        """

    async def sweep(self) -> int:
        """End what the other side itself gave up to end; how many there were. Raises Unavailable."""

    async def close(self) -> None: ...


def new_number() -> str:
    return secrets.token_hex(_NUMBER_BYTES).upper()


def draft_id(number: str) -> str:
    """The lease id until there is one."""
    return _MINTING + number


def orphan_id(account: str, user: str) -> str:
    """The lease id of a user that nobody has a lease for."""
    return f"{_ORPHAN}{account}/{user}"[:512]


def has_lease(lease: Lease) -> bool:
    """Whether Vault knows it by its lease id."""
    return not lease.lease_id.startswith((_MINTING, _ORPHAN))


def stands_for(entry: str, user: str) -> bool:
    """Whether the user that Snowflake lists is the one of an entry, which may know the beginning only.

    Case does not count: a user that was made under a quoted name is listed in mixed case.
    """
    user, entry = user.upper(), entry.upper()
    return bool(entry) and (user == entry or user.startswith(entry + "_"))


class Threads:
    """Runs blocking calls, a bounded number at once, apart from the threads that write the log."""

    def __init__(self, name: str, most: int) -> None:
        self._pool = ThreadPoolExecutor(most, thread_name_prefix=name)

    async def run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
