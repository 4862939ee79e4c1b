"""Temporary tables: each belongs to one session, hides a table of its name, and ends with the session.

The engine holds it under a name of its own, owned by a role that only this session has. SHOW and
INFORMATION_SCHEMA do not list it.
https://docs.snowflake.com/en/user-guide/tables-temp-transient
"""

from __future__ import annotations

import contextlib
import threading

import duckdb
from sqlglot import exp

from hoop_core.devstack.emulator.accounts import Account, Kind, Securable
from hoop_core.devstack.emulator.authorise import full_name, is_cte_reference
from hoop_core.devstack.emulator.engine import Engine
from hoop_core.devstack.emulator.sessions import Session

Name = tuple[str, str, str]


class TemporaryTables:
    def __init__(self, account: Account, engine: Engine) -> None:
        self._account, self._engine = account, engine
        self._lock = threading.Lock()
        self._made: dict[int, set[Name]] = {}

    @staticmethod
    def owner(session: Session) -> str:
        """The role that owns the session's temporary tables; nobody is granted it."""
        return f"temporary {session.id}"

    @staticmethod
    def hidden(name: Name, session: Session) -> Name:
        return name[0], name[1], f"{name[2]}$TEMPORARY${session.id}"

    def resolve(self, tree: exp.Expr, session: Session) -> tuple[exp.Expr, bool]:
        """The statement with temporary tables under the engine's names, and whether it makes one."""
        tree = tree.copy()
        makes = _take_temporary(tree)
        target = tree.this.this if makes and isinstance(tree.this, exp.Schema) else tree.this
        database, schema = session.connection.database, session.connection.schema
        for table in list(tree.find_all(exp.Table)):
            if is_cte_reference(table) or not all(
                isinstance(p, exp.Identifier) for p in table.parts
            ):
                continue
            with contextlib.suppress(Exception):  # what is no name is the planner's to refuse
                inner = self.hidden(full_name(table, database, schema), session)
                made = makes and table is target
                if made or self._account.exists(Securable(Kind.TABLE, inner)):
                    _rename(table, inner)
        return tree, makes

    def made(self, session: Session, name: Name) -> None:
        with self._lock:
            self._made.setdefault(session.id, set()).add(name)

    def session_ended(self, session: Session) -> None:
        with self._lock:
            names = self._made.pop(session.id, set())
        for name in names:
            quoted = ".".join('"' + part.replace('"', '""') + '"' for part in name)
            with contextlib.suppress(duckdb.Error), self._engine.cursor() as cursor:
                cursor.execute(f"DROP TABLE IF EXISTS {quoted}")
            self._account.forget(Securable(Kind.TABLE, name))


def _take_temporary(tree: exp.Expr) -> bool:
    """Takes TEMPORARY off a CREATE TABLE; whether it was there."""
    if not isinstance(tree, exp.Create) or str(tree.args.get("kind") or "").upper() != "TABLE":
        return False
    properties = tree.args.get("properties")
    found = [
        p
        for p in (properties.expressions if properties is not None else ())
        if isinstance(p, exp.TemporaryProperty)
    ]
    for one in found:
        one.pop()
    if found and properties is not None and not properties.expressions:
        tree.set("properties", None)
    return bool(found)


def _rename(table: exp.Table, inner: Name) -> None:
    shown = table.this.copy()
    for part, name in zip(("catalog", "db", "this"), inner, strict=True):
        table.set(part, exp.to_identifier(name, quoted=True))
    named = isinstance(table.parent, exp.From | exp.Join | exp.Merge | exp.Update | exp.Delete)
    if named and table.args.get("alias") is None:
        table.set("alias", exp.TableAlias(this=shown))
