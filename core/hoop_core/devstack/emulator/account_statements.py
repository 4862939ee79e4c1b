"""The account statements as frozen values: what `account_sql` reads and `administer` carries out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hoop_core.devstack.emulator.accounts import Kind

Name = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """A property's value. `form` is string, number, name, boolean, null or list."""

    form: str
    text: str = field(repr=False)


Properties = Mapping[str, Value]


class AccountStatement:
    """Base of the statements."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Create(AccountStatement):
    """USER, ROLE, WAREHOUSE, DATABASE or SCHEMA."""

    kind: Kind
    name: Name
    or_replace: bool
    if_not_exists: bool
    properties: Properties
    managed: bool = False
    """CREATE SCHEMA ... WITH MANAGED ACCESS"""


@dataclass(frozen=True, slots=True)
class Drop(AccountStatement):
    kind: Kind
    name: Name
    if_exists: bool


@dataclass(frozen=True, slots=True)
class Alter(AccountStatement):
    """SET or UNSET of properties; UNSET has empty values."""

    kind: Kind
    name: Name
    if_exists: bool
    unset: bool
    properties: Properties


@dataclass(frozen=True, slots=True)
class AbortQueries(AccountStatement):
    """ALTER USER ... ABORT ALL QUERIES"""

    user: str
    if_exists: bool


@dataclass(frozen=True, slots=True)
class GrantRole(AccountStatement):
    role: str
    to_kind: Kind
    to: str
    revoke: bool


@dataclass(frozen=True, slots=True)
class GrantDatabaseRole(AccountStatement):
    """GRANT DATABASE ROLE SNOWFLAKE.<name> TO ROLE ..."""

    database: str
    role: str
    to: str
    revoke: bool


@dataclass(frozen=True, slots=True)
class Target:
    """What privileges are granted on. `scope` is "", "all" or "future": what is `of` that kind inside
    `name`."""

    kind: Kind
    name: Name
    scope: str = ""
    of: Kind = Kind.TABLE


@dataclass(frozen=True, slots=True)
class GrantPrivileges(AccountStatement):
    """`privileges` is empty for ALL."""

    privileges: tuple[str, ...]
    on: Target
    role: str
    revoke: bool
    grant_option: bool


@dataclass(frozen=True, slots=True)
class GrantOwnership(AccountStatement):
    on: Target
    role: str
    revoke_current: bool
    copy_current: bool


@dataclass(frozen=True, slots=True)
class Use(AccountStatement):
    """ROLE, WAREHOUSE, DATABASE, SCHEMA or SECONDARY ROLES (then `name` is ALL or NONE)."""

    what: str
    name: Name


@dataclass(frozen=True, slots=True)
class Show(AccountStatement):
    """USERS, ROLES, WAREHOUSES or PARAMETERS."""

    what: str
    terse: bool = False
    like: str | None = None
    starts_with: str | None = None
    limit: int | None = None
    after: str | None = None
    scope: str = ""
    scope_name: str = ""


@dataclass(frozen=True, slots=True)
class ShowGrants(AccountStatement):
    """`direction` is to (a role or user), of (a role) or on (an object)."""

    direction: str
    kind: Kind
    name: Name


@dataclass(frozen=True, slots=True)
class DescribeUser(AccountStatement):
    name: str


@dataclass(frozen=True, slots=True)
class AlterSession(AccountStatement):
    unset: bool
    properties: Properties
