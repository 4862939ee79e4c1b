"""GRANT and REVOKE of roles, privileges and ownership, with what each of them needs."""

from __future__ import annotations

from hoop_core.devstack.emulator.account_statements import (
    GrantDatabaseRole,
    GrantOwnership,
    GrantPrivileges,
    GrantRole,
    Target,
)
from hoop_core.devstack.emulator.accounts import (
    ACCOUNT,
    PRIVILEGES,
    Account,
    FutureGrant,
    Kind,
    Securable,
)
from hoop_core.devstack.emulator.errors import (
    SqlError,
    insufficient,
    no_such_object,
    not_modelled,
)
from hoop_core.devstack.emulator.history import DATABASE, DATABASE_ROLES, SCHEMA
from hoop_core.devstack.emulator.results import Table, status_table
from hoop_core.devstack.emulator.sessions import Session

DONE = "Statement executed successfully."


class Granting:
    """Each method carries out one kind of statement and raises SqlError. The caller holds the
    account's lock."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def role(self, s: GrantRole, session: Session, roles: frozenset[str]) -> Table:
        account = self._account
        if s.role not in account.roles:
            raise no_such_object("Role", s.role)
        on = Securable(Kind.ROLE, (s.role,))
        if not account.owns(roles, on) and not account.holds(roles, ACCOUNT, "MANAGE GRANTS"):
            raise insufficient("role", s.role)
        held: dict[str, str]
        if s.to_kind is Kind.USER:
            if s.to not in account.users:
                raise no_such_object("User", s.to)
            held = account.users[s.to].roles
        else:
            if s.to not in account.roles:
                raise no_such_object("Role", s.to)
            if not s.revoke and s.to in account.inherited([s.role]) - {"PUBLIC"}:
                text = f"SQL compilation error:\nCannot grant role '{s.role}' to '{s.to}': a cycle."
                raise SqlError("003013", "42501", text)
            held = account.roles[s.to].members
        if s.revoke:
            held.pop(s.role, None)
        else:
            held[s.role] = session.role
        return status_table(DONE)

    def database_role(self, s: GrantDatabaseRole, session: Session, roles: frozenset[str]) -> Table:
        """https://docs.snowflake.com/en/sql-reference/snowflake-db-roles"""
        account = self._account
        database = Securable(Kind.DATABASE, (s.database,))
        views = DATABASE_ROLES.get(s.role, ()) if s.database == DATABASE else ()
        if not views or not account.visible(roles, database):
            raise no_such_object("Database role", f"{s.database}.{s.role}")
        if s.to not in account.roles:
            raise no_such_object("Role", s.to)
        if not account.holds(roles, ACCOUNT, "MANAGE GRANTS"):
            raise insufficient("database role", f"{s.database}.{s.role}")
        tables = [Securable(Kind.TABLE, (DATABASE, SCHEMA, view)) for view in views]
        schema = Securable(Kind.SCHEMA, (DATABASE, SCHEMA))
        for privilege, on in (
            *(("SELECT", t) for t in tables),
            *(() if s.revoke else (("USAGE", database), ("USAGE", schema))),
        ):
            if s.revoke:
                account.revoke(privilege, on, s.to)
            else:
                account.grant(privilege, on, s.to, by=session.role)
        return status_table(DONE)

    def _resolved(self, target: Target, session: Session) -> Securable:
        """The object a grant names, qualified by the session's place."""
        name, c = target.name, session.connection
        if target.kind in (Kind.SCHEMA, Kind.TABLE, Kind.FUNCTION, Kind.PROCEDURE):
            place = [c.database, c.schema][: (1 if target.kind is Kind.SCHEMA else 2)]
            missing = len(place) + 1 - len(name)
            if missing > 0:
                name = (*(p or "" for p in place[:missing]), *name)
                name = name if missing == len(place) else (place[0] or "", *target.name)
        return Securable(target.kind, name)

    def privileges(self, s: GrantPrivileges, session: Session, roles: frozenset[str]) -> Table:
        account = self._account
        if s.role not in account.roles:
            raise no_such_object("Role", s.role)
        on = self._resolved(s.on, session)
        if on != ACCOUNT and not self._account.knows(on.kind, on.name):
            raise no_such_object(on.kind.value.title(), str(on))
        inner = s.on.of if s.on.scope else on.kind
        privileges = s.privileges or tuple(
            sorted(PRIVILEGES[inner] - {"IMPORTED PRIVILEGES", "MANAGE GRANTS"})
        )
        for privilege in privileges:
            if privilege not in PRIVILEGES[inner]:
                text = f"SQL compilation error:\nPrivilege '{privilege}' cannot be granted on {inner.value}."
                raise SqlError("001003", "42000", text)
        if s.on.scope == "future":
            self._future(s, on, privileges, roles)
            return status_table(DONE)
        for each in account.inside(on, inner) if s.on.scope else [on]:
            for privilege in privileges:
                if not account.may_grant(roles, privilege, each):
                    raise insufficient(each.kind.value, str(each))
                if s.revoke:
                    account.revoke(privilege, each, s.role)
                else:
                    account.grant(privilege, each, s.role, by=session.role, option=s.grant_option)
        return status_table(DONE)

    def _future(
        self,
        s: GrantPrivileges,
        scope: Securable,
        privileges: tuple[str, ...],
        roles: frozenset[str],
    ) -> None:
        manages = self._account.holds(roles, ACCOUNT, "MANAGE GRANTS")
        if not manages and not self._account.owns(roles, scope):
            raise insufficient(scope.kind.value, str(scope))
        changed = {FutureGrant(p, scope, s.role, s.on.of) for p in privileges}
        if s.revoke:
            self._account.future -= changed
        else:
            self._account.future |= changed

    def ownership(self, s: GrantOwnership, session: Session, roles: frozenset[str]) -> Table:
        account = self._account
        if s.role not in account.roles:
            raise no_such_object("Role", s.role)
        if s.on.scope == "future":
            raise not_modelled("GRANT OWNERSHIP ON FUTURE")
        on = self._resolved(s.on, session)
        if not self._account.knows(on.kind, on.name) or on == ACCOUNT:
            raise no_such_object(on.kind.value.title(), str(on))
        for each in account.inside(on, s.on.of) if s.on.scope else [on]:
            manages = account.holds(roles, ACCOUNT, "MANAGE GRANTS")
            if not manages and not account.owns(roles, each):
                raise insufficient(each.kind.value, str(each))
            held = account.grants_on(each)
            if held and not (s.revoke_current or s.copy_current):
                text = "SQL execution error: Dependent grant of privilege exists. It must be revoked first."
                raise SqlError("003036", "2BP01", text)
            if s.revoke_current:
                for g in held:
                    account.revoke(g.privilege, each, g.role)
            account.owners[each] = s.role
            if each.kind is Kind.USER:
                account.users[each.name[0]].owner = s.role
            if each.kind is Kind.ROLE:
                account.roles[each.name[0]].owner = s.role
        return status_table(DONE)
