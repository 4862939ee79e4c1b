"""Carries out what `governance_sql` reads, with the privileges that it needs.

https://docs.snowflake.com/en/user-guide/network-policies · user-guide/authentication-policies ·
sql-reference/sql/create-function
"""

from __future__ import annotations

from hoop_core.devstack.emulator import functions
from hoop_core.devstack.emulator.account_statements import Drop, Name
from hoop_core.devstack.emulator.accounts import ACCOUNT, Account, Grant, Kind, Securable, User
from hoop_core.devstack.emulator.errors import (
    SqlError,
    already_exists,
    bad_value,
    insufficient,
    no_such_object,
    not_modelled,
    syntax,
)
from hoop_core.devstack.emulator.governance_sql import (
    AlterGoverned,
    CreateFunction,
    CreateGoverned,
    DropFunction,
    SetAuthenticationPolicy,
    one_of,
)
from hoop_core.devstack.emulator.granting import DONE
from hoop_core.devstack.emulator.networks import NetworkPolicy, rule_of
from hoop_core.devstack.emulator.results import Table, status_table
from hoop_core.devstack.emulator.sessions import Session
from hoop_core.sql.names import parse_parts

_METHODS = {"ALL", "SAML", "PASSWORD", "OAUTH", "KEYPAIR", "PROGRAMMATIC_ACCESS_TOKEN"}


class Governing:
    """Each method raises SqlError. The caller holds the account's lock."""

    def __init__(self, account: Account) -> None:
        self._account = account

    # -- names ----------------------------------------------------------------------------------
    @staticmethod
    def _full(name: Name, session: Session) -> Name:
        place = (session.connection.database, session.connection.schema)
        missing = 3 - len(name)
        if missing and None in place[:missing]:
            raise SqlError(
                "090105",
                "22000",
                "Cannot perform operation. This session does not have a current database. "
                "Call 'USE DATABASE', or use a qualified name.",
            )
        return (*(str(p) for p in place[:missing]), *name)

    def _named(self, kind: Kind, name: Name, session: Session) -> Name:
        return name if kind is Kind.NETWORK_POLICY else self._full(name, session)

    def _may_create(self, kind: Kind, name: Name, session: Session, roles: frozenset[str]) -> None:
        """By the primary role alone: it will own what is made."""
        account, primary = self._account, self._account.inherited([session.role])
        if kind is Kind.NETWORK_POLICY:
            if not account.holds(primary, ACCOUNT, "CREATE NETWORK POLICY"):
                raise insufficient("account", account.name)
            return
        schema = Securable(Kind.SCHEMA, name[:2])
        if not account.exists(schema) or not account.reachable(roles, name[0], name[1]):
            raise no_such_object("Schema", ".".join(name[:2]))
        if not account.holds(primary, schema, f"CREATE {kind.value}"):
            raise insufficient("schema", name[1])

    def _owned(self, on: Securable, roles: frozenset[str]) -> None:
        if not self._account.exists(on):
            raise no_such_object(on.kind.value.title(), str(on))
        if not self._account.owns(roles, on):
            raise insufficient(on.kind.value, str(on))

    # -- network rules, network and authentication policies -------------------------------------
    def create(self, s: CreateGoverned, session: Session, roles: frozenset[str]) -> Table:
        name = self._named(s.kind, s.name, session)
        on = Securable(s.kind, name)
        exists = self._account.exists(on)
        if exists and s.if_not_exists:
            return status_table(f"{name[-1]} already exists, statement succeeded.")
        if exists and not (s.or_replace or s.or_alter):
            raise already_exists(name[-1])
        if exists:
            self._owned(on, roles)
            if s.or_replace and self._users_of(on):
                raise _in_use(on)
        else:
            self._may_create(s.kind, name, session, roles)
        self._set(s.kind, name, s, roles, new=not exists or s.or_replace)
        if not exists or s.or_replace:
            self._account.created(on, session.role)
        return status_table(f"{s.kind.value.title()} {name[-1]} successfully created.")

    def alter(self, s: AlterGoverned, session: Session, roles: frozenset[str]) -> Table:
        name = self._named(s.kind, s.name, session)
        on = Securable(s.kind, name)
        if s.if_exists and not self._account.exists(on):
            return status_table(DONE)
        self._owned(on, roles)
        self._set(s.kind, name, s, roles, new=False)
        return status_table(DONE)

    def _set(
        self,
        kind: Kind,
        name: Name,
        s: CreateGoverned | AlterGoverned,
        roles: frozenset[str],
        *,
        new: bool,
    ) -> None:
        account, lists = self._account, s.lists
        if kind is Kind.NETWORK_RULE:
            if isinstance(s, CreateGoverned):
                if one_of(s.words, "TYPE", "IPV4", "HOST_PORT") != "IPV4":
                    raise not_modelled("network rules of this TYPE")
                one_of(s.words, "MODE", "INGRESS")
            if "VALUE_LIST" not in lists:
                raise bad_value("VALUE_LIST")
            account.network_rules[name] = rule_of(lists["VALUE_LIST"])
        elif kind is Kind.NETWORK_POLICY:
            old = NetworkPolicy((), ()) if new else account.network_policies[name[0]]
            account.network_policies[name[0]] = NetworkPolicy(
                self._rules(lists.get("ALLOWED_NETWORK_RULE_LIST"), old.allowed, roles),
                self._rules(lists.get("BLOCKED_NETWORK_RULE_LIST"), old.blocked, roles),
            )
        else:
            methods = lists.get("AUTHENTICATION_METHODS", ("ALL",))
            if not methods or not set(methods) <= _METHODS:
                raise bad_value("AUTHENTICATION_METHODS")
            account.authentication_policies[name] = frozenset(methods)

    def _rules(
        self, texts: tuple[str, ...] | None, old: tuple[Name, ...], roles: frozenset[str]
    ) -> tuple[Name, ...]:
        if texts is None:
            return old
        found: list[Name] = []
        for text in texts:
            parts = parse_parts(text)
            if parts is None or len(parts) != 3:
                raise syntax("<network rule>")
            on = Securable(Kind.NETWORK_RULE, parts)
            reachable = self._account.reachable(roles, parts[0], parts[1])
            if not reachable or not self._account.holds(roles, on):
                raise no_such_object("Network Rule", ".".join(parts))
            found.append(parts)
        return tuple(found)

    def drop(self, s: Drop, session: Session, roles: frozenset[str]) -> Table:
        name = self._named(s.kind, s.name, session)
        on = Securable(s.kind, name)
        if not self._account.exists(on) and s.if_exists:
            text = f"Drop statement executed successfully ({name[-1]} already dropped)."
            return status_table(text)
        self._owned(on, roles)
        if self._users_of(on):
            raise _in_use(on)
        self._account.forget(on)
        self._account.network_rules.pop(name, None)
        self._account.authentication_policies.pop(name, None)
        if s.kind is Kind.NETWORK_POLICY:
            del self._account.network_policies[name[0]]
        return status_table(f"{name[-1]} successfully dropped.")

    def _users_of(self, on: Securable) -> bool:
        """Whether something depends on it: then it can be neither dropped nor replaced."""
        account = self._account
        if on.kind is Kind.NETWORK_RULE:
            policies = account.network_policies.values()
            return any(on.name in (*p.allowed, *p.blocked) for p in policies)
        users = account.users.values()
        if on.kind is Kind.NETWORK_POLICY:
            return any(u.properties.get("NETWORK_POLICY") == on.name[0] for u in users)
        return any(u.authentication_policy == on.name for u in users)

    def may_activate(self, policy: str, roles: frozenset[str]) -> None:
        """A network policy is brought to a user by who owns both. Raises SqlError."""
        self._owned(Securable(Kind.NETWORK_POLICY, (policy,)), roles)

    def set_authentication(
        self, s: SetAuthenticationPolicy, session: Session, roles: frozenset[str]
    ) -> Table:
        user = self._account.users.get(s.user)
        if user is None:
            raise no_such_object("User", s.user)
        if not self._account.holds(roles, ACCOUNT, "APPLY AUTHENTICATION POLICY"):
            raise insufficient("user", s.user)
        name = None if s.policy is None else self._full(s.policy, session)
        if name is not None:
            on = Securable(Kind.AUTHENTICATION_POLICY, name)
            if not self._account.exists(on) or not self._account.holds(roles, on):
                raise no_such_object("Authentication Policy", ".".join(name))
            if user.authentication_policy is not None and not s.force:
                text = f"Object '{s.user}' already has an AUTHENTICATION_POLICY attached to it."
                raise SqlError("003552", "42710", f"SQL compilation error:\n{text}")
        user.authentication_policy = name
        return status_table(DONE)

    # -- functions ------------------------------------------------------------------------------
    def create_function(self, s: CreateFunction, session: Session, roles: frozenset[str]) -> Table:
        name = self._full(s.name, session)
        on = Securable(Kind.FUNCTION, name)
        known = self._account.functions.get((name[0], name[1], name[2]))
        if known is not None and known.types != tuple(t for _, t in s.arguments):
            raise not_modelled("functions of one name with different arguments")
        if known is not None and s.if_not_exists:
            return status_table(f"{name[2]} already exists, statement succeeded.")
        if known is not None and not s.or_replace:
            raise already_exists(name[2])
        self._may_create(Kind.FUNCTION, name, session, roles)
        kept: list[Grant] = []
        if known is not None:
            self._owned(on, roles)
            kept = self._account.grants_on(on) if s.copy_grants else []
        made = self._made(s, (name[0], name[1], name[2]))
        self._account.functions[made.name] = made
        self._account.created(on, session.role)
        for g in kept:
            self._account.grant(g.privilege, on, g.role, by=g.granted_by, option=g.grant_option)
        return status_table(f"Function {name[2]} successfully created.")

    def _made(self, s: CreateFunction, name: functions.Name) -> functions.Function:
        """The body is looked at when the function is made, as in the service."""
        if s.language == "PYTHON":
            if s.arguments:
                raise not_modelled("Python functions with arguments")
            count = functions.random_bytes(s.body, s.handler)
            return functions.Function(name, (), s.returns, s.body, count)
        if s.language != "SQL":
            raise not_modelled(f"functions in {s.language[:20]}")
        functions.expression(s.body)
        return functions.Function(name, s.arguments, s.returns, s.body)

    def drop_function(self, s: DropFunction, session: Session, roles: frozenset[str]) -> Table:
        name = self._full(s.name, session)
        on = Securable(Kind.FUNCTION, name)
        known = self._account.functions.get((name[0], name[1], name[2]))
        if known is None or known.types != s.types:
            if s.if_exists:
                text = f"Drop statement executed successfully ({name[2]} already dropped)."
                return status_table(text)
            raise no_such_object("Function", name[2])
        self._owned(on, roles)
        self._account.forget(on)
        del self._account.functions[known.name]
        return status_table(f"{name[2]} successfully dropped.")


def admits(account: Account, user: User, address: str) -> bool:
    """Whether the network policy of the user, where it has one, lets this address in."""
    policy = user.properties.get("NETWORK_POLICY")
    if policy is None:
        return True
    with account.lock:
        found = account.network_policies.get(policy)
        return found is not None and found.admits(address, account.network_rules)


def accepts_method(account: Account, user: User, method: str) -> bool:
    """Whether the authentication policy of the user, where it has one, knows this method."""
    if user.authentication_policy is None:
        return True
    with account.lock:
        methods = account.authentication_policies.get(user.authentication_policy, frozenset())
    return bool(methods & {"ALL", method})


def _in_use(on: Securable) -> SqlError:
    text = f"{on.kind.value.title()} {on} is in use: detach it first."
    return SqlError("001492", "42601", f"SQL compilation error:\n{text}")
