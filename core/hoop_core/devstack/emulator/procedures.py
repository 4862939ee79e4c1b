"""Stored procedures: of their language one form is modelled, and read as what it does.

An owner's-rights procedure runs with the privileges of the role that owns it.
https://docs.snowflake.com/en/developer-guide/stored-procedure/stored-procedures-rights
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlglot.tokenizer_core import Token, TokenType

from hoop_core.devstack.emulator.account_statements import (
    AccountStatement,
    Alter,
    Drop,
    Name,
    Value,
)
from hoop_core.devstack.emulator.accounts import Account, Grant, Kind, Securable
from hoop_core.devstack.emulator.errors import (
    SqlError,
    already_exists,
    insufficient,
    no_such_object,
    not_modelled,
)
from hoop_core.devstack.emulator.results import Table, text_table
from hoop_core.devstack.emulator.results import status_table as status
from hoop_core.devstack.emulator.sessions import Session
from hoop_core.devstack.emulator.token_reader import TokenReader

_CALL = re.compile(
    r"\s*(?P<name>(?:[A-Za-z_][\w$]*\.){0,2}[A-Za-z_][\w$]*)\s*"
    r"\(\s*'(?P<value>(?:[^'\\]|''|\\.)*)'\s*\)\s*;?\s*\Z",
    re.S,
)
_BODY = re.compile(
    r"BEGIN IF \(NOT REGEXP_LIKE\((?P<a>\w+), '(?P<pattern>[^'\\]*)', 'i'\)\) THEN RETURN '(?P<no>\w+)'; "
    r"END IF; EXECUTE IMMEDIATE 'ALTER USER IF EXISTS \"' \|\| (?P<b>\w+) \|\| '\" SET DISABLED = TRUE'; "
    r"EXECUTE IMMEDIATE 'DROP USER IF EXISTS \"' \|\| (?P<c>\w+) \|\| '\"'; RETURN '(?P<yes>\w+)'; END;?\Z"
)


@dataclass(frozen=True, slots=True)
class Procedure:
    """Disables and drops the user of a name that fits `pattern`, and answers with one of two words."""

    pattern: str
    refused: str
    done: str


@dataclass(frozen=True, slots=True)
class CreateProcedure(AccountStatement):
    name: Name
    argument: str
    or_replace: bool
    copy_grants: bool
    body: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Call(AccountStatement):
    name: Name
    value: str = field(repr=False)


def parse(tokens: list[Token]) -> AccountStatement | None:
    """One statement; None when the text begins like none of these."""
    return _Parser([t for t in tokens if t.token_type is not TokenType.SEMICOLON]).statement()


class _Parser(TokenReader):
    def statement(self) -> AccountStatement | None:
        if self._peek() == "CALL":
            return self._call()
        if not self._take("CREATE"):
            return None
        or_replace = self._take("OR", "REPLACE")
        if not self._take("PROCEDURE"):
            return None
        name = self._name(3)
        self._need("(")
        argument = self._part()
        self._need("VARCHAR")
        self._need(")")
        copy_grants = self._take("COPY", "GRANTS")
        for words in (("RETURNS", "VARCHAR"), ("LANGUAGE", "SQL")):
            self._need(*words)
        if self._take("COMMENT", "="):
            self._string()
        self._need("EXECUTE", "AS")
        if not self._take("OWNER"):
            raise not_modelled("procedures with their caller's rights")
        self._need("AS")
        body = self._string()
        self._end()
        return CreateProcedure(name, argument, or_replace, copy_grants, body)

    def _call(self) -> AccountStatement | None:
        """What follows the word comes as one piece of text. The service's own functions are not ours."""
        text = self._tokens[1].text if len(self._tokens) == 2 else ""
        found = _CALL.match(text)
        if found is None:
            return None
        value = re.sub(r"\\(.)", r"\1", found["value"].replace("''", "'"))
        return Call(tuple(found["name"].upper().split(".")), value)


class Procedures:
    """Each method raises SqlError. The caller holds the account's lock. `run` carries out a statement
    with the rights of the given roles."""

    def __init__(
        self,
        account: Account,
        run: Callable[[AccountStatement, Session, frozenset[str]], Table],
    ) -> None:
        self._account, self._run = account, run
        self._known: dict[Name, Procedure] = {}

    def create(self, s: CreateProcedure, session: Session, roles: frozenset[str]) -> Table:
        account, name = self._account, _full(s.name, session)
        on, schema = Securable(Kind.PROCEDURE, name), Securable(Kind.SCHEMA, name[:2])
        if not account.exists(schema) or not account.reachable(roles, name[0], name[1]):
            raise no_such_object("Schema", ".".join(name[:2]))
        if not account.holds(account.inherited([session.role]), schema, "CREATE PROCEDURE"):
            raise insufficient("schema", name[1])
        kept: list[Grant] = []
        if account.exists(on):
            if not s.or_replace:
                raise already_exists(name[2])
            if not account.owns(roles, on):
                raise insufficient("procedure", name[2])
            kept = account.grants_on(on) if s.copy_grants else []
        self._known[name] = _read(s)
        account.created(on, session.role)
        for g in kept:
            account.grant(g.privilege, on, g.role, by=g.granted_by, option=g.grant_option)
        return status(f"Function {name[2]} successfully created.")

    def call(self, s: Call, session: Session, roles: frozenset[str]) -> Table:
        account, name = self._account, _full(s.name, session)
        on = Securable(Kind.PROCEDURE, name)
        usable = account.exists(on) and account.reachable(roles, name[0], name[1])
        if not usable or not account.holds(roles, on, "USAGE"):
            text = f"SQL compilation error:\nUnknown user-defined function {'.'.join(name)}"
            raise SqlError("002140", "42601", text)
        known = self._known[name]
        if re.fullmatch(known.pattern, s.value, re.IGNORECASE) is None:
            return text_table([name[2]], [[known.refused]])
        owner = account.inherited([account.owners[on]])
        disabled = {"DISABLED": Value("boolean", "TRUE")}
        self._run(Alter(Kind.USER, (s.value,), True, False, disabled), session, owner)
        self._run(Drop(Kind.USER, (s.value,), True), session, owner)
        return text_table([name[2]], [[known.done]])


def _full(name: Name, session: Session) -> Name:
    place = (session.connection.database or "", session.connection.schema or "")
    return (*place[: 3 - len(name)], *name)


def _read(s: CreateProcedure) -> Procedure:
    found = _BODY.match(" ".join(s.body.split()))
    if found is None or {found["a"], found["b"], found["c"]} != {s.argument}:
        raise not_modelled("procedures with this body")
    return Procedure(found["pattern"], found["no"], found["yes"])
