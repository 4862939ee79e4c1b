"""How each dependency is looked at: in the background for /readyz, and once at the start for wrong settings."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial

import requests
import structlog
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, Unauthorized
from sqlalchemy import update
from urllib3.exceptions import NameResolutionError

from hoop_core.config import Settings
from hoop_core.credentials.accounts import Account, Accounts
from hoop_core.credentials.vault import VaultMinter
from hoop_core.errors import (
    AnalysisUnavailable,
    HoopError,
    IdentityError,
    SnowflakeUnavailable,
    StoreUnavailable,
    Unavailable,
    VaultUnavailable,
)
from hoop_core.guard import Guard
from hoop_core.identity.oidc import TokenVerifier
from hoop_core.replicas import Replicas
from hoop_core.server.advice import advice
from hoop_core.server.health import Check
from hoop_core.store import Store
from hoop_core.store.tables import replicas as replicas_table

_log = structlog.get_logger(__name__)
_START_SECONDS = 15.0
_SERVER_FAULT = 500
_MOST_CAUSES = 12


def checks(
    settings: Settings,
    *,
    store: Store,
    replicas: Replicas,
    accounts: Accounts,
    verifier: TokenVerifier,
    guard: Guard,
    tasks: Sequence[asyncio.Task[None]],
) -> Mapping[str, Check]:
    """By the names that /readyz shows."""

    async def can_write() -> None:
        def write() -> None:
            mine = update(replicas_table).where(replicas_table.c.id == replicas.id)
            with store.write() as connection:
                connection.execute(mine.values(url=replicas.url))

        await asyncio.to_thread(write)

    async def any_account() -> None:
        """Those whose account is down hear it from their statements; the others must go on."""
        await _any_of([partial(reach, a) for a in accounts])

    async def any_issuer() -> None:
        await _any_of([partial(document, verifier, s.issuer) for s in settings.identity])

    async def policy_in_force() -> None:
        if not guard.policy.digest:
            raise Unavailable("No policy is in force.")

    async def analysts_alive() -> None:
        if not guard.analysts.crew.pids:
            raise AnalysisUnavailable("No analysis worker is running.")

    async def tasks_running() -> None:
        ended = [t for t in tasks if t.done()]
        if ended:
            raise Unavailable(f"{len(ended)} background tasks have ended.", "Restart the gateway.")

    found: dict[str, Check] = {
        "store": can_write,
        "snowflake": any_account,
        "policy": policy_in_force,
        "analysts": analysts_alive,
        "tasks": tasks_running,
    }
    if settings.identity:
        found["identity"] = any_issuer
    if settings.credentials.backend == "vault":
        found["vault"] = lambda: asyncio.to_thread(VaultMinter(settings.vault).check_reachable)
    return found


async def _any_of(looks: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Raises what the first one met, when none is good."""
    results = await asyncio.gather(*(look() for look in looks), return_exceptions=True)
    faults = [r for r in results if isinstance(r, BaseException)]
    if faults and len(faults) == len(looks):
        raise faults[0]


async def reach(account: Account) -> None:
    """Any answer but a server's fault shows that Snowflake is there. Raises SnowflakeUnavailable."""
    status = await account.http.status(account.settings.connect_seconds)
    if status >= _SERVER_FAULT:
        raise SnowflakeUnavailable(f"Snowflake's account {account.name} answers HTTP {status}.")


async def document(verifier: TokenVerifier, name: str) -> None:
    """Raises IdentityError or Unavailable when the keys of an issuer are not to be had."""
    issuer = verifier.issuer(name)
    if issuer is None:
        raise IdentityError(f"The issuer {name} is not known.")
    await issuer.document()


# ---------------------------------------------------------------------- at the start


async def probe(settings: Settings, accounts: Accounts, verifier: TokenVerifier) -> None:
    """Look once at what the settings name, before anybody is served.

    Raises Unavailable where a wrong setting shows: a name that does not resolve, a certificate that is not
    trusted, an identity that Vault refuses, an issuer that calls itself otherwise. What only does not answer
    may come back by itself: that is said, and /readyz waits for it.
    """
    for sentence in advice(settings):
        _log.warning("a setting to look at", why=sentence)
    looks: dict[str, Awaitable[None]] = {}
    for account in accounts:
        looks[f"snowflake {account.name}"] = reach(account)
    for one in settings.identity:
        looks[f"identity {one.issuer}"] = document(verifier, one.issuer)
    if settings.credentials.backend == "vault":
        looks["vault"] = asyncio.to_thread(VaultMinter(settings.vault).check_login)
    results = await asyncio.gather(
        *(asyncio.wait_for(look, _START_SECONDS) for look in looks.values()), return_exceptions=True
    )
    for name, result in zip(looks, results, strict=True):
        if not isinstance(result, BaseException):
            continue
        if _wrong(result):
            raise _explained(name, result)
        why = result.text if isinstance(result, HoopError) else type(result).__name__
        _log.warning("a dependency does not answer yet", part=name, why=why)


_WAITING_HELPS_NOT: tuple[type[BaseException], ...] = (
    IdentityError,
    StoreUnavailable,
    socket.gaierror,
    ssl.SSLCertVerificationError,
    requests.exceptions.SSLError,
    NameResolutionError,
    Forbidden,
    InvalidPath,
    InvalidRequest,
    Unauthorized,
)
"""Names that are nobody's, certificates that nobody trusts, and Vault's answers to whom it does not take."""


def _wrong(error: BaseException) -> bool:
    return any(isinstance(e, _WAITING_HELPS_NOT) for e in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What an error came of; requests and urllib3 keep theirs in other places than `raise ... from`."""
    link: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if link is None:
            return
        yield link
        inner = getattr(link, "reason", None) or (link.args[0] if link.args else None)
        below = link.__cause__ or link.__context__
        link = below or (inner if isinstance(inner, BaseException) else None)


def _explained(name: str, error: BaseException) -> Unavailable:
    if isinstance(error, Unavailable):
        return error
    message = error.message if isinstance(error, HoopError) else type(error).__name__
    kind = VaultUnavailable if name == "vault" else Unavailable
    return kind(f"{name}: {message}", "Correct the setting; docs/operations.md lists the checks.")
