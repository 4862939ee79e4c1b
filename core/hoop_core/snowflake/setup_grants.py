"""What the roles of minted users get in Snowflake: a ceiling that follows from the policy's allow rules.

https://docs.snowflake.com/en/user-guide/security-access-control-privileges
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hoop_core.snowflake.quoting import dotted, identifier, remark

ANY = "*"
CREATE_TABLE, CREATE_STAGE = "CREATE TABLE", "CREATE STAGE"
CREATE_FILE_FORMAT = "CREATE FILE FORMAT"
IN_SCHEMAS = (CREATE_TABLE, CREATE_STAGE, CREATE_FILE_FORMAT)
"""Privileges on a schema; all others are on tables."""
Place = tuple[str, str, str]
"""Database, schema and table in stored case; `*` stands for any."""


@dataclass(frozen=True, slots=True)
class Write:
    """Privileges on the tables of a place; those of IN_SCHEMAS count for its schema. `unmet` are the
    statement kinds that a grant cannot express (they need ownership)."""

    place: Place
    privileges: tuple[str, ...]
    unmet: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReaderRole:
    """A role of the policy: who mints it in Vault, and what its groups may read and write."""

    vault_role: str
    snowflake_role: str
    warehouse: str | None = None
    reads: tuple[Place, ...] = ()
    writes: tuple[Write, ...] = ()

    @property
    def makes_tables(self) -> bool:
        """Whether it comes to own what it makes."""
        return any(CREATE_TABLE in w.privileges for w in self.writes)

    def joined(self, other: ReaderRole) -> ReaderRole:
        """Both together, for the same Snowflake role."""
        return ReaderRole(
            self.vault_role,
            self.snowflake_role,
            self.warehouse or other.warehouse,
            tuple(dict.fromkeys((*self.reads, *other.reads))),
            tuple(dict.fromkeys((*self.writes, *other.writes))),
        )


@dataclass(frozen=True, slots=True)
class Grants:
    """`hints` are lines for people: what the policy allows and no grant here says."""

    statements: tuple[str, ...]
    hints: tuple[str, ...]


def reader_grants(reader: ReaderRole, warehouse: str) -> Grants:
    """Raises ConfigError for names that cannot be used."""
    role = identifier(reader.snowflake_role)
    made = [f"GRANT USAGE ON WAREHOUSE {identifier(reader.warehouse or warehouse)} TO ROLE {role}"]
    hints: list[str] = []
    for place in reader.reads:
        if _grantable(place):
            made += [*_way(place, role), *_on_tables("SELECT", place, role)]
        else:
            hints.append(f"Grant by hand, the pattern is too wide: read {_shown(place)}.")
    for write in reader.writes:
        if not _grantable(write.place):
            hints.append(f"Grant by hand, the pattern is too wide: write {_shown(write.place)}.")
            continue
        made += _way(write.place, role)
        made += _writing(write, role)
        if write.unmet:
            kinds = ", ".join(write.unmet)
            hints.append(f"Needs ownership, grant by hand: {kinds} on {_shown(write.place)}.")
    return Grants(tuple(dict.fromkeys(made)), tuple(dict.fromkeys(hints)))


def observer_grants(observer: str, readers: Iterable[ReaderRole]) -> tuple[str, ...]:
    """Structure, for every database that the policy speaks of. Raises ConfigError."""
    role = identifier(observer)
    places = [p for r in readers for p in (*r.reads, *(w.place for w in r.writes))]
    made: list[str] = []
    for database in sorted({p[0] for p in places if p[0] != ANY}):
        name = identifier(database)
        made.append(f"GRANT USAGE ON DATABASE {name} TO ROLE {role}")
        for scope in ("ALL", "FUTURE"):
            made.append(f"GRANT USAGE ON {scope} SCHEMAS IN DATABASE {name} TO ROLE {role}")
            made += [
                f"GRANT REFERENCES ON {scope} {kind} IN DATABASE {name} TO ROLE {role}"
                for kind in ("TABLES", "VIEWS")
            ]
    return tuple(made)


def _grantable(place: Place) -> bool:
    """A table, all tables of a schema, or all tables of a database."""
    database, schema, table = place
    return database != ANY and (schema != ANY or table == ANY)


def _way(place: Place, role: str) -> list[str]:
    """USAGE on the containers: without it nothing inside can be named."""
    database, schema, _ = place
    made = [f"GRANT USAGE ON DATABASE {identifier(database)} TO ROLE {role}"]
    if schema != ANY:
        return [*made, f"GRANT USAGE ON SCHEMA {dotted(database, schema)} TO ROLE {role}"]
    return made + [
        f"GRANT USAGE ON {scope} SCHEMAS IN DATABASE {identifier(database)} TO ROLE {role}"
        for scope in ("ALL", "FUTURE")
    ]


def _on_tables(privileges: str, place: Place, role: str) -> list[str]:
    database, schema, table = place
    if table != ANY:
        return [f"GRANT {privileges} ON TABLE {dotted(*place)} TO ROLE {role}"]
    inside = (
        f"DATABASE {identifier(database)}"
        if schema == ANY
        else f"SCHEMA {dotted(database, schema)}"
    )
    return [
        f"GRANT {privileges} ON {scope} TABLES IN {inside} TO ROLE {role}"
        for scope in ("ALL", "FUTURE")
    ]


def _writing(write: Write, role: str) -> list[str]:
    on_tables = [p for p in write.privileges if p not in IN_SCHEMAS]
    made = _on_tables(", ".join(on_tables), write.place, role) if on_tables else []
    database, schema, _ = write.place
    for privilege in IN_SCHEMAS:
        if privilege not in write.privileges:
            continue
        if schema != ANY:
            made.append(f"GRANT {privilege} ON SCHEMA {dotted(database, schema)} TO ROLE {role}")
        else:
            made += [
                f"GRANT {privilege} ON {scope} SCHEMAS IN DATABASE {identifier(database)} "
                f"TO ROLE {role}"
                for scope in ("ALL", "FUTURE")
            ]
    return made


def _shown(place: Place) -> str:
    return remark(".".join(part if part == ANY else identifier(part) for part in place))
