"""Carries out the statements about stages, under the session's roles."""

from __future__ import annotations

from sqlglot import exp

from hoop_core.devstack.emulator import authorise, loading
from hoop_core.devstack.emulator import stage_statements as given
from hoop_core.devstack.emulator.accounts import Account, Kind, Securable
from hoop_core.devstack.emulator.engine import Engine
from hoop_core.devstack.emulator.errors import insufficient, no_such_object, not_modelled
from hoop_core.devstack.emulator.results import Table, status_table
from hoop_core.devstack.emulator.sessions import Session
from hoop_core.devstack.emulator.stages import PutAnswer, Stages


class Staging:
    """Uses the account for privileges, the engine for rows, and `stages` for files."""

    def __init__(self, account: Account, engine: Engine, stages: Stages) -> None:
        self._account, self._engine, self.stages = account, engine, stages

    def run(self, s: given.StageStatement, session: Session) -> Table | PutAnswer:
        """Raises SqlError."""
        roles = session.roles(self._account)
        if isinstance(s, given.MakeStage):
            return self._create(s, session, roles)
        if isinstance(s, given.MakeFormat):
            if not s.temporary:
                raise not_modelled("permanent file formats")
            self._schema_of(s.name, roles)
            self.stages.make_format(session, s.name, s.format)
            return status_table(f"File format {s.name[2]} successfully created.")
        if isinstance(s, given.DropStage):
            if not self.stages.drop(session, s.name, roles) and not s.if_exists:
                raise no_such_object("Stage", ".".join(s.name))
            return status_table(f"{s.name[2]} successfully dropped.")
        stage = self.stages.find(session, s.at.name, roles)
        if isinstance(s, given.Put):
            return PutAnswer(stage, f"{s.at.path}/" if s.at.path else "", s.put)
        if isinstance(s, given.Infer):
            format_ = self.stages.format(session, s.format)
            return loading.inferred(stage.below(s.at.path), format_, s.columns)
        self._may_load(s.table, roles)
        duck = session.connection._duck_conn
        target = self._target(session, s.table)
        return loading.copy(duck, s, stage, target, alone=_alone(session))

    def _create(self, s: given.MakeStage, session: Session, roles: frozenset[str]) -> Table:
        self._schema_of(s.name, roles)
        on = Securable(Kind.SCHEMA, s.name[:2])
        if not s.temporary and not self._account.owns(roles, on):
            raise insufficient("schema", s.name[1])
        made = self.stages.create(
            session,
            s.name,
            s.format,
            temporary=s.temporary,
            replace=s.replace,
            if_not_exists=s.if_not_exists,
        )
        if not made:
            return status_table(f"{s.name[2]} already exists, statement succeeded.")
        return status_table(f"Stage area {s.name[2]} successfully created.")

    def _schema_of(self, name: given.Name, roles: frozenset[str]) -> None:
        on = Securable(Kind.SCHEMA, name[:2])
        if not self._account.exists(on) or not self._account.holds(roles, on, "USAGE"):
            raise no_such_object("Schema", ".".join(name[:2]))

    def _may_load(self, table: given.Name, roles: frozenset[str]) -> None:
        plan = authorise.Plan(needs=[authorise.Need(table, "INSERT")])
        authorise.check(plan, self._account, roles)

    def _target(self, session: Session, table: given.Name) -> loading.Target:
        rows = session.connection._duck_conn.execute(
            "SELECT column_name, data_type FROM duckdb_columns() "
            "WHERE database_name = ? AND schema_name = ? AND table_name = ? ORDER BY column_index",
            list(table),
        ).fetchall()
        return loading.Target(table, {str(n): str(t) for n, t in rows})

    def insert(self, session: Session, tree: exp.Insert, bind_stage: str) -> int:
        """INSERT with its values in a stage; the privileges are checked already. Raises SqlError."""
        connection = session.connection
        place = (connection.database, connection.schema)
        at = given.place_of(bind_stage, place)
        stage = self.stages.find(session, at.name, session.roles(self._account))
        target = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
        name = authorise.full_name(target, *place)
        files = stage.below(f"{at.path}/")
        return loading.insert_staged(
            connection._duck_conn,
            tree,
            files,
            stage.format,
            self._target(session, name),
            alone=_alone(session),
        )


def _alone(session: Session) -> bool:
    """Whether the session has no transaction open that a statement would be a part of."""
    connection = session.connection
    return not (connection._in_transaction or not connection._autocommit)
