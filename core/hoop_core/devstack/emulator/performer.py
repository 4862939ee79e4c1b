"""Carries a query out: account statement or data statement, from its text to the encoded result."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sqlglot import exp

from hoop_core.devstack.emulator import (
    account_sql,
    authorise,
    explaining,
    functions,
    governance_sql,
    procedures,
    shows,
    stage_statements,
    statements,
    views,
)
from hoop_core.devstack.emulator import account_statements as given
from hoop_core.devstack.emulator import local_time as zone
from hoop_core.devstack.emulator.accounts import Account, Kind, Securable, User
from hoop_core.devstack.emulator.administer import Administration
from hoop_core.devstack.emulator.bindings import bound_rows, by_position
from hoop_core.devstack.emulator.engine import Engine, Ran, inserted, parse
from hoop_core.devstack.emulator.errors import SqlError, not_modelled
from hoop_core.devstack.emulator.history import History
from hoop_core.devstack.emulator.positions import name_positions
from hoop_core.devstack.emulator.query import Outcome, Query
from hoop_core.devstack.emulator.results import (
    Table,
    encode_arrow,
    encode_json,
    status_table,
    text_table,
)
from hoop_core.devstack.emulator.sessions import Session
from hoop_core.devstack.emulator.stages import PutAnswer
from hoop_core.devstack.emulator.staging import Staging
from hoop_core.devstack.emulator.temporary_tables import TemporaryTables

SELECT, SESSION, USE, SHOW, DESCRIBE, DDL = 0x1000, 0x4100, 0x4300, 0x4400, 0x4500, 0x6000
"""Snowflake's statement type ids, which tell the drivers how to read an answer."""

_SCANNABLE_BYTES = 256 << 20
FindQuery = Callable[[str, User], Query]
_STAGE_KINDS: dict[type, str] = {
    stage_statements.MakeStage: "CREATE",
    stage_statements.MakeFormat: "CREATE",
    stage_statements.DropStage: "DROP",
    stage_statements.Put: "PUT_FILES",
    stage_statements.Copy: "COPY",
    stage_statements.Infer: "SELECT",
}
"""As QUERY_HISTORY calls them."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    tree: exp.Expr
    wait: float = 0.0
    plain: bool = False


class Performer:
    """One statement at a time for each session. `find` looks up an earlier query of a user."""

    def __init__(
        self,
        account: Account,
        engine: Engine,
        history: History,
        administration: Administration,
        *,
        find: FindQuery,
        staging: Staging,
    ) -> None:
        self._account = account
        self._engine = engine
        self._history = history
        self._administration = administration
        self._find = find
        self.temporary = TemporaryTables(account, engine)
        self._staging = staging
        self._local_time: dict[tuple[str, str, str], set[str]] = {}

    def perform(self, query: Query) -> Outcome:
        session = query.session
        tokens = account_sql.tokens_of(query.sql)
        query.shown = statements.redacted(query.sql, tokens)
        self._one_statement(query, statements.count(tokens))
        statement = (
            procedures.parse(tokens) or governance_sql.parse(tokens) or account_sql.parse(tokens)
        )
        connection = session.connection
        staged = stage_statements.read(query.sql, connection.database, connection.schema)
        if staged is not None:
            perform = partial(self._stage_statement, query, staged)
        elif (inner := explaining.explained(query.sql)) is not None:
            perform = partial(self._explain, query, inner)
        elif statement is None:
            prepared = self._prepare(query, tokens)
            if prepared.wait and not query.body.get("describeOnly"):
                query.cancelled.wait(prepared.wait)
            perform = partial(self._data_statement, query, prepared)
        else:
            perform = partial(self._account_statement, query, statement)
        while not session.turn.acquire(timeout=0.05):
            query.check()
        try:
            query.check()
            with session.guard:
                session.current = query
            if not query.body.get("describeOnly"):
                self._history.began(query.event | {"QUERY_TEXT": query.shown})
            try:
                return perform()
            finally:
                with session.guard:
                    session.current = None
        finally:
            session.turn.release()

    def _one_statement(self, query: Query, found: int) -> None:
        wanted = int(query.session.parameter("MULTI_STATEMENT_COUNT", query.parameters))
        if found == 0:
            raise SqlError("000900", "42601", "SQL compilation error:\nEmpty SQL statement.")
        if found > 1 and wanted in {0, found}:
            raise not_modelled("multiple statements in one request")
        if wanted not in {0, found}:
            text = f"Actual statement count {found} did not match the desired statement count {wanted}."
            raise SqlError("000008", "0A000", text)

    def _account_statement(self, query: Query, statement: given.AccountStatement) -> Outcome:
        query.kind = type(statement).__name__.upper()
        describing = bool(query.body.get("describeOnly"))
        type_id = {
            given.Show: SHOW,
            given.ShowGrants: SHOW,
            given.DescribeUser: DESCRIBE,
            given.Use: USE,
            given.AlterSession: SESSION,
        }.get(type(statement), DDL)
        if describing and type_id not in (SHOW, DESCRIBE):
            table = text_table(["status"], [])
        else:
            table = self._administration.run(statement, query.session)
        return self._outcome(query, Ran(table, type_id), rows_as="JSON")

    def _stage_statement(self, query: Query, statement: stage_statements.StageStatement) -> Outcome:
        session = query.session
        query.kind = _STAGE_KINDS[type(statement)]
        if query.body.get("describeOnly"):
            return self._outcome(query, Ran(text_table(["status"], []), DDL), "JSON")
        if isinstance(statement, stage_statements.Copy):
            self._need_warehouse(session, session.roles(self._account))
        done = self._staging.run(statement, session)
        if isinstance(done, PutAnswer):
            outcome = self._outcome(query, Ran(text_table(["status"], []), DDL), "JSON")
            return replace(outcome, put=done)
        infers = isinstance(statement, stage_statements.Infer)
        rows_as = session.result_format(query.parameters) if infers else "JSON"
        return self._outcome(query, Ran(done, SELECT if infers else DDL), rows_as, infers)

    def _explain(self, query: Query, sql: str) -> Outcome:
        session = query.session
        query.kind = "EXPLAIN"
        tree, _ = self.temporary.resolve(parse(sql), session)
        explaining.check(tree)
        plan = authorise.plan(tree, session.connection.database, session.connection.schema)
        roles = session.roles(self._account) | {self.temporary.owner(session)}
        authorise.check(plan, self._account, roles)
        table = explaining.plan_of([n.on for n in plan.needs], self._engine.sizes())
        return self._outcome(query, Ran(table, SHOW), rows_as="JSON")

    # -- data statements ------------------------------------------------------------------------
    def _prepare(self, query: Query, tokens: list[Any]) -> _Prepared:
        words = [t.text.upper() for t in tokens[:2]]
        if words == ["START", "TRANSACTION"]:
            return _Prepared(exp.Transaction())
        if (keys := shows.exported(query.sql, tokens)) is not None:
            return _Prepared(keys)
        sql = query.session.connection.variables.inline_variables(query.sql)
        tree = parse(sql)
        if words[:1] == ["UNSET"]:
            return _Prepared(tree, plain=True)
        call = statements.called(tree)
        if call is not None:
            sql = f"SELECT {call}"
            tree = parse(sql)
            if not (
                isinstance(tree, exp.Select)
                and len(tree.expressions) == 1
                and isinstance(tree.expressions[0], exp.Anonymous)
                and str(tree.expressions[0].this).upper() == "SYSTEM$WAIT"
                and len([v for v in tree.args.values() if v]) == 1
            ):
                raise not_modelled("CALL")
        statements.name_columns(tree, sql)
        tree = name_positions(tree)
        tree, wait = statements.take_waits(tree)
        return _Prepared(tree, wait)

    def _data_statement(self, query: Query, prepared: _Prepared) -> Outcome:
        session = query.session
        tree, makes_temporary = self.temporary.resolve(prepared.tree, session)
        connection = session.connection
        roles = session.roles(self._account)
        context = statements.Context(self._account, session, roles, query.sql)
        query.kind = _kind(tree)
        if (argument := statements.result_scan(tree)) is not None:
            return self._scan_result(query, argument, context)
        if (asked := views.asked_ddl(tree)) is not None:
            name, arguments = asked
            ddl = views.get_ddl(arguments, self._account, connection, roles)
            shown_as = session.result_format(query.parameters)
            table = text_table([name], [[ddl]])
            return self._outcome(query, Ran(table, SELECT), shown_as, True)
        if prepared.plain:
            return self._outcome(query, self._engine.run(connection, tree, []), rows_as="JSON")
        plan = authorise.plan(tree, connection.database, connection.schema)
        authorise.check(plan, self._account, roles | {self.temporary.owner(session)})
        self._check_warehouse(plan, session, roles)
        if plan.history:
            self._history.flush()
        if statements.quotes_lower_case(tree):
            columns = self._engine.columns(connection, [n.on for n in plan.needs])
            statements.check_case(tree, set(columns))
        place = (connection.database, connection.schema)
        tree = functions.written_in(tree, self._account, roles, place)
        tree = statements.fill_context(statements.like_as_select(tree), context)
        tree = statements.narrow_information_schema(tree, context)
        local_time = frozenset(statements.local_time_columns(tree)).union(
            *(self._local_time.get(n.on, ()) for n in plan.needs)
        )
        if query.body.get("describeOnly"):
            return self._describe(query, tree, plan)
        if plan.ddl:
            self._engine.commit_open(connection)
        if absent := self._absent(plan):
            return self._outcome(query, Ran(status_table(absent), DDL), rows_as="JSON")
        if (listed := shows.shown(tree, context, self._engine.cursor)) is not None:
            return self._outcome(query, Ran(listed, SHOW), rows_as="JSON")
        shown = statements.shown_kind(tree) if isinstance(tree, exp.Show) else None
        staged = str(query.body.get("bindStage") or "")
        if staged:
            if not isinstance(tree, exp.Insert):
                raise not_modelled("staged values of anything but INSERT")
            count = self._staging.insert(session, tree, staged)
            ran = inserted(count, self._engine.type_id(tree))
            return self._outcome(query, ran, rows_as="JSON", binds=_binds(tree))
        tree, given = by_position(tree, query.body.get("bindings"))
        bound = bound_rows(given)
        ran = self._engine.run(connection, views.for_engine(tree, place), bound, local_time)
        told = zone.told(ran.table, tree, [n.on for n in plan.needs], self._local_time)
        ran = replace(ran, table=told)
        if shown:
            seen = statements.narrow_show(ran.table, shown, context)
            ran = Ran(shows.in_order(self._completed(seen, shown, roles), tree), SHOW)
        self._settle(plan, tree, query, self.temporary.owner(session) if makes_temporary else None)
        rows_as = session.result_format(query.parameters) if plan.query else "JSON"
        return self._outcome(query, ran, rows_as, plan.query, _binds(tree))

    def _check_warehouse(
        self, plan: authorise.Plan, session: Session, roles: frozenset[str]
    ) -> None:
        if plan.warehouse:
            self._need_warehouse(session, roles)

    def _need_warehouse(self, session: Session, roles: frozenset[str]) -> None:
        on = Securable(Kind.WAREHOUSE, (session.warehouse or "",))
        if session.warehouse is None or not self._account.holds(roles, on, "USAGE"):
            text = (
                "No active warehouse selected in the current session.  "
                "Select an active warehouse with the 'use warehouse' command."
            )
            raise SqlError("000606", "57P03", text)

    def _absent(self, plan: authorise.Plan) -> str:
        """What DROP … IF EXISTS and CREATE … IF NOT EXISTS say when there is nothing to do."""
        for name in plan.dropped:
            if not self._account.exists(Securable(Kind.TABLE, name)):
                return f"Drop statement executed successfully ({name[2]} already dropped)."
        made = plan.created if plan.if_not_exists else None
        if made is not None and self._account.exists(Securable(Kind.TABLE, made)):
            return f"{made[2]} already exists, statement succeeded."
        return ""

    def _completed(self, table: Table, shown: str, roles: frozenset[str]) -> Table:
        """With what the engine does not tell of tables and views."""
        if shown == "VIEWS":
            return views.fill_views(table, self._account, roles)
        return views.fill_sizes(table, self._engine.sizes()) if shown == "TABLES" else table

    def _settle(
        self, plan: authorise.Plan, tree: exp.Expr, query: Query, owner: str | None = None
    ) -> None:
        """What a successful DDL statement changes in the account."""
        account, session = self._account, query.session
        if plan.created is not None:
            on = Securable(Kind.TABLE, plan.created)
            if not account.exists(on) or plan.replaces:
                view = None
                if views.is_view(tree):
                    columns = self._engine.columns(session.connection, [plan.created])
                    view = views.made(tree, query.sql, columns)
                account.created(on, owner or session.role, view)
                if owner:
                    self.temporary.made(session, plan.created)
                self._local_time[plan.created] = statements.declared_local_time(tree)
        for name in plan.dropped:
            account.forget(Securable(Kind.TABLE, name))
            self._local_time.pop(name, None)
        if plan.renamed is not None:
            old, new = plan.renamed
            account.renamed(Securable(Kind.TABLE, old), Securable(Kind.TABLE, new))
            self._local_time[new] = self._local_time.pop(old, set())

    def declare_local_time(self, table: tuple[str, str, str], columns: set[str]) -> None:
        self._local_time[table] = columns

    def _describe(self, query: Query, tree: exp.Expr, plan: authorise.Plan) -> Outcome:
        """describeOnly: columns without running; a SHOW or DESCRIBE changes nothing and is run."""
        binds = _binds(tree)
        if plan.query:
            columns = tuple(self._engine.describe(query.session.connection, tree))
            table = Table(columns, text_table([c.name for c in columns], []).data)
            return self._outcome(query, Ran(table, SELECT), "JSON", True, binds)
        if isinstance(tree, exp.Show | exp.Describe):
            if isinstance(tree, exp.Show):
                statements.shown_kind(tree)
            ran = self._engine.run(query.session.connection, tree, [])
            return self._outcome(query, ran, "JSON", False, binds)
        names = self._engine.result_names(tree)
        table = self._engine.numbers_table(names) if names else text_table(["status"], [])
        return self._outcome(query, Ran(table, self._engine.type_id(tree)), "JSON", False, binds)

    def _scan_result(
        self, query: Query, argument: exp.Expr, context: statements.Context
    ) -> Outcome:
        filled = statements.fill_context(argument.copy(), context)
        if not isinstance(filled, exp.Literal):
            raise not_modelled("RESULT_SCAN of a computed query id")
        found = self._find(filled.name, query.session.user)
        if found.outcome is None:
            raise SqlError("000709", "02000", f"Statement {filled.name} not found")
        if not found.outcome.scannable:
            raise not_modelled(f"RESULT_SCAN of more than {_SCANNABLE_BYTES >> 20} MB")
        rows_as = query.session.result_format(query.parameters)
        return self._outcome(query, Ran(found.outcome.table, SELECT), rows_as, True)

    def _outcome(
        self, query: Query, ran: Ran, rows_as: str, rows: bool = False, binds: int = 0
    ) -> Outcome:
        session = query.session
        describing = bool(query.body.get("describeOnly"))
        table = Table(ran.table.columns, ran.table.data.slice(0, 0)) if describing else ran.table
        arrow = rows and rows_as == "ARROW"
        encoded = encode_arrow(table) if arrow else encode_json(table)
        final = {
            "finalDatabaseName": session.connection.database,
            "finalSchemaName": session.connection.schema,
            "finalWarehouseName": session.warehouse,
            "finalRoleName": session.role,
        }
        type_id = ran.type_id or (SELECT if rows else 0)
        key = secrets.token_urlsafe(32) if encoded.chunks else ""
        scannable = table.data.nbytes <= _SCANNABLE_BYTES
        if not scannable:  # its chunks are on disk, and memory is for others
            table = Table(table.columns, table.data.schema.empty_table())
        return Outcome(
            table, encoded, type_id, ran.affected, binds, final, key, scannable=scannable
        )


def _binds(tree: exp.Expr) -> int:
    return len(list(tree.find_all(exp.Placeholder)))


def _kind(tree: exp.Expr) -> str:
    if isinstance(tree, exp.Query):
        return "SELECT"
    if isinstance(tree, exp.Create):
        made = str(tree.args.get("kind") or "").upper()
        as_select = made == "TABLE" and isinstance(tree.expression, exp.Query)
        return "CREATE_TABLE_AS_SELECT" if as_select else f"CREATE_{made}"
    if isinstance(tree, exp.Drop | exp.Alter):
        return f"{tree.key.upper()}_{str(tree.args.get('kind') or '').upper()}"
    return {"truncatetable": "TRUNCATE_TABLE"}.get(tree.key, tree.key.upper())
