"""From a policy to the Snowflake roles that `hoop snowflake setup-sql` grants: what its rules allow."""

from __future__ import annotations

from collections.abc import Iterable

from hoop_core.model import Kind
from hoop_core.policy.model import Policy, RoleRule, Rule, Then
from hoop_core.snowflake.setup_grants import (
    CREATE_FILE_FORMAT,
    CREATE_STAGE,
    CREATE_TABLE,
    IN_SCHEMAS,
    Place,
    ReaderRole,
    Write,
)
from hoop_core.sql.names import Pattern

_PRIVILEGES: dict[Kind, tuple[str, ...]] = {
    Kind.INSERT: ("INSERT",),
    Kind.INSERT_OVERWRITE: ("INSERT", "DELETE"),
    Kind.UPDATE: ("UPDATE",),
    Kind.DELETE: ("DELETE",),
    Kind.MERGE: ("INSERT", "UPDATE", "DELETE"),
    Kind.TRUNCATE: ("TRUNCATE",),
    # write_pandas makes its temporary stage beside the table; those too need the privilege
    Kind.COPY_INTO_TABLE: ("INSERT", CREATE_STAGE, CREATE_FILE_FORMAT),
    Kind.CREATE_TABLE: (CREATE_TABLE,),
    Kind.CREATE_TABLE_AS: (CREATE_TABLE,),
}
_NEED_OWNERSHIP = (Kind.ALTER_TABLE, Kind.DROP_TABLE)
_ORDER = ("INSERT", "UPDATE", "DELETE", "TRUNCATE", *IN_SCHEMAS)


def reader_roles(policy: Policy) -> tuple[ReaderRole, ...]:
    """One for each distinct Vault role and Snowflake role of the policy, in its order."""
    found: dict[tuple[str, str], ReaderRole] = {}
    for rule in policy.roles:
        reader = _reader(rule, policy)
        key = (reader.vault_role, reader.snowflake_role)
        found[key] = found[key].joined(reader) if key in found else reader
    return tuple(found.values())


def _reader(role: RoleRule, policy: Policy) -> ReaderRole:
    granting = [
        r
        for r in policy.rules
        if r.then is Then.ALLOW and (r.groups is None or not r.groups.isdisjoint(role.groups))
    ]
    return ReaderRole(
        vault_role=role.binding.vault_role,
        snowflake_role=role.binding.snowflake_role,
        warehouse=role.binding.warehouse,
        reads=tuple(dict.fromkeys(_places(p for r in granting for p in r.reads or ()))),
        writes=tuple(dict.fromkeys(w for r in granting for w in _writes(r))),
    )


def _places(patterns: Iterable[Pattern]) -> Iterable[Place]:
    for pattern in patterns:
        database, schema, table = pattern.parts
        yield database, schema, table


def _writes(rule: Rule) -> Iterable[Write]:
    kinds = rule.kinds or frozenset()
    wanted = {p for k in kinds for p in _PRIVILEGES.get(k, ())}
    privileges = tuple(p for p in _ORDER if p in wanted)
    unmet = tuple(k.value for k in _NEED_OWNERSHIP if k in kinds)
    for place in _places(rule.writes or ()):
        if privileges or unmet:
            yield Write(place, privileges, unmet)
