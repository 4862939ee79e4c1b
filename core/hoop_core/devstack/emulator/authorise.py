"""What a data statement needs, and whether the session's roles have it.

Every table in the text that is not a reference to a common table expression counts, wherever it
stands: subqueries, common table expressions, MERGE sources, CREATE TABLE … AS, views' texts.

https://docs.snowflake.com/en/user-guide/security-access-control-privileges
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sqlglot import exp

from hoop_core.devstack.emulator.accounts import Account, Kind, Securable
from hoop_core.devstack.emulator.errors import (
    SqlError,
    already_exists,
    insufficient,
    no_such_object,
    not_modelled,
    syntax,
)
from hoop_core.devstack.emulator.history import DATABASE as HISTORY
from hoop_core.devstack.emulator.history import SCHEMA as HISTORY_SCHEMA

INFORMATION_SCHEMA = "INFORMATION_SCHEMA"
_SHOWN_IN_INFORMATION_SCHEMA = {"COLUMNS", "TABLES", "VIEWS", "SCHEMATA"}
ANY = ""
OWNERSHIP = "OWNERSHIP"
CREATE_TABLE, CREATE_VIEW = "CREATE TABLE", "CREATE VIEW"


@dataclass(frozen=True, slots=True)
class Need:
    """One privilege on one table, or (CREATE …) on the schema of that name."""

    on: tuple[str, str, str]
    privilege: str


@dataclass(slots=True)
class Plan:
    """What there is to know about a data statement before it runs."""

    needs: list[Need] = field(default_factory=list)
    created: tuple[str, str, str] | None = None
    replaces: bool = False
    if_not_exists: bool = False
    dropped: list[tuple[str, str, str]] = field(default_factory=list)
    if_exists: bool = False
    renamed: tuple[tuple[str, str, str], tuple[str, str, str]] | None = None
    warehouse: bool = False
    history: bool = False
    ddl: bool = False
    query: bool = False


def stored(identifier: exp.Expr | str | None) -> str:
    """An identifier in stored case: folded up unless it was quoted."""
    if not isinstance(identifier, exp.Identifier):
        return str(identifier or "").upper()
    return str(identifier.this if identifier.args.get("quoted") else identifier.this.upper())


def full_name(table: exp.Table, database: str | None, schema: str | None) -> tuple[str, str, str]:
    """Raises SqlError for what is no plain name, and where a name needs a current database."""
    parts = table.parts
    if not all(isinstance(p, exp.Identifier) for p in parts):
        raise not_modelled(f"table reference {table.sql('snowflake')[:60]}")
    if not 1 <= len(parts) <= 3:
        raise syntax(".")
    names = [stored(p) for p in parts]
    if len(names) < 3:
        if database is None:
            raise SqlError(
                "090105",
                "22000",
                "Cannot perform operation. This session does not have a current database. "
                "Call 'USE DATABASE', or use a qualified name.",
            )
        if len(names) == 1:
            if schema is None:
                raise SqlError(
                    "090106",
                    "22000",
                    "Cannot perform operation. This session does not have a current schema. "
                    "Call 'USE SCHEMA', or use a qualified name.",
                )
            names = [schema, *names]
        names = [database, *names]
    return names[0], names[1], names[2]


class _Planner:
    def __init__(self, tree: exp.Expr, database: str | None, schema: str | None) -> None:
        self._tree = tree
        self._database, self._schema = database, schema
        self.plan = Plan()

    def _name(self, table: exp.Table) -> tuple[str, str, str]:
        return full_name(table, self._database, self._schema)

    def _need(self, table: exp.Table, *privileges: str) -> None:
        name = self._name(table)
        self.plan.needs += [Need(name, p) for p in privileges]
        if name[0] == HISTORY:
            self.plan.history = True

    def make(self) -> Plan:
        tree, plan = self._tree, self.plan
        if isinstance(tree, exp.DDL | exp.Drop | exp.Alter | exp.Show | exp.Describe):
            _check_quotes(tree)
        targets = list(self._targets())
        for table in tree.find_all(exp.Table):
            if any(table is t for t in targets) or is_cte_reference(table):
                continue
            self._source(table)
        for node in tree.find_all(exp.TableFromRows, exp.Lateral, exp.Unnest):
            _check_table_function(node)
        if isinstance(tree, exp.Query | exp.Insert | exp.Update | exp.Delete | exp.Merge):
            plan.warehouse = any(n.on[1] != INFORMATION_SCHEMA for n in plan.needs)
            plan.query = isinstance(tree, exp.Query)
        if isinstance(tree, exp.Create) and isinstance(tree.expression, exp.Query):
            plan.warehouse = True
        return plan

    def _source(self, table: exp.Table) -> None:
        if table.args.get("when") is not None or table.args.get("version") is not None:
            raise not_modelled("AT | BEFORE")
        self._need(table, "SELECT")

    def _targets(self) -> Iterator[exp.Table]:
        """Yields the tables that are written, described or made, and notes what that needs."""
        tree = self._tree
        if isinstance(tree, exp.Query):
            return
        rules: dict[type[exp.Expr], Callable[[], Iterator[exp.Table]]] = {
            exp.Insert: self._insert,
            exp.Update: lambda: self._written("UPDATE"),
            exp.Delete: lambda: self._written("DELETE"),
            exp.Merge: self._merge,
            exp.TruncateTable: self._truncate,
            exp.Create: self._create,
            exp.Drop: self._drop,
            exp.Alter: self._alter,
            exp.Describe: self._describe,
            exp.Show: lambda: iter(tree.find_all(exp.Table)),
            exp.Transaction: lambda: iter(()),
            exp.Commit: lambda: iter(()),
            exp.Rollback: lambda: iter(()),
            exp.Set: lambda: iter(()),
        }
        rule = rules.get(type(tree))
        if rule is None:
            raise not_modelled(
                tree.key.upper() if not isinstance(tree, exp.Command) else str(tree.this)
            )
        yield from rule()

    def _table(self, node: exp.Expr | None) -> exp.Table:
        found = node.this if isinstance(node, exp.Schema) else node
        if not isinstance(found, exp.Table):
            raise not_modelled(f"{self._tree.key.upper()} of this form")
        return found

    def _written(self, *privileges: str) -> Iterator[exp.Table]:
        table = self._table(self._tree.this)
        self._need(table, *privileges)
        yield table

    def _insert(self) -> Iterator[exp.Table]:
        overwrite = bool(self._tree.args.get("overwrite"))
        return self._written("INSERT", *(["DELETE"] if overwrite else []))

    def _merge(self) -> Iterator[exp.Table]:
        whens = self._tree.args["whens"].find_all(exp.When)
        needed = {"SELECT"}
        for when in whens:
            then = when.args.get("then")
            if isinstance(then, exp.Insert):
                needed.add("INSERT")
            elif isinstance(then, exp.Update):
                needed.add("UPDATE")
            else:
                needed.add("DELETE")
        return self._written(*sorted(needed))

    def _truncate(self) -> Iterator[exp.Table]:
        self.plan.ddl = True
        for node in self._tree.expressions:
            table = self._table(node)
            self._need(table, "TRUNCATE")
            yield table

    def _create(self) -> Iterator[exp.Table]:
        tree, plan = self._tree, self.plan
        kind = str(tree.args.get("kind") or "").upper()
        if kind not in ("TABLE", "VIEW"):
            raise not_modelled(f"CREATE {kind}")
        properties = tree.args.get("properties")
        if properties is not None:
            for p in list(properties.expressions):
                if isinstance(
                    p, exp.TransientProperty | exp.SchemaCommentProperty | exp.LikeProperty
                ) or (kind == "VIEW" and isinstance(p, exp.SecureProperty)):
                    continue
                raise not_modelled(f"CREATE {kind} with {p.sql('snowflake')[:40]}")
        table = self._table(tree.this)
        plan.created = self._name(table)
        if kind == "VIEW":
            # unqualified names in a view mean its own schema, whatever the session's is
            self._database, self._schema = plan.created[0], plan.created[1]
        plan.replaces = bool(tree.args.get("replace"))
        plan.if_not_exists = bool(tree.args.get("exists"))
        plan.ddl = True
        plan.needs.append(Need(plan.created, CREATE_TABLE if kind == "TABLE" else CREATE_VIEW))
        yield table

    def _drop(self) -> Iterator[exp.Table]:
        tree = self._tree
        kind = str(tree.args.get("kind") or "").upper()
        if kind not in ("TABLE", "VIEW"):
            raise not_modelled(f"DROP {kind}")
        tables = [self._table(tree.this)] if tree.this is not None else []
        tables += [self._table(t) for t in tree.args.get("tables") or [] if t is not tree.this]
        if len(tables) != 1:
            raise not_modelled("DROP of several objects")
        self.plan.ddl = True
        self.plan.if_exists = bool(tree.args.get("exists"))
        for table in tables:
            self.plan.dropped.append(self._name(table))
            self._need(table, OWNERSHIP)
            yield table

    def _alter(self) -> Iterator[exp.Table]:
        tree = self._tree
        kind = str(tree.args.get("kind") or "").upper()
        if kind not in ("TABLE", "VIEW"):
            raise not_modelled(f"ALTER {kind}")
        table = self._table(tree.this)
        self._need(table, OWNERSHIP)
        self.plan.ddl = True
        self.plan.if_exists = bool(tree.args.get("exists"))
        yield table
        for action in tree.args.get("actions") or []:
            if isinstance(action, exp.AlterRename):
                new = self._table(action.this)
                old = self._name(table)
                if len(new.parts) > 1 and self._name(new)[:2] != old[:2]:
                    raise not_modelled("ALTER TABLE … RENAME TO another schema")
                for part in ("db", "catalog"):  # the engine renames within a schema only
                    new.set(part, None)
                name = (old[0], old[1], stored(new.this))
                self.plan.renamed = (old, name)
                self.plan.needs.append(Need(name, CREATE_TABLE))
                yield new
            elif not isinstance(
                action, exp.ColumnDef | exp.Drop | exp.RenameColumn | exp.AlterColumn
            ):
                raise not_modelled(f"ALTER TABLE … {action.key}")

    def _describe(self) -> Iterator[exp.Table]:
        tree = self._tree
        if not isinstance(tree.this, exp.Table) or tree.args.get("style"):
            raise not_modelled("DESCRIBE of this form")
        kind = str(tree.args.get("kind") or "TABLE").upper()
        if kind not in ("TABLE", "VIEW"):
            raise not_modelled(f"DESCRIBE {kind}")
        tree.set("kind", kind)
        self._need(tree.this, ANY)
        yield tree.this


def plan(tree: exp.Expr, database: str | None, schema: str | None) -> Plan:
    """Raises SqlError for statements, table sources and forms that are not modelled."""
    return _Planner(tree, database, schema).make()


def _check_quotes(tree: exp.Expr) -> None:
    """fakesnow writes the names of such statements into texts of its own, without escaping."""
    parts = [str(i.this) for i in tree.find_all(exp.Identifier)]
    parts += [str(c.name) for c in tree.find_all(exp.SchemaCommentProperty)]
    parts += [str(n.name) for n in tree.find_all(exp.Literal)] if isinstance(tree, exp.Show) else []
    if any("'" in part for part in parts):
        raise not_modelled("names and comments that hold a quote")


def _check_table_function(node: exp.Expr) -> None:
    inner = node.this
    if isinstance(node, exp.Unnest) or isinstance(inner, exp.Explode | exp.Subquery):
        return
    if isinstance(inner, exp.Anonymous):
        name = str(inner.this).upper()
        raise SqlError(
            "002141", "42601", f"SQL compilation error:\nUnknown user-defined table function {name}"
        )
    raise not_modelled(f"table source {node.sql('snowflake')[:60]}")


def is_cte_reference(table: exp.Table) -> bool:
    """Whether a WITH in scope gives this name; a CTE never hides a qualified name."""
    if len(table.parts) != 1 or not isinstance(table.this, exp.Identifier):
        return False
    name = stored(table.this)
    path: list[exp.Expr] = [table]
    while (node := path[-1].parent) is not None:
        with_ = node if isinstance(node, exp.With) else node.args.get("with_")
        if isinstance(with_, exp.With) and with_ is not path[-1]:
            inside = path[-1] if isinstance(node, exp.With) else None
            for cte in with_.expressions:
                if inside is not None and cte is inside:
                    # What comes later is out of scope; itself only as the recursive term.
                    if _cte_name(cte) == name and _is_recursive_term(with_, inside, path):
                        return True
                    break
                if _cte_name(cte) == name:
                    return True
        path.append(node)
    return False


def _is_recursive_term(with_: exp.With, cte: exp.Expr, path: list[exp.Expr]) -> bool:
    """Whether the path to the reference goes through the right side of the CTE's own UNION."""
    union = cte.this
    return (
        bool(with_.args.get("recursive"))
        and isinstance(union, exp.SetOperation)
        and any(step is union.expression for step in path)
    )


def _cte_name(cte: exp.Expr | None) -> str:
    alias = cte.args.get("alias") if cte is not None else None
    return stored(alias.this) if isinstance(alias, exp.TableAlias) else ""


# -- the decision ---------------------------------------------------------------------------------
def check(plan: Plan, account: Account, roles: frozenset[str]) -> None:
    """Raises SqlError in Snowflake's words when the roles lack something."""
    judge = _Judge(plan, account, roles)
    with account.lock:
        for need in plan.needs:
            judge.check(need)


class _Judge:
    def __init__(self, plan: Plan, account: Account, roles: frozenset[str]) -> None:
        self._plan = plan
        self._account = account
        self._roles = roles

    def check(self, need: Need) -> None:
        account, roles = self._account, self._roles
        database, schema, _ = need.on
        db = Securable(Kind.DATABASE, (database,))
        if not account.exists(db) or not account.holds(roles, db, "USAGE", "IMPORTED PRIVILEGES"):
            raise no_such_object("Database", database)
        if database == HISTORY or schema == INFORMATION_SCHEMA:
            self._check_view(need)
            return
        where = Securable(Kind.SCHEMA, (database, schema))
        if not account.exists(where) or not account.reachable(roles, database, schema):
            raise no_such_object("Schema", f"{database}.{schema}")
        if need.privilege in (CREATE_TABLE, CREATE_VIEW):
            self._check_create(need, where)
        else:
            self._check_table(need)

    def _check_view(self, need: Need) -> None:
        """The service's own views: to be read, nothing else."""
        _, schema, name = need.on
        if schema == INFORMATION_SCHEMA:
            known = name in _SHOWN_IN_INFORMATION_SCHEMA
        else:
            database = Securable(Kind.DATABASE, (HISTORY,))
            granted = self._account.holds(self._roles, database, "IMPORTED PRIVILEGES")
            known = schema == HISTORY_SCHEMA and (
                self._account.exists(_table(need))
                and (granted or self._account.holds(self._roles, _table(need), "SELECT"))
            )
        if not known or need.privilege not in ("SELECT", ANY):
            raise no_such_object("Object", ".".join(need.on))

    def _check_create(self, need: Need, where: Securable) -> None:
        account, roles, table = self._account, self._roles, _table(need)
        if not account.holds(roles, where, need.privilege):
            raise insufficient("schema", where.name[-1])
        if not account.exists(table):
            return
        if self._plan.replaces:
            if not account.owns(roles, table):
                raise insufficient("table", table.name[-1])
        elif not self._plan.if_not_exists:
            raise already_exists(".".join(table.name))

    def _check_table(self, need: Need) -> None:
        account, roles, table = self._account, self._roles, _table(need)
        seen = account.exists(table) and account.holds(roles, table)
        if seen and (need.privilege == ANY or account.owns(roles, table)):
            return
        if seen and need.privilege != OWNERSHIP and account.holds(roles, table, need.privilege):
            return
        # Who may see that the table is there learns what is missing; nobody else does.
        if seen:
            raise insufficient("table", table.name[-1])
        if need.privilege == OWNERSHIP and self._plan.if_exists and not account.exists(table):
            return
        kind = "Table" if need.privilege in (ANY, OWNERSHIP) else "Object"
        raise no_such_object(kind, ".".join(need.on))


def _table(need: Need) -> Securable:
    return Securable(Kind.TABLE, need.on)
