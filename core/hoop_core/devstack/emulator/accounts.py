"""The account: users, roles, warehouses, grants and ownership, and the questions asked of them.

Source of the rules: Snowflake's "Overview of Access Control" and "Access control privileges".
Names are kept in stored case. All state is guarded by one lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from hoop_core.devstack.emulator.user_keys import Password

if TYPE_CHECKING:
    from hoop_core.devstack.emulator.functions import Function
    from hoop_core.devstack.emulator.networks import NetworkPolicy, NetworkRule

SYSTEM_ROLES = ("ACCOUNTADMIN", "SECURITYADMIN", "USERADMIN", "SYSADMIN", "PUBLIC")


class Kind(StrEnum):
    """The securable objects that the stand-in knows. A view is a TABLE whose text `Account.views` holds;
    VIEW stands only where a grant is on ALL or FUTURE VIEWS."""

    ACCOUNT = "ACCOUNT"
    DATABASE = "DATABASE"
    SCHEMA = "SCHEMA"
    TABLE = "TABLE"
    VIEW = "VIEW"
    WAREHOUSE = "WAREHOUSE"
    USER = "USER"
    ROLE = "ROLE"
    FUNCTION = "FUNCTION"
    PROCEDURE = "PROCEDURE"
    NETWORK_RULE = "NETWORK RULE"
    NETWORK_POLICY = "NETWORK POLICY"
    AUTHENTICATION_POLICY = "AUTHENTICATION POLICY"


IN_SCHEMAS = (
    Kind.TABLE, Kind.FUNCTION, Kind.PROCEDURE, Kind.NETWORK_RULE, Kind.AUTHENTICATION_POLICY,
)  # fmt: skip


PRIVILEGES: dict[Kind, frozenset[str]] = {
    Kind.ACCOUNT: frozenset(
        {
            "APPLY AUTHENTICATION POLICY",
            "CREATE DATABASE",
            "CREATE NETWORK POLICY",
            "CREATE ROLE",
            "CREATE USER",
            "CREATE WAREHOUSE",
            "MANAGE GRANTS",
            "MONITOR",
            "MONITOR EXECUTION",
            "MONITOR USAGE",
        }
    ),
    Kind.DATABASE: frozenset(
        {"CREATE SCHEMA", "IMPORTED PRIVILEGES", "MODIFY", "MONITOR", "USAGE"}
    ),
    Kind.SCHEMA: frozenset(
        {
            "CREATE AUTHENTICATION POLICY",
            "CREATE FILE FORMAT",
            "CREATE FUNCTION",
            "CREATE NETWORK RULE",
            "CREATE PROCEDURE",
            "CREATE STAGE",
            "CREATE TABLE",
            "CREATE VIEW",
            "MODIFY",
            "MONITOR",
            "USAGE",
        }
    ),
    Kind.TABLE: frozenset({"DELETE", "INSERT", "REFERENCES", "SELECT", "TRUNCATE", "UPDATE"}),
    Kind.VIEW: frozenset({"REFERENCES", "SELECT"}),
    Kind.WAREHOUSE: frozenset({"MODIFY", "MONITOR", "OPERATE", "USAGE"}),
    Kind.USER: frozenset({"MONITOR"}),
    Kind.ROLE: frozenset(),
    Kind.FUNCTION: frozenset({"USAGE"}),
    Kind.PROCEDURE: frozenset({"USAGE"}),
    Kind.NETWORK_RULE: frozenset(),
    Kind.NETWORK_POLICY: frozenset(),
    Kind.AUTHENTICATION_POLICY: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Securable:
    """An object that privileges are granted on; the account has the empty name."""

    kind: Kind
    name: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ".".join(self.name) if self.name else "ACCOUNT"


ACCOUNT = Securable(Kind.ACCOUNT)


@dataclass(frozen=True, slots=True)
class Grant:
    privilege: str
    on: Securable
    role: str
    grant_option: bool
    granted_by: str
    created_on: datetime


@dataclass(frozen=True, slots=True)
class FutureGrant:
    """A privilege on everything `of` a kind that will be made in `scope`, a database or a schema."""

    privilege: str
    scope: Securable
    role: str
    of: Kind = Kind.TABLE


@dataclass(frozen=True, slots=True)
class View:
    """`query` is the text behind AS as it was given, `columns` what the view showed when it was made."""

    query: str
    columns: tuple[str, ...]
    secure: bool
    comment: str
    created_on: datetime


@dataclass(slots=True, eq=False)
class User:
    """Compared by identity: a user that was dropped and made again is another one."""

    name: str
    login_name: str
    owner: str
    created_on: datetime
    type: str | None = None
    properties: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str | int | bool] = field(default_factory=dict)
    password: Password | None = field(default=None, repr=False)
    public_keys: dict[str, RSAPublicKey] = field(default_factory=dict)
    disabled: bool = False
    must_change_password: bool = False
    expires_at: datetime | None = None
    roles: dict[str, str] = field(default_factory=dict)
    secondary_roles: bool = True
    last_success_login: datetime | None = None
    dropped: bool = False
    authentication_policy: tuple[str, ...] | None = None

    def expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now

    def usable(self) -> bool:
        return not (self.dropped or self.disabled or self.expired(datetime.now(UTC)))


@dataclass(slots=True)
class Role:
    name: str
    owner: str
    created_on: datetime
    comment: str = ""
    members: dict[str, str] = field(default_factory=dict)
    """The roles granted to this one, each with who granted it."""


@dataclass(slots=True)
class Warehouse:
    name: str
    size: str
    created_on: datetime
    comment: str = ""


class Account:
    """Who there is and who may do what."""

    def __init__(self, name: str) -> None:
        self.name = name.upper()
        self.lock = threading.RLock()
        self.on_change: Callable[[], None] = lambda: None
        """Called, under the lock, after each account statement."""
        self.users: dict[str, User] = {}
        self.roles: dict[str, Role] = {}
        self.warehouses: dict[str, Warehouse] = {}
        self.owners: dict[Securable, str] = {}
        self.views: dict[tuple[str, ...], View] = {}
        self._grants: dict[Securable, dict[tuple[str, str], Grant]] = {}
        self.future: set[FutureGrant] = set()
        self.managed: set[Securable] = set()
        """The schemas WITH MANAGED ACCESS: only their owners pass privileges on."""
        self.network_rules: dict[tuple[str, ...], NetworkRule] = {}
        self.network_policies: dict[str, NetworkPolicy] = {}
        self.authentication_policies: dict[tuple[str, ...], frozenset[str]] = {}
        self.functions: dict[tuple[str, str, str], Function] = {}
        now = datetime.now(UTC)
        for role in SYSTEM_ROLES:
            self.roles[role] = Role(role, "", now)
        for parent, child in (
            ("ACCOUNTADMIN", "SECURITYADMIN"),
            ("ACCOUNTADMIN", "SYSADMIN"),
            ("SECURITYADMIN", "USERADMIN"),
        ):
            self.roles[parent].members[child] = ""
        for role, privileges in {
            "ACCOUNTADMIN": (
                "APPLY AUTHENTICATION POLICY",
                "MONITOR",
                "MONITOR EXECUTION",
                "MONITOR USAGE",
            ),
            "SECURITYADMIN": ("CREATE NETWORK POLICY", "MANAGE GRANTS"),
            "USERADMIN": ("CREATE USER", "CREATE ROLE"),
            "SYSADMIN": ("CREATE DATABASE", "CREATE WAREHOUSE"),
        }.items():
            for privilege in privileges:
                self.grant(privilege, ACCOUNT, role, by="")

    # -- roles in effect ------------------------------------------------------------------------
    def inherited(self, roles: Iterable[str]) -> frozenset[str]:
        """These roles, PUBLIC, and all that was granted to any of them, transitively."""
        with self.lock:
            found: set[str] = set()
            left = [*roles, "PUBLIC"]
            while left:
                role = left.pop()
                if role in self.roles and role not in found:
                    found.add(role)
                    left.extend(self.roles[role].members)
            return frozenset(found)

    def granted_to(self, user: User) -> frozenset[str]:
        """The roles that may be a user's primary role: granted directly or inherited."""
        with self.lock:
            return self.inherited(r for r in user.roles if r in self.roles)

    # -- grants ---------------------------------------------------------------------------------
    def grant(
        self, privilege: str, on: Securable, role: str, *, by: str, option: bool = False
    ) -> None:
        with self.lock:
            held = self._grants.setdefault(on, {})
            old = held.get((role, privilege))
            option = option or (old is not None and old.grant_option)
            held[role, privilege] = Grant(privilege, on, role, option, by, datetime.now(UTC))

    def revoke(self, privilege: str, on: Securable, role: str) -> None:
        with self.lock:
            self._grants.get(on, {}).pop((role, privilege), None)

    def grants(self) -> Iterator[Grant]:
        with self.lock:
            yield from [g for held in self._grants.values() for g in held.values()]

    def grants_on(self, on: Securable) -> list[Grant]:
        with self.lock:
            return list(self._grants.get(on, {}).values())

    def holds(self, roles: frozenset[str], on: Securable, *privileges: str) -> bool:
        """True when a role holds one of the privileges (any, when none is named) or owns `on`."""
        with self.lock:
            if self.owners.get(on) in roles:
                return True
            return any(
                g.role in roles and (not privileges or g.privilege in privileges)
                for g in self._grants.get(on, {}).values()
            )

    def owns(self, roles: frozenset[str], on: Securable) -> bool:
        with self.lock:
            return self.owners.get(on) in roles

    def may_grant(self, roles: frozenset[str], privilege: str, on: Securable) -> bool:
        with self.lock:
            if self.holds(roles, ACCOUNT, "MANAGE GRANTS"):
                return True
            schema = Securable(Kind.SCHEMA, on.name[:2])
            if on.kind in IN_SCHEMAS and schema in self.managed:
                return self.owns(roles, schema)
            if self.owns(roles, on):
                return True
            return any(
                g.role in roles and g.privilege == privilege and g.grant_option
                for g in self._grants.get(on, {}).values()
            )

    # -- objects --------------------------------------------------------------------------------
    def exists(self, on: Securable) -> bool:
        with self.lock:
            return on in self.owners

    def knows(self, kind: Kind, name: tuple[str, ...]) -> bool:
        """Like `exists`, also for the users and roles that the account began with."""
        if kind is Kind.USER:
            return name[0] in self.users
        if kind is Kind.ROLE:
            return name[0] in self.roles
        return self.exists(Securable(kind, name))

    def created(self, on: Securable, owner: str, view: View | None = None) -> None:
        """Registers a new object: its owner, and what future grants give on it."""
        with self.lock:
            self.forget(on)
            self.owners[on] = owner
            kind = on.kind
            if view is not None:
                self.views[on.name], kind = view, Kind.VIEW
            if on.kind in (Kind.TABLE, Kind.SCHEMA):
                scopes = {
                    Securable(Kind.DATABASE, on.name[:1]),
                    Securable(Kind.SCHEMA, on.name[:2]),
                }
                for future in [f for f in self.future if f.scope in scopes and f.of is kind]:
                    self.grant(future.privilege, on, future.role, by="")

    def forget(self, on: Securable) -> None:
        """Drops the object, what lies inside it, and every grant on them."""
        with self.lock:
            for known in [*self.owners, *self._grants]:
                inside = on.kind in (Kind.DATABASE, Kind.SCHEMA) and (
                    known.kind in (Kind.SCHEMA, *IN_SCHEMAS)
                    and known.name[: len(on.name)] == on.name
                )
                if known == on or inside:
                    self.owners.pop(known, None)
                    self._grants.pop(known, None)
                    self.managed.discard(known)
                    if known.kind is Kind.TABLE:
                        self.views.pop(known.name, None)
                if inside and known.kind is Kind.FUNCTION:
                    self.functions.pop((known.name[0], known.name[1], known.name[2]), None)

    def renamed(self, old: Securable, new: Securable) -> None:
        with self.lock:
            self.owners[new] = self.owners.pop(old)
            if old.name in self.views:
                self.views[new.name] = self.views.pop(old.name)
            held = self._grants.pop(old, {})
            for g in held.values():
                self.grant(g.privilege, new, g.role, by=g.granted_by, option=g.grant_option)

    def inside(self, scope: Securable, kind: Kind | None = None) -> list[Securable]:
        """The tables and views in a database or a schema, or only what is of a kind."""
        with self.lock:
            return sorted(
                (
                    s
                    for s in self.owners
                    if self._is(s, kind) and s.name[: len(scope.name)] == scope.name
                ),
                key=lambda s: s.name,
            )

    def _is(self, on: Securable, kind: Kind | None) -> bool:
        if kind is None:
            return on.kind is Kind.TABLE
        shown = Kind.VIEW if on.kind is Kind.TABLE and on.name in self.views else on.kind
        return shown is kind

    def visible(self, roles: frozenset[str], on: Securable) -> bool:
        """Whether SHOW lists it: some privilege on the object, and the way to it is open."""
        if not self.exists(on) or not self.holds(roles, on):
            return False
        if on.kind is Kind.TABLE:
            return self.reachable(roles, on.name[0], on.name[1])
        return True

    def reachable(self, roles: frozenset[str], database: str, schema: str) -> bool:
        """USAGE on the database and on the schema: without both nothing in it can be named."""
        on = Securable(Kind.DATABASE, (database,))
        return self.holds(roles, on, "USAGE", "IMPORTED PRIVILEGES") and (
            self.holds(roles, on, "IMPORTED PRIVILEGES")
            or self.holds(roles, Securable(Kind.SCHEMA, (database, schema)), "USAGE")
        )
