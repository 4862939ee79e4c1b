"""DuckDB behind fakesnow: one connection per session, Snowflake's texts in, Arrow tables out.

fakesnow translates the dialect. What it does loosely is tightened here: no database is made by
logging in, no file or network can be read, nothing but a statement's own tables is in reach, and
DuckDB's errors become Snowflake's.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from string import Template
from typing import Any

import duckdb
import fakesnow.transforms as fakesnow_transforms
import pyarrow as pa
from fakesnow import macros
from fakesnow.conn import FakeSnowflakeConnection
from fakesnow.instance import FakeSnow
from fakesnow.statement_type import DML_TYPE_IDS, statement_type_id
from fakesnow.transforms import transforms as describing
from fakesnow.transforms.merge import operations as merge_operations
from fakesnow.variables import Variables
from snowflake.connector.errors import Error as ConnectorError
from sqlglot import exp
from sqlglot.dialects.snowflake import Snowflake
from sqlglot.errors import ParseError, TokenError
from sqlglot.tokenizer_core import TokenType

from hoop_core.devstack.emulator.authorise import full_name
from hoop_core.devstack.emulator.errors import (
    SqlError,
    already_exists,
    no_such_object,
    not_modelled,
    syntax,
)
from hoop_core.devstack.emulator.results import Column, Table, column_of, table_of
from hoop_core.sql.dialect import SNOWFLAKE

Bindings = Sequence[Any]

# fakesnow casts the argument of SUM, AVG, … to DOUBLE; Snowflake keeps NUMBER exact.
fakesnow_transforms.numeric_agg_implicit_cast = lambda expression: expression
# fakesnow splits MERGE into statements of their own; DuckDB has an atomic one.
fakesnow_transforms.merge = lambda merge_expr: [merge_expr]
# fakesnow looks for the columns in the current database only, whatever database the name gives.
describing.SQL_DESCRIBE_TABLE = Template(
    describing.SQL_DESCRIBE_TABLE.template.replace(
        "FROM _fs_information_schema.", "FROM _fs_global._fs_information_schema."
    )
)
warnings.filterwarnings("ignore", message="Arrow output on a DB-API result", category=UserWarning)


@dataclass(frozen=True, slots=True)
class Ran:
    """A statement's result; `affected` is the number of changed rows of a DML statement."""

    table: Table
    type_id: int
    affected: int | None = None


class _Variables(Variables):
    """Session variables, replaced token by token: a `$` inside a string is only text."""

    def inline_variables(self, sql: str) -> str:
        if "$" not in sql:
            return sql
        known = {k.upper(): v for k, v in self._variables.items()}
        tokens = list(Snowflake().tokenize(sql))
        out, at = [], 0
        for sign, word in pairwise(tokens):
            adjacent = sign.token_type is TokenType.PARAMETER and word.start == sign.end + 1
            if not adjacent or word.text.isdigit():
                continue
            name = word.text.upper()
            if name not in known:
                text = (
                    f"SQL compilation error: error line 1 at position {sign.start}\n"
                    f"Session variable '${name}' does not exist"
                )
                raise SqlError("002211", "02000", text)
            out += [sql[at : sign.start], str(known[name])]
            at = word.end + 1
        return "".join([*out, sql[at:]])


class Engine:
    """The data. Thread-safe as long as each connection is used by one thread at a time."""

    def __init__(self) -> None:
        self._fake = FakeSnow(create_database_on_connect=False, create_schema_on_connect=False)
        root = self._fake.duck_conn
        # without a current database fakesnow's functions are looked for here
        root.execute(macros.creation_sql("memory"))
        root.execute("SET GLOBAL enable_external_access = false")
        root.execute("SET GLOBAL autoinstall_known_extensions = false")
        root.execute("SET GLOBAL autoload_known_extensions = false")
        root.execute("SET GLOBAL python_enable_replacements = false")

    def connect(self, autocommit: bool = True) -> FakeSnowflakeConnection:
        connection = self._fake.connect(autocommit=autocommit)
        connection.variables = _Variables()
        connection.results_cache = _Forgetful()
        return connection

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A plain DuckDB connection for the stand-in's own tables and for loading data."""
        return self._fake.duck_conn.cursor()

    def create_database(self, name: str) -> None:
        """A database with its PUBLIC schema."""
        connection = self.connect()
        try:
            cursor = connection.cursor()
            cursor.execute(f"CREATE DATABASE {name}")
            cursor.execute(f"CREATE SCHEMA {name}.PUBLIC")
        finally:
            connection.close()

    def create_schema(self, database: str, name: str) -> None:
        with self.cursor() as cursor:
            cursor.execute(f'CREATE SCHEMA "{database}"."{name}"')

    def drop_schema(self, database: str, name: str) -> None:
        with self.cursor() as cursor:
            cursor.execute(f'DROP SCHEMA "{database}"."{name}" CASCADE')

    def drop_database(self, name: str) -> None:
        with self.cursor() as cursor:
            cursor.execute(f'DETACH "{name}"')

    def use(
        self, connection: FakeSnowflakeConnection, database: str | None, schema: str | None
    ) -> None:
        """Sets the current database and schema; they must exist."""
        place = f"{database or 'memory'}.{schema or 'main'}"
        connection._duck_conn.execute(f"SET schema = '{place}'")
        connection.database, connection.database_set = database, database is not None
        connection._schema, connection.schema_set = schema, schema is not None

    @staticmethod
    def commit_open(connection: FakeSnowflakeConnection) -> None:
        """DDL commits the open transaction, as in Snowflake."""
        if connection._in_transaction:
            connection._duck_conn.commit()
            connection._in_transaction = False

    def columns(
        self, connection: FakeSnowflakeConnection, tables: Sequence[tuple[str, str, str]]
    ) -> list[str]:
        """The column names of these tables, in stored case and in order."""
        found: list[str] = []
        for database, schema, name in tables:
            rows = connection._duck_conn.execute(
                "SELECT column_name FROM duckdb_columns() "
                "WHERE database_name = ? AND schema_name = ? AND table_name = ? ORDER BY column_index",
                [database, schema, name],
            ).fetchall()
            found += [row[0] for row in rows]
        return found

    def sizes(self) -> dict[tuple[str, str, str], int]:
        """The number of rows of every table, as far as the engine counts them."""
        with self.cursor() as cursor:
            rows = cursor.execute(
                "SELECT database_name, schema_name, table_name, estimated_size FROM duckdb_tables()"
            ).fetchall()
        return {(str(d), str(s), str(n)): int(size or 0) for d, s, n, size in rows}

    @staticmethod
    def type_id(tree: exp.Expr) -> int:
        return int(statement_type_id(tree))

    @staticmethod
    def result_names(tree: exp.Expr) -> list[str]:
        """The result columns of a DML statement; empty for others."""
        if isinstance(tree, exp.Merge):
            done = merge_operations(tree)
            return [f"number of rows {op}" for op, whens in done.items() if whens]
        names: dict[type[exp.Expr], list[str]] = {
            exp.Insert: ["number of rows inserted"],
            exp.Update: ["number of rows updated", "number of multi-joined rows updated"],
            exp.Delete: ["number of rows deleted"],
        }
        return names.get(type(tree), [])

    @staticmethod
    def numbers_table(names: list[str]) -> Table:
        """An empty result of NUMBER columns."""
        columns = tuple(column_of(n, "BIGINT") for n in names)
        arrays = [pa.array([], pa.int64()) for _ in names]
        return Table(columns, pa.Table.from_arrays(arrays, names=names))

    def describe(self, connection: FakeSnowflakeConnection, tree: exp.Expr) -> list[Column]:
        """The columns of a query, without running it. Placeholders count as NULL."""
        plain = tree.transform(lambda e: exp.Null() if isinstance(e, exp.Placeholder) else e)
        sql = plain.sql(dialect="snowflake")
        try:
            cursor = connection.cursor()
            cursor.execute(f"DESCRIBE {sql}")
            return [column_of(row[0], row[1]) for row in cursor.fetchall()]
        except Exception as e:
            raise _translated(e) from None

    def run(
        self,
        connection: FakeSnowflakeConnection,
        tree: exp.Expr,
        rows: Sequence[Bindings],
        local_time: frozenset[str] = frozenset(),
    ) -> Ran:
        """Runs one statement, once for each row of bindings (once when there are none).

        Raises SqlError, and Interrupted when `interrupt` stopped it.
        """
        type_id = statement_type_id(tree)
        counted = self.result_names(tree) if isinstance(tree, exp.Merge) else []
        overwritten = _overwritten(tree, connection)
        sql = (_atomic_merge(tree) if counted else tree).sql(dialect="snowflake")
        duck = connection._duck_conn
        alone = bool(len(rows) > 1 or overwritten) and not (
            connection._in_transaction or not connection._autocommit
        )
        try:
            if alone:
                duck.begin()
            last = _last_row(duck, overwritten)
            affected = 0
            cursor = connection.cursor()
            for values in rows or ((),):
                # fakesnow knows parameters "from the server" only when there are some.
                given = {"binding_params": list(values)} if values else {}
                cursor.execute(sql, server=True, **given)
                affected += cursor.rowcount or 0
            data = cursor._arrow_table
            described = [(d[0], str(d[1])) for d in duck.description or []]
            if last is not None:
                duck.execute(f"DELETE FROM {overwritten} WHERE rowid <= ?", [last])  # noqa: S608
            if alone:
                duck.commit()
        except BaseException as e:
            if alone:
                _rollback(duck)
            if isinstance(e, Exception):
                raise _translated(e) from None
            raise
        if isinstance(tree, exp.Transaction | exp.Commit | exp.Rollback):
            connection._in_transaction = isinstance(tree, exp.Transaction)
        if type_id in DML_TYPE_IDS and len(rows) > 1:
            return _counted(["number of rows inserted"], [affected], type_id)
        if counted and data is not None:
            return _merged(counted, data.column(0).to_pylist(), type_id)
        if data is None or len(described) != data.num_columns:
            raise SqlError("000603", "XX000", "SQL execution internal error: no description.")
        table = table_of(described, data, local_time)
        return Ran(table, type_id, affected if type_id in DML_TYPE_IDS else None)


def _overwritten(tree: exp.Expr, connection: FakeSnowflakeConnection) -> str:
    """The target of INSERT OVERWRITE as DuckDB writes it; empty for other statements.

    fakesnow empties the table first, so that a statement which reads its own target reads nothing.
    Here the new rows come first, and then the old ones go.
    """
    if not (isinstance(tree, exp.Insert) and tree.args.get("overwrite")):
        return ""
    tree.set("overwrite", None)
    target = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
    name = full_name(target, connection.database, connection.schema)
    return ".".join('"' + part.replace('"', '""') + '"' for part in name)


def _last_row(duck: duckdb.DuckDBPyConnection, table: str) -> int | None:
    if not table:
        return None
    found = duck.execute(f"SELECT max(rowid) FROM {table}").fetchone()  # noqa: S608
    return None if found is None or found[0] is None else int(found[0])


def _atomic_merge(tree: exp.Expr) -> exp.Expr:
    """DuckDB's MERGE, which tells for each row what was done to it."""
    merge = tree.copy()
    for when in merge.args["whens"].find_all(exp.When):
        then = when.args.get("then")
        if isinstance(then, exp.Update):
            for assignment in then.expressions:
                if isinstance(assignment.this, exp.Column):
                    assignment.this.set("table", None)
    merge.set("returning", exp.Returning(expressions=[exp.column("merge_action")]))
    return merge


def _merged(names: list[str], actions: list[str], type_id: int) -> Ran:
    words = {"inserted": "INSERT", "updated": "UPDATE", "deleted": "DELETE"}
    return _counted(names, [actions.count(words[n.rsplit(" ", 1)[1]]) for n in names], type_id)


def _counted(names: list[str], counts: list[int], type_id: int) -> Ran:
    columns = tuple(column_of(n, "BIGINT") for n in names)
    data = pa.Table.from_arrays([pa.array([c], pa.int64()) for c in counts], names=names)
    return Ran(Table(columns, data), type_id, sum(counts))


def inserted(count: int, type_id: int) -> Ran:
    """The result of an INSERT that was not the engine's own."""
    return _counted(["number of rows inserted"], [count], type_id)


class Interrupted(Exception):
    """DuckDB stopped the statement because it was asked to."""


class _Forgetful(dict[str, Any]):
    """fakesnow keeps every result for ever; the stand-in keeps its own, bounded."""

    def __setitem__(self, key: str, value: Any) -> None:
        return None


def _rollback(duck: duckdb.DuckDBPyConnection) -> None:
    try:
        duck.rollback()
    except duckdb.Error:
        return


def parse(sql: str) -> exp.Expr:
    """One data statement. Raises SqlError 001003."""
    try:
        trees = [t for t in SNOWFLAKE.parse(sql) if t is not None]
    except (ParseError, TokenError) as e:
        details = getattr(e, "errors", None) or [{}]
        near = str(details[0].get("highlight") or "")[:40]
        raise syntax(near, int(details[0].get("col") or 0)) from None
    trees = [t for t in trees if not isinstance(t, exp.Semicolon)]
    if len(trees) != 1:
        raise syntax("<EOF>")
    for kind in trees[0].find_all(exp.DataType):
        if kind.is_type("binary", "varbinary"):
            kind.set("expressions", None)  # DuckDB's BLOB has no length
    return trees[0]


# -- errors ---------------------------------------------------------------------------------------
_BY_TEXT: tuple[tuple[str, Callable[[str], SqlError]], ...] = (
    (
        r'(?:Referenced column|does not have a column named) "([^"]*)"(?: (?:was )?not found)?',
        lambda name: _compilation("000904", "42000", f"invalid identifier '{name}'"),
    ),
    (
        r'(?:Table|View) with name "?([^"\s]+)"? does not exist',
        lambda name: no_such_object("Object", name),
    ),
    (
        r'Function with name "?([^"\s]+)"? does not exist',
        lambda name: _compilation("002140", "42601", f"Unknown function {name.upper()}"),
    ),
    (
        r'(?:Table|View) with name "?([^"\s]+)"? already exists',
        already_exists,
    ),
    (
        r"cannot affect the same target row more than once",
        lambda _: SqlError("100090", "42P18", "Duplicate row detected during DML action"),
    ),
)
_BY_KIND: tuple[tuple[type[duckdb.Error], str, str, str], ...] = (
    (duckdb.ConstraintException, "100072", "22000", "DML operation failed"),
    (duckdb.OutOfRangeException, "100038", "22018", "SQL execution error"),
    (duckdb.InvalidInputException, "100038", "22018", "SQL execution error"),
    (duckdb.TransactionException, "000625", "57014", "SQL execution error"),
)


def _translated(error: Exception) -> Exception:
    if isinstance(error, SqlError):
        return error
    cause = error.__cause__ if isinstance(error.__cause__, duckdb.Error) else error
    text = str(getattr(error, "msg", None) or error).split("\n")[0]
    if isinstance(cause, duckdb.InterruptException):
        return Interrupted()
    for pattern, make in _BY_TEXT:
        if m := re.search(pattern, text):
            return make(m[1] if m.groups() else "")
    for kind, code, sqlstate, words in _BY_KIND:
        if isinstance(cause, kind):
            return SqlError(code, sqlstate, f"{words}: {text}")
    if isinstance(error, ConnectorError):
        code = f"{error.errno:06d}" if error.errno and error.errno > 0 else "001003"
        return SqlError(code, str(error.sqlstate or "42000"), f"SQL compilation error:\n{text}")
    if isinstance(error, duckdb.Error):
        return SqlError("100183", "P0000", f"SQL execution error: {text}")
    if isinstance(error, NotImplementedError):
        return not_modelled(text)
    return SqlError("000603", "XX000", f"SQL execution internal error ({type(error).__name__}).")


def _compilation(code: str, sqlstate: str, text: str) -> SqlError:
    return SqlError(code, sqlstate, f"SQL compilation error:\n{text}")
