"""The grammar of account statements: users, roles, grants, warehouses, USE, ALTER SESSION, SHOW.

`parse` returns a frozen statement, or None when the text begins like no account statement (it is
then a data statement), and raises SqlError 001003 for what begins like one and is not understood.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlglot.dialects.snowflake import Snowflake
from sqlglot.errors import TokenError
from sqlglot.tokenizer_core import Token, TokenType

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
    Name,
    Properties,
    Show,
    ShowGrants,
    Target,
    Use,
    Value,
)
from hoop_core.devstack.emulator.accounts import PRIVILEGES, Kind
from hoop_core.devstack.emulator.errors import SqlError, not_modelled, syntax
from hoop_core.devstack.emulator.token_reader import TokenReader

__all__ = ["parse", "tokens_of"]

_MADE = {k.value: k for k in (Kind.USER, Kind.ROLE, Kind.WAREHOUSE, Kind.DATABASE, Kind.SCHEMA)}
_SHOWN = {"USERS", "ROLES", "WAREHOUSES", "PARAMETERS", "GRANTS"}
_GRANTED = {**_MADE, "TABLE": Kind.TABLE, "VIEW": Kind.TABLE}
_MANY = {"TABLES": Kind.TABLE, "VIEWS": Kind.VIEW, "SCHEMAS": Kind.SCHEMA}
_STATEMENT_ENDS = (TokenType.SEMICOLON,)


def tokens_of(sql: str) -> list[Token]:
    """Raises SqlError for what is not even tokens."""
    try:
        return list(Snowflake().tokenize(sql))
    except TokenError:
        raise syntax("<unterminated text>") from None


def parse(tokens: list[Token]) -> AccountStatement | None:
    """Parse one statement (a trailing semicolon is allowed)."""
    body = [t for t in tokens if t.token_type not in _STATEMENT_ENDS]
    return _Parser(body).statement()


class _Parser(TokenReader):
    # -- statements ---------------------------------------------------------------------------
    def statement(self) -> AccountStatement | None:
        rules: dict[str, Callable[[], AccountStatement | None]] = {
            "CREATE": self._create,
            "ALTER": self._alter,
            "DROP": self._drop,
            "GRANT": lambda: self._grant(revoke=False),
            "REVOKE": lambda: self._grant(revoke=True),
            "USE": self._use,
            "SHOW": self._show,
            "DESC": self._describe,
            "DESCRIBE": self._describe,
        }
        first = self._peek().split(" ")[0]
        rule = rules.get(first)
        return rule() if rule else None

    def _create(self) -> AccountStatement | None:
        self._need("CREATE")
        or_replace = self._take("OR", "REPLACE")
        self._take("TRANSIENT")
        kind = _MADE.get(self._peek())
        if kind is None:
            return None
        self._at += 1
        absent = self._take("IF", "NOT", "EXISTS")
        name = self._name(2 if kind is Kind.SCHEMA else 1)
        managed = kind is Kind.SCHEMA and self._take("WITH", "MANAGED", "ACCESS")
        if kind is Kind.WAREHOUSE:
            self._take("WITH")
        properties = self._properties()
        return Create(kind, name, or_replace, absent, properties, managed)

    def _drop(self) -> AccountStatement | None:
        self._need("DROP")
        kind = _MADE.get(self._peek())
        if kind is None:
            return None
        self._at += 1
        exists = self._take("IF", "EXISTS")
        name = self._name(2 if kind is Kind.SCHEMA else 1)
        if kind in (Kind.DATABASE, Kind.SCHEMA):
            self._take("CASCADE")
        self._end()
        return Drop(kind, name, exists)

    def _alter(self) -> AccountStatement | None:
        self._need("ALTER")
        if self._take("SESSION"):
            unset = self._take("UNSET")
            if not unset:
                self._need("SET")
            properties = self._unset_names() if unset else self._properties()
            return AlterSession(unset, properties)
        kind = {"USER": Kind.USER, "ROLE": Kind.ROLE, "WAREHOUSE": Kind.WAREHOUSE}.get(self._peek())
        if kind is None:
            if self._peek() in ("ACCOUNT", "DATABASE", "SCHEMA"):
                raise not_modelled(f"ALTER {self._peek()}")
            return None
        self._at += 1
        exists = self._take("IF", "EXISTS")
        name = self._name()
        if kind is Kind.USER and self._take("ABORT", "ALL", "QUERIES"):
            self._end()
            return AbortQueries(name[0], exists)
        if self._take("SET"):
            return Alter(kind, name, exists, False, self._properties())
        self._need("UNSET")
        return Alter(kind, name, exists, True, self._unset_names())

    def _unset_names(self) -> Properties:
        names = [self._part()]
        while self._take(",") or self._at < len(self._tokens):
            names.append(self._part())
        return {n: Value("null", "") for n in names}

    def _grant(self, *, revoke: bool) -> AccountStatement:
        self._need("REVOKE" if revoke else "GRANT")
        link = "FROM" if revoke else "TO"
        if self._take("DATABASE", "ROLE"):
            name = self._name(2)
            if len(name) != 2:
                self._wrong()
            self._need(link)
            self._need("ROLE")
            made = GrantDatabaseRole(name[0], name[1], self._part(), revoke)
            self._end()
            return made
        if self._take("ROLE"):
            role = self._part()
            self._need(link)
            to_kind = Kind.USER if self._take("USER") else Kind.ROLE
            if to_kind is Kind.ROLE:
                self._need("ROLE")
            statement = GrantRole(role, to_kind, self._part(), revoke)
            self._end()
            return statement
        if self._take("OWNERSHIP"):
            return self._ownership(revoke)
        self._take("GRANT", "OPTION", "FOR")
        privileges = self._privileges()
        self._need("ON")
        on = self._target()
        self._need(link)
        if self._peek() in ("USER", "SHARE", "DATABASE", "APPLICATION"):
            raise not_modelled(f"privileges {link} {self._peek()}")
        self._take("ROLE")
        role = self._part()
        option = not revoke and self._take("WITH", "GRANT", "OPTION")
        if revoke and not self._take("CASCADE"):
            self._take("RESTRICT")
        self._end()
        return GrantPrivileges(privileges, on, role, revoke, option)

    def _ownership(self, revoke: bool) -> AccountStatement:
        if revoke:
            raise SqlError(
                "003001", "42501", "SQL access control error:\nOwnership can only be transferred."
            )
        self._need("ON")
        on = self._target()
        self._need("TO")
        self._need("ROLE")
        role = self._part()
        revoke_current = self._take("REVOKE", "CURRENT", "GRANTS")
        copy_current = not revoke_current and self._take("COPY", "CURRENT", "GRANTS")
        self._end()
        return GrantOwnership(on, role, revoke_current, copy_current)

    def _privileges(self) -> tuple[str, ...]:
        if self._take("ALL", "PRIVILEGES") or self._take("ALL"):
            return ()
        known = sorted({p for all_ in PRIVILEGES.values() for p in all_}, key=len, reverse=True)
        found: list[str] = []
        while True:
            privilege = next((p for p in known if self._take(*p.split(" "))), None)
            if privilege is None:
                self._wrong()
            found.append(privilege)
            if not self._take(","):
                return tuple(found)

    def _target(self) -> Target:
        if self._take("ACCOUNT"):
            return Target(Kind.ACCOUNT, ())
        for scope in ("ALL", "FUTURE"):
            if self._take(scope):
                of = _MANY.get(self._peek())
                if of is None:
                    raise not_modelled(f"{scope} {self._peek()}")
                self._at += 1
                self._need("IN")
                kind = Kind.DATABASE if self._take("DATABASE") else Kind.SCHEMA
                if kind is Kind.SCHEMA:
                    if of is Kind.SCHEMA:
                        self._wrong()
                    self._need("SCHEMA")
                return Target(kind, self._name(2), scope.lower(), of)
        if self._take("NETWORK", "POLICY"):
            return Target(Kind.NETWORK_POLICY, self._name())
        for kind in (Kind.FUNCTION, Kind.PROCEDURE):
            if self._take(kind.value):
                name = self._name(3)
                self._types()
                return Target(kind, name)
        word = self._peek()
        if word in _GRANTED:
            self._at += 1
            return Target(_GRANTED[word], self._name(3))
        if word in ("STAGE", "SEQUENCE", "INTEGRATION", "FILE"):
            raise not_modelled(f"privileges ON {word}")
        return Target(Kind.TABLE, self._name(3))

    def _use(self) -> AccountStatement:
        self._need("USE")
        if self._take("SECONDARY", "ROLES"):
            word = self._part()
            if word not in ("ALL", "NONE"):
                raise not_modelled("USE SECONDARY ROLES with a list")
            statement = Use("SECONDARY ROLES", (word,))
        elif self._peek() in ("ROLE", "WAREHOUSE", "DATABASE"):
            what = self._peek()
            self._at += 1
            statement = Use(what, self._name())
        else:
            explicit = self._take("SCHEMA")
            name = self._name(2)
            statement = Use("SCHEMA" if explicit or len(name) == 2 else "DATABASE", name)
        self._end()
        return statement

    def _show(self) -> AccountStatement | None:
        self._need("SHOW")
        terse = self._take("TERSE")
        what = self._peek()
        if what not in _SHOWN:
            return None
        self._at += 1
        if what == "GRANTS":
            return self._show_grants()
        like = starts_with = after = None
        limit: int | None = None
        scope = scope_name = ""
        if self._take("LIKE"):
            like = self._string()
        if what == "PARAMETERS" and self._take("IN"):
            scope, scope_name = self._parameter_scope()
        if self._take("STARTS", "WITH"):
            starts_with = self._string()
        if self._take("LIMIT"):
            number = self._value()
            if number.form != "number":
                self._wrong()
            limit = int(number.text)
            if self._take("FROM"):
                after = self._string()
        self._end()
        return Show(what, terse, like, starts_with, limit, after, scope, scope_name)

    def _parameter_scope(self) -> tuple[str, str]:
        for word in ("SESSION", "ACCOUNT"):
            if self._take(word):
                return word, ""
        self._need("USER")
        return "USER", self._part() if self._at < len(self._tokens) else ""

    def _show_grants(self) -> AccountStatement:
        direction, kind, name = "to", Kind.USER, Name()
        if self._take("TO"):
            if self._take("ROLE"):
                kind = Kind.ROLE
            else:
                self._need("USER")
            name = self._name()
        elif self._take("OF"):
            self._need("ROLE")
            direction, kind, name = "of", Kind.ROLE, self._name()
        elif self._take("ON"):
            target = self._target()
            if target.scope:
                self._wrong()
            direction, kind, name = "on", target.kind, target.name
        self._end()
        return ShowGrants(direction, kind, name)

    def _describe(self) -> AccountStatement | None:
        if not self._take("DESCRIBE"):
            self._need("DESC")
        if not self._take("USER"):
            return None
        statement = DescribeUser(self._part())
        self._end()
        return statement
