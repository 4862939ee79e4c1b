"""Carries out account statements, with the privileges that each of them needs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from hoop_core.devstack.emulator import listing
from hoop_core.devstack.emulator.account_statements import (
    AbortQueries,
    AccountStatement,
    Alter,
    AlterSession,
    Create,
    DescribeUser,
    Drop,
    GrantDatabaseRole,
    GrantOwnership,
    GrantPrivileges,
    GrantRole,
    Properties,
    Show,
    ShowGrants,
    Use,
    Value,
)
from hoop_core.devstack.emulator.accounts import (
    ACCOUNT,
    SYSTEM_ROLES,
    Account,
    Kind,
    Role,
    Securable,
    User,
    Warehouse,
)
from hoop_core.devstack.emulator.engine import Engine
from hoop_core.devstack.emulator.errors import (
    SqlError,
    already_exists,
    bad_parameter,
    insufficient,
    no_such_object,
    not_modelled,
    not_usable,
)
from hoop_core.devstack.emulator.governance_sql import (
    AlterGoverned,
    CreateFunction,
    CreateGoverned,
    DropFunction,
    SetAuthenticationPolicy,
)
from hoop_core.devstack.emulator.governing import Governing
from hoop_core.devstack.emulator.granting import DONE, Granting
from hoop_core.devstack.emulator.procedures import Call, CreateProcedure, Procedures
from hoop_core.devstack.emulator.results import Table, status_table
from hoop_core.devstack.emulator.sessions import (
    DEFAULTS,
    ParameterValue,
    Session,
    Sessions,
    check_role,
    parameter_value,
)
from hoop_core.devstack.emulator.user_properties import set_properties

_WAREHOUSE_PROPERTIES = {
    "WAREHOUSE_SIZE",
    "WAREHOUSE_TYPE",
    "AUTO_SUSPEND",
    "AUTO_RESUME",
    "INITIALLY_SUSPENDED",
    "COMMENT",
    "MIN_CLUSTER_COUNT",
    "MAX_CLUSTER_COUNT",
    "STATEMENT_TIMEOUT_IN_SECONDS",
}


class Administration:
    """`abort_queries` stops what a user runs; ending sessions stops them too."""

    def __init__(
        self,
        account: Account,
        sessions: Sessions,
        engine: Engine,
        abort_queries: Callable[[User], int],
    ) -> None:
        self._account = account
        self._sessions = sessions
        self._engine = engine
        self._abort_queries = abort_queries
        self._granting = Granting(account)
        self._governing = Governing(account)
        self._procedures = Procedures(account, self._as_owner)

    def run(self, statement: AccountStatement, session: Session) -> Table:
        """Raises SqlError."""
        rules: dict[type[AccountStatement], Callable[[Any, Session, frozenset[str]], Table]] = {
            Create: self._create,
            Drop: self._drop,
            Alter: self._alter,
            AbortQueries: self._abort,
            GrantRole: self._granting.role,
            GrantDatabaseRole: self._granting.database_role,
            GrantPrivileges: self._granting.privileges,
            GrantOwnership: self._granting.ownership,
            Use: self._use,
            AlterSession: self._alter_session,
            Show: self._show,
            ShowGrants: self._show_grants,
            DescribeUser: self._describe_user,
            CreateGoverned: self._governing.create,
            AlterGoverned: self._governing.alter,
            SetAuthenticationPolicy: self._governing.set_authentication,
            CreateFunction: self._governing.create_function,
            DropFunction: self._governing.drop_function,
            CreateProcedure: self._procedures.create,
            Call: self._procedures.call,
        }
        with self._account.lock:
            roles = session.roles(self._account)
            try:
                return rules[type(statement)](statement, session, roles)
            finally:
                self._account.on_change()

    def _as_owner(
        self, statement: AccountStatement, session: Session, roles: frozenset[str]
    ) -> Table:
        """What a procedure does with its owner's rights."""
        if isinstance(statement, Drop):
            return self._drop(statement, session, roles)
        if isinstance(statement, Alter):
            return self._alter(statement, session, roles)
        raise not_modelled("this statement in a procedure")

    def _need_account(self, roles: frozenset[str], privilege: str) -> None:
        if not self._account.holds(roles, ACCOUNT, privilege):
            raise insufficient("account", self._account.name)

    # -- CREATE ---------------------------------------------------------------------------------
    def _create(self, s: Create, session: Session, roles: frozenset[str]) -> Table:
        name = s.name
        if s.kind is Kind.SCHEMA and len(name) == 1:
            if session.connection.database is None:
                raise not_usable()
            name = (session.connection.database, name[0])
        on = Securable(s.kind, name)
        # What a role creates belongs to the primary role; only its privileges count.
        primary = self._account.inherited([session.role])
        if s.kind is Kind.SCHEMA:
            database = Securable(Kind.DATABASE, name[:1])
            if not self._account.exists(database) or not self._account.holds(roles, database):
                raise no_such_object("Database", name[0])
            if not self._account.holds(primary, database, "CREATE SCHEMA"):
                raise insufficient("database", name[0])
        else:
            self._need_account(primary, f"CREATE {s.kind.value}")
        exists = self._account.knows(s.kind, name)
        shown = name[-1]
        if exists and s.if_not_exists:
            return status_table(f"{shown} already exists, statement succeeded.")
        if exists and not s.or_replace:
            raise already_exists(shown)
        if exists:
            if s.kind in (Kind.DATABASE, Kind.SCHEMA):
                raise not_modelled(f"CREATE OR REPLACE {s.kind.value}")
            self._drop(Drop(s.kind, name, False), session, roles)
        {
            Kind.USER: self._create_user,
            Kind.ROLE: self._create_role,
            Kind.WAREHOUSE: self._create_warehouse,
            Kind.DATABASE: self._create_database,
            Kind.SCHEMA: self._create_schema,
        }[s.kind](name, s.properties, session)
        self._account.created(on, session.role)
        if s.managed:
            self._account.managed.add(on)
        if s.kind is Kind.DATABASE:
            self._account.created(Securable(Kind.SCHEMA, (name[0], "PUBLIC")), session.role)
        kind = s.kind.value.title()
        return status_table(f"{kind} {shown} successfully created.")

    def _create_user(self, name: tuple[str, ...], p: Properties, session: Session) -> None:
        user = User(name[0], name[0].upper(), session.role, datetime.now(UTC))
        set_properties(user, p, self._logins())
        self._check_network_policy(user, p, self._account.inherited([session.role]))
        if user.login_name in self._logins():
            raise already_exists(user.login_name)
        self._account.users[user.name] = user

    def _create_role(self, name: tuple[str, ...], p: Properties, session: Session) -> None:
        _only(p, {"COMMENT"})
        comment = p["COMMENT"].text if "COMMENT" in p else ""
        self._account.roles[name[0]] = Role(name[0], session.role, datetime.now(UTC), comment)

    def _create_warehouse(self, name: tuple[str, ...], p: Properties, session: Session) -> None:
        _only(p, _WAREHOUSE_PROPERTIES)
        size = p["WAREHOUSE_SIZE"].text if "WAREHOUSE_SIZE" in p else "X-Small"
        comment = p["COMMENT"].text if "COMMENT" in p else ""
        made = Warehouse(name[0], size, datetime.now(UTC), comment)
        self._account.warehouses[name[0]] = made
        session.warehouse = name[0]

    def _create_database(self, name: tuple[str, ...], p: Properties, session: Session) -> None:
        _only(p, {"COMMENT", "DATA_RETENTION_TIME_IN_DAYS"})
        _plain_only(name[0])
        self._engine.create_database(name[0])
        self._engine.use(session.connection, name[0], "PUBLIC")

    def _create_schema(self, name: tuple[str, ...], p: Properties, session: Session) -> None:
        _only(p, {"COMMENT", "DATA_RETENTION_TIME_IN_DAYS"})
        _plain_only(name[1])
        self._engine.create_schema(name[0], name[1])
        self._engine.use(session.connection, name[0], name[1])

    def _check_network_policy(self, user: User, p: Properties, roles: frozenset[str]) -> None:
        policy = user.properties.get("NETWORK_POLICY") if "NETWORK_POLICY" in p else None
        if policy is not None:
            self._governing.may_activate(policy, roles)

    # -- ALTER, DROP ----------------------------------------------------------------------------
    def _owned_user(self, name: str, roles: frozenset[str]) -> User:
        user = self._account.users.get(name)
        if user is None:
            raise no_such_object("User", name)
        if user.owner not in roles:
            raise insufficient("user", name)
        return user

    def _logins(self, but: User | None = None) -> set[str]:
        return {u.login_name for u in self._account.users.values() if u is not but}

    def _alter(self, s: Alter, session: Session, roles: frozenset[str]) -> Table:
        name = s.name[0]
        if s.if_exists and not self._account.knows(s.kind, s.name):
            return status_table(DONE)
        if s.kind is Kind.USER:
            user = self._owned_user(name, roles)
            changes = {k: Value("null", "") for k in s.properties} if s.unset else s.properties
            before = user.properties.get("NETWORK_POLICY")
            set_properties(user, changes, self._logins(user))
            try:
                self._check_network_policy(user, changes, roles)
            except SqlError:
                user.properties.pop("NETWORK_POLICY", None)
                if before is not None:
                    user.properties["NETWORK_POLICY"] = before
                raise
            if not user.usable():
                self._sessions.end_of_user(user)
        elif s.kind is Kind.ROLE:
            _only(s.properties, {"COMMENT"})
            if not self._account.owns(roles, Securable(Kind.ROLE, s.name)):
                raise no_such_object("Role", name)
            self._account.roles[name].comment = "" if s.unset else s.properties["COMMENT"].text
        else:
            on = Securable(Kind.WAREHOUSE, s.name)
            _only(s.properties, _WAREHOUSE_PROPERTIES)
            if not self._account.exists(on) or not self._account.holds(roles, on):
                raise no_such_object("Warehouse", name)
            if not self._account.holds(roles, on, "MODIFY"):
                raise insufficient("warehouse", name)
        return status_table(DONE)

    def _abort(self, s: AbortQueries, session: Session, roles: frozenset[str]) -> Table:
        if s.if_exists and s.user not in self._account.users:
            return status_table(DONE)
        self._abort_queries(self._owned_user(s.user, roles))
        return status_table(DONE)

    def _drop(self, s: Drop, session: Session, roles: frozenset[str]) -> Table:
        if s.kind in (Kind.NETWORK_RULE, Kind.NETWORK_POLICY, Kind.AUTHENTICATION_POLICY):
            return self._governing.drop(s, session, roles)
        name = s.name
        if s.kind is Kind.SCHEMA and len(name) == 1:
            name = (session.connection.database or "", name[0])
        shown = name[-1]
        if not self._account.knows(s.kind, name):
            if s.if_exists:
                text = f"Drop statement executed successfully ({shown} already dropped)."
                return status_table(text)
            raise no_such_object(s.kind.value.title(), shown)
        if s.kind is Kind.USER:
            self._drop_user(self._owned_user(shown, roles), session)
        else:
            self._drop_object(Securable(s.kind, name), session, roles)
        self._account.forget(Securable(s.kind, name))
        return status_table(f"{shown} successfully dropped.")

    def _drop_user(self, user: User, session: Session) -> None:
        if user is session.user:
            raise SqlError("003527", "0A000", "SQL execution error: Cannot drop the current user.")
        user.dropped = True
        del self._account.users[user.name]
        self._sessions.end_of_user(user)

    def _drop_object(self, on: Securable, session: Session, roles: frozenset[str]) -> None:
        name = on.name[-1]
        if on.kind is Kind.ROLE and name in SYSTEM_ROLES:
            raise insufficient("role", name)
        if not self._account.owns(roles, on):
            raise insufficient(on.kind.value, name)
        if on.kind is Kind.ROLE:
            self._drop_role(name, session.role)
        elif on.kind is Kind.WAREHOUSE:
            del self._account.warehouses[name]
        else:
            # A database or schema that a session stands in cannot be taken away from under it.
            for other in self._sessions.live():
                c = other.connection
                place = (c.database, c.schema)
                if place[: len(on.name)] == on.name:
                    self._engine.use(c, c.database if on.kind is Kind.SCHEMA else None, None)
            if on.kind is Kind.SCHEMA:
                self._engine.drop_schema(*on.name)
            else:
                self._engine.drop_database(name)

    def _drop_role(self, name: str, heir: str) -> None:
        """What the role owned goes to the role that dropped it."""
        del self._account.roles[name]
        for user in self._account.users.values():
            user.roles.pop(name, None)
            if user.owner == name:
                user.owner = heir
        for role in self._account.roles.values():
            role.members.pop(name, None)
        for on, owner in list(self._account.owners.items()):
            if owner == name:
                self._account.owners[on] = heir
        for g in list(self._account.grants()):
            if g.role == name:
                self._account.revoke(g.privilege, g.on, name)
        self._account.future = {f for f in self._account.future if f.role != name}

    # -- the session ----------------------------------------------------------------------------
    def _use(self, s: Use, session: Session, roles: frozenset[str]) -> Table:
        account, name = self._account, s.name
        if s.what == "ROLE":
            if name[0] not in account.roles:
                raise not_usable()
            check_role(account, session.user, name[0])
            session.role = name[0]
        elif s.what == "SECONDARY ROLES":
            session.secondary = name[0] == "ALL"
        elif s.what == "WAREHOUSE":
            if not account.holds(roles, Securable(Kind.WAREHOUSE, name)):
                raise not_usable()
            session.warehouse = name[0]
        else:
            self.enter(session, *self._place(s, session), roles)
        return status_table(DONE)

    def _place(self, s: Use, session: Session) -> tuple[str, str | None]:
        if s.what == "DATABASE":
            return s.name[0], None
        if len(s.name) == 2:
            return s.name[0], s.name[1]
        if session.connection.database is None:
            raise SqlError(
                "090105",
                "22000",
                "Cannot perform USE SCHEMA. This session does not have a current database. "
                "Call 'USE DATABASE', or use a qualified name.",
            )
        return session.connection.database, s.name[0]

    def enter(
        self, session: Session, database: str, schema: str | None, roles: frozenset[str]
    ) -> None:
        """Makes a place current. Without a schema PUBLIC is taken where the roles may use it.

        Raises SqlError 002043.
        """
        account = self._account
        on = Securable(Kind.DATABASE, (database,))
        if not account.exists(on) or not account.holds(roles, on, "USAGE", "IMPORTED PRIVILEGES"):
            raise not_usable()
        wanted = schema or "PUBLIC"
        usable = account.exists(Securable(Kind.SCHEMA, (database, wanted))) and account.reachable(
            roles, database, wanted
        )
        if schema is not None and not usable:
            raise not_usable()
        self._engine.use(session.connection, database, wanted if usable else None)

    def _alter_session(self, s: AlterSession, session: Session, roles: frozenset[str]) -> Table:
        changes: list[tuple[str, ParameterValue | None]] = []
        for key, value in s.properties.items():
            if s.unset:
                if key not in DEFAULTS:
                    raise bad_parameter(key)
                changes.append((key, None))
            else:
                changes.append(parameter_value(key, value.text))
        for key, typed in changes:
            if key == "AUTOCOMMIT":
                session.connection.autocommit(True if typed is None else bool(typed))
            if typed is None:
                session.parameters.pop(key, None)
            else:
                session.parameters[key] = typed
        return status_table(DONE)

    # -- SHOW, DESCRIBE -------------------------------------------------------------------------
    def _show(self, s: Show, session: Session, roles: frozenset[str]) -> Table:
        if s.what == "USERS":
            return listing.show_users(s, self._account, session, roles)
        if s.what == "ROLES":
            return listing.show_roles(s, self._account, session, roles)
        if s.what == "WAREHOUSES":
            return listing.show_warehouses(s, self._account, session, roles)
        user = session.user
        if s.scope == "USER" and s.scope_name:
            user = self._owned_user(s.scope_name, roles | {session.user.owner})
        return listing.show_parameters(s, session, user)

    def _show_grants(self, s: ShowGrants, session: Session, roles: frozenset[str]) -> Table:
        return listing.show_grants(s, self._account, session, roles)

    def _describe_user(self, s: DescribeUser, session: Session, roles: frozenset[str]) -> Table:
        return listing.describe_user(s.name, self._account, session, roles)


def _only(properties: Properties, allowed: set[str]) -> None:
    for key in properties:
        if key not in allowed:
            raise bad_parameter(key)


def _plain_only(name: str) -> None:
    """DuckDB folds case: two names that differ in case only would be one there."""
    if name != name.upper() or not name.replace("$", "_").isidentifier():
        raise not_modelled("quoted names of databases and schemas")
