"""The account: users, roles, warehouses, grants and ownership, and the questions asked of them.

Source of the rules: Snowflake's "Overview of Access Control" and "Access control privileges".
Names are kept in stored case. All state is guarded by one lock.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from hoop_core.devstack.emulator.errors import bad_value

SYSTEM_ROLES = ("ACCOUNTADMIN", "SECURITYADMIN", "USERADMIN", "SYSADMIN", "PUBLIC")


class Kind(StrEnum):
    """The securable objects that the stand-in knows. Views are tables here."""

    ACCOUNT = "ACCOUNT"
    DATABASE = "DATABASE"
    SCHEMA = "SCHEMA"
    TABLE = "TABLE"
    WAREHOUSE = "WAREHOUSE"
    USER = "USER"
    ROLE = "ROLE"


PRIVILEGES: dict[Kind, frozenset[str]] = {
    Kind.ACCOUNT: frozenset(
        {
            "CREATE DATABASE",
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
        {"CREATE STAGE", "CREATE TABLE", "CREATE VIEW", "MODIFY", "MONITOR", "USAGE"}
    ),
    Kind.TABLE: frozenset({"DELETE", "INSERT", "REFERENCES", "SELECT", "TRUNCATE", "UPDATE"}),
    Kind.WAREHOUSE: frozenset({"MODIFY", "MONITOR", "OPERATE", "USAGE"}),
    Kind.USER: frozenset({"MONITOR"}),
    Kind.ROLE: frozenset(),
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
    """A privilege on every table that will be made in `scope`, a database or a schema."""

    privilege: str
    scope: Securable
    role: str


@dataclass(frozen=True, slots=True)
class Password:
    """PBKDF2-HMAC-SHA256. Few rounds: a stand-in that is started for each test run."""

    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    @classmethod
    def of(cls, clear: str) -> Password:
        salt = secrets.token_bytes(16)
        return cls(salt, cls._derive(clear, salt))

    @staticmethod
    def _derive(clear: str, salt: bytes) -> bytes:
        return hashlib.pbkdf2_hmac("sha256", clear.encode(), salt, 20_000)

    def matches(self, clear: str) -> bool:
        return hmac.compare_digest(self._derive(clear, self.salt), self.digest)


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


def load_public_key(text: str, parameter: str) -> RSAPublicKey:
    """The body of a PEM file without its delimiters, as Snowflake wants it. Raises SqlError."""
    try:
        key = load_der_public_key(base64.b64decode(re.sub(r"\s", "", text), validate=True))
    except (binascii.Error, ValueError, UnsupportedAlgorithm):
        raise bad_value(parameter) from None
    if not isinstance(key, RSAPublicKey) or key.key_size < 2048:
        raise bad_value(parameter)
    return key


def fingerprint(key: RSAPublicKey) -> str:
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode()


class Account:
    """Who there is and who may do what."""

    def __init__(self, name: str) -> None:
        self.name = name.upper()
        self.lock = threading.RLock()
        self.users: dict[str, User] = {}
        self.roles: dict[str, Role] = {}
        self.warehouses: dict[str, Warehouse] = {}
        self.owners: dict[Securable, str] = {}
        self._grants: dict[Securable, dict[tuple[str, str], Grant]] = {}
        self.future: set[FutureGrant] = set()
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
            "ACCOUNTADMIN": ("MONITOR", "MONITOR EXECUTION", "MONITOR USAGE"),
            "SECURITYADMIN": ("MANAGE GRANTS",),
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
            if self.owns(roles, on) or self.holds(roles, ACCOUNT, "MANAGE GRANTS"):
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

    def created(self, on: Securable, owner: str) -> None:
        """Registers a new object: its owner, and what future grants give on it."""
        with self.lock:
            self.forget(on)
            self.owners[on] = owner
            if on.kind is Kind.TABLE:
                scopes = {
                    Securable(Kind.DATABASE, on.name[:1]),
                    Securable(Kind.SCHEMA, on.name[:2]),
                }
                for future in [f for f in self.future if f.scope in scopes]:
                    self.grant(future.privilege, on, future.role, by="")

    def forget(self, on: Securable) -> None:
        """Drops the object, what lies inside it, and every grant on them."""
        with self.lock:
            for known in [*self.owners, *self._grants]:
                inside = on.kind in (Kind.DATABASE, Kind.SCHEMA) and (
                    known.kind in (Kind.SCHEMA, Kind.TABLE)
                    and known.name[: len(on.name)] == on.name
                )
                if known == on or inside:
                    self.owners.pop(known, None)
                    self._grants.pop(known, None)

    def renamed(self, old: Securable, new: Securable) -> None:
        with self.lock:
            self.owners[new] = self.owners.pop(old)
            held = self._grants.pop(old, {})
            for g in held.values():
                self.grant(g.privilege, new, g.role, by=g.granted_by, option=g.grant_option)

    def inside(self, scope: Securable) -> list[Securable]:
        """The tables in a database or a schema."""
        with self.lock:
            return sorted(
                (
                    s
                    for s in self.owners
                    if s.kind is Kind.TABLE and s.name[: len(scope.name)] == scope.name
                ),
                key=lambda s: s.name,
            )

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
