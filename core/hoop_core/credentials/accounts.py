"""The Snowflake accounts that Hoop serves: each with a client, an observer, a catalog and a keeper of its own.

What one account does, or does not do, is nothing to the others. Which one a session works with is chosen by
the account name that the client signs in with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from hoop_core.audit.log import AuditLog
from hoop_core.config import AccountSettings, Settings, SnowflakeSettings
from hoop_core.credentials.direct import DirectMinter
from hoop_core.credentials.leases import LeaseKeeper
from hoop_core.credentials.ledger import Ledger, installation
from hoop_core.credentials.minting import Minter
from hoop_core.credentials.sweeper import Sweeper
from hoop_core.credentials.upstream import Upstreams
from hoop_core.credentials.vault import OnThreads, VaultMinter
from hoop_core.errors import ConfigError, IdentityError
from hoop_core.identity.fetch import check_url
from hoop_core.model import RoleBinding, account_key
from hoop_core.policy.model import Policy
from hoop_core.replicas import is_loopback
from hoop_core.session.guarded import GuardedSession
from hoop_core.session.serving import Upstream
from hoop_core.snowflake.http import SnowflakeHttp
from hoop_core.sql.live_catalog import Catalogs, LiveCatalog
from hoop_core.store import Store

_ANY = "HOOP"
"""What Hoop's own client gives as the account's name, for drivers want one."""


@dataclass(frozen=True, slots=True)
class Account:
    """All that belongs to one account. `key` is its name as names are compared, `name` as it is configured."""

    key: str
    settings: SnowflakeSettings
    http: SnowflakeHttp
    keeper: LeaseKeeper
    sweeper: Sweeper
    catalog: LiveCatalog
    upstreams: Upstreams

    @property
    def name(self) -> str:
        return self.settings.account


class Accounts:
    """All accounts of one process. The first is the default one."""

    def __init__(self, accounts: Collection[Account]) -> None:
        self._by_key = {a.key: a for a in accounts}
        self.default = next(iter(accounts))

    def __iter__(self) -> Iterator[Account]:
        return iter(self._by_key.values())

    def choose(self, given: str | None) -> str:
        """The key of the account that a client means; without a name, or as `hoop`, the default one.

        Drivers do not connect without a name, so where there is one account only it is meant by any. Raises
        IdentityError, in words that do not tell which accounts there are.
        """
        key = account_key(given or "")
        if key in self._by_key:
            return key
        if key in {"", _ANY} or len(self._by_key) == 1:
            return self.default.key
        raise IdentityError(
            "Incorrect username or password was specified.",
            "Check `account`: Hoop serves no account of this name, or not for you.",
            errno=390100,
            reason="ACCOUNT",
        )

    def of(self, key: str) -> Account:
        """Without a key the default one: what was begun before there were several."""
        return self._by_key[key] if key else self.default

    def catalog(self) -> Catalogs:
        """The catalogs of all of them."""
        return _Catalogs(self)

    def stored_names(self, account: Account) -> tuple[str, ...]:
        """What entries and leases call an account: those from when there was one only name none."""
        return (account.key, "") if account is self.default else (account.key,)

    def names(self) -> dict[str, str]:
        """Key to the name as it is configured."""
        return {a.key: a.name for a in self}

    async def open(self, session: GuardedSession) -> Upstream:
        return await self.of(session.account).upstreams.open(session)

    async def end(self, upstream: Upstream) -> None:
        await self.of(upstream[0].account).upstreams.end(upstream)

    async def run(self) -> None:
        """Sweep, end idle users and keep others ready, for ever."""
        await asyncio.gather(*(w.run() for a in self for w in (a.sweeper, a.upstreams)))

    async def close(self) -> None:
        """End what each still has."""
        await asyncio.gather(*(a.upstreams.pool.close() for a in self))
        await asyncio.gather(*(a.keeper.close() for a in self))
        for account in self:
            await account.http.aclose()


@dataclass(frozen=True, slots=True)
class _Catalogs:
    accounts: Accounts

    def of(self, account: str) -> LiveCatalog:
        return self.accounts.of(account).catalog


def _roles(policy: Callable[[], Policy], account: str) -> tuple[RoleBinding, ...]:
    """The roles that callers may become in an account now."""
    return tuple(r.binding for r in policy().for_account(account).roles)


def configured(settings: Settings) -> tuple[AccountSettings, ...]:
    """The accounts of a configuration, the default one first. Raises ConfigError."""
    default = settings.snowflake
    if not default.account:
        raise ConfigError(
            "snowflake.account is not set.",
            "Add it to hoop.toml (docs/configuration.md has an example), and name that file by "
            "--config when it is elsewhere.",
        )
    all_ = (AccountSettings(**default.model_dump()), *settings.accounts)
    if settings.credentials.backend == "vault":
        _check_address(settings.vault.address, "vault.address", settings.vault.unsafe_plain_http)
    seen: set[str] = set()
    for account in all_:
        if account.url:
            _check_address(account.url, "snowflake.url", account.unsafe_plain_http)
        key = account_key(account.account)
        if not key or key in seen:
            raise ConfigError(
                f"The account {account.account!r} is configured twice, or has no name.",
                "Names count without the region, in any case, with `_` and `-` alike.",
            )
        seen.add(key)
    return all_


def _check_address(url: str, what: str, plain: bool) -> None:
    """Raises ConfigError for what is no address, or one by which credentials would travel in clear."""
    check_url(url, what, unsafe_plain_http=True)
    parts = urlsplit(url)
    if parts.scheme == "http" and not plain and not is_loopback(parts.hostname or ""):
        raise ConfigError(
            f"{what} is an http:// address of another host: Hoop's tokens and its users' keys would "
            "travel in clear.",
            f"Use https://, or set {what.partition('.')[0]}.unsafe_plain_http where the network itself "
            "encrypts.",
        )


def minter_for(settings: Settings, account: AccountSettings, installed: str) -> Minter:
    """How the account's users are minted. Raises ConfigError."""
    if settings.credentials.backend == "direct":
        direct = settings.credentials.direct.model_copy(
            update={
                "user": account.direct_user or settings.credentials.direct.user,
                "private_key_file": account.direct_private_key_file
                or settings.credentials.direct.private_key_file,
            }
        )
        return DirectMinter(direct, account, installed)
    vault = settings.vault
    mount = account.database_mount or vault.database_mount
    own = vault.model_copy(update={"database_mount": mount})
    return OnThreads(VaultMinter(own, installed), settings.credentials.concurrency)


def observer_role(settings: Settings, account: AccountSettings) -> RoleBinding:
    return RoleBinding(
        account.observer_role or settings.vault.observer_role,
        account.observer_snowflake_role or settings.vault.observer_snowflake_role,
    )


def build_accounts(
    settings: Settings,
    store: Store,
    log: AuditLog,
    *,
    owner: str,
    alive: Callable[[], Collection[str]] | None = None,
    policy: Callable[[], Policy] | None = None,
) -> Accounts:
    """`policy` gives the policy in force, for users that are minted ahead.

    Raises ConfigError or StoreUnavailable. Nothing is started yet.
    """
    chosen = configured(settings)
    installed = installation(store, log)
    made: list[Account] = []
    for account in chosen:
        key = account_key(account.account)
        http = SnowflakeHttp(account)
        keeper = LeaseKeeper(
            Ledger(store, log, owner=owner, account=key, default=not made),
            minter_for(settings, account, installed),
            http=http,
            settings=account,
            observer_role=observer_role(settings, account),
            limits=settings.credentials,
            alive=alive,
        )
        catalog = LiveCatalog(
            keeper.observer.describe,
            account=key,
            fresh_seconds=settings.catalog.fresh_seconds,
            max_objects=settings.catalog.max_objects,
        )
        roles = partial(_roles, policy, key) if policy else tuple
        upstreams = Upstreams(keeper, http, account, roles)
        made.append(Account(key, account, http, keeper, Sweeper(keeper), catalog, upstreams))
    return Accounts(made)
