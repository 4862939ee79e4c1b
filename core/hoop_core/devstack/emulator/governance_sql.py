"""The grammar of network rules and policies, authentication policies and functions.

https://docs.snowflake.com/en/sql-reference/sql/create-network-rule · create-network-policy ·
create-authentication-policy · create-function
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sqlglot.tokenizer_core import Token, TokenType

from hoop_core.devstack.emulator.account_statements import AccountStatement, Drop, Name, Value
from hoop_core.devstack.emulator.accounts import Kind
from hoop_core.devstack.emulator.errors import SqlError, bad_parameter, bad_value, not_modelled
from hoop_core.devstack.emulator.token_reader import TokenReader

_KINDS = {
    ("NETWORK", "RULE"): Kind.NETWORK_RULE,
    ("NETWORK", "POLICY"): Kind.NETWORK_POLICY,
    ("AUTHENTICATION", "POLICY"): Kind.AUTHENTICATION_POLICY,
}
_PROPERTIES: dict[Kind, frozenset[str]] = {
    Kind.NETWORK_RULE: frozenset({"TYPE", "VALUE_LIST", "MODE", "COMMENT"}),
    Kind.NETWORK_POLICY: frozenset(
        {"ALLOWED_NETWORK_RULE_LIST", "BLOCKED_NETWORK_RULE_LIST", "COMMENT"}
    ),
    Kind.AUTHENTICATION_POLICY: frozenset({"AUTHENTICATION_METHODS", "COMMENT"}),
}
_LISTS = {
    "VALUE_LIST",
    "ALLOWED_NETWORK_RULE_LIST",
    "BLOCKED_NETWORK_RULE_LIST",
    "AUTHENTICATION_METHODS",
}
TYPES = frozenset({"VARCHAR", "STRING", "TEXT", "NUMBER", "FLOAT", "BOOLEAN", "DATE"})
_BODIES = (TokenType.STRING, TokenType.RAW_STRING)


@dataclass(frozen=True, slots=True)
class CreateGoverned(AccountStatement):
    """A network rule, a network policy or an authentication policy. `lists` has what stood in
    parentheses; `or_alter` changes an object in place where one is there."""

    kind: Kind
    name: Name
    or_replace: bool
    or_alter: bool
    if_not_exists: bool
    words: dict[str, Value]
    lists: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class AlterGoverned(AccountStatement):
    """ALTER ... SET of lists and comments."""

    kind: Kind
    name: Name
    if_exists: bool
    words: dict[str, Value]
    lists: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class SetAuthenticationPolicy(AccountStatement):
    """ALTER USER ... SET | UNSET AUTHENTICATION POLICY; without a policy it is UNSET."""

    user: str
    policy: Name | None
    force: bool


@dataclass(frozen=True, slots=True)
class CreateFunction(AccountStatement):
    """`arguments` are pairs of a name and a type; `body` is what stood after AS."""

    name: Name
    arguments: tuple[tuple[str, str], ...]
    returns: str
    language: str
    body: str = field(repr=False)
    or_replace: bool = False
    if_not_exists: bool = False
    copy_grants: bool = False
    secure: bool = False
    handler: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class DropFunction(AccountStatement):
    name: Name
    types: tuple[str, ...]
    if_exists: bool


def parse(tokens: list[Token]) -> AccountStatement | None:
    """One statement; None when the text begins like none of these."""
    return _Parser([t for t in tokens if t.token_type is not TokenType.SEMICOLON]).statement()


class _Parser(TokenReader):
    def statement(self) -> AccountStatement | None:
        rules: dict[str, Callable[[], AccountStatement | None]] = {
            "CREATE": self._create,
            "ALTER": self._alter,
            "DROP": self._drop,
        }
        rule = rules.get(self._peek())
        return rule() if rule else None

    def _kind(self) -> Kind | None:
        for words, kind in _KINDS.items():
            if self._take(*words):
                return kind
        return None

    def _create(self) -> AccountStatement | None:
        self._need("CREATE")
        or_replace = self._take("OR", "REPLACE")
        or_alter = not or_replace and self._take("OR", "ALTER")
        secure = self._take("SECURE")
        if self._take("FUNCTION"):
            return self._function(or_replace, secure)
        kind = None if secure else self._kind()
        if kind is None:
            if or_alter:
                raise not_modelled(f"CREATE OR ALTER {self._peek()}")
            return None
        absent = not or_alter and self._take("IF", "NOT", "EXISTS")
        if absent and kind is Kind.NETWORK_RULE:
            self._wrong()  # the documented syntax of network rules has no IF NOT EXISTS
        name = self._governed_name(kind)
        words, lists = self._settings(kind)
        return CreateGoverned(kind, name, or_replace, or_alter, absent, words, lists)

    def _governed_name(self, kind: Kind) -> Name:
        return self._name(1 if kind is Kind.NETWORK_POLICY else 3)

    def _settings(self, kind: Kind) -> tuple[dict[str, Value], dict[str, tuple[str, ...]]]:
        words: dict[str, Value] = {}
        lists: dict[str, tuple[str, ...]] = {}
        while not self._at_end():
            key = self._part()
            if key not in _PROPERTIES[kind]:
                if key in ("ALLOWED_IP_LIST", "BLOCKED_IP_LIST"):
                    raise not_modelled(key)
                raise bad_parameter(key)
            self._need("=")
            if key in words or key in lists:
                self._wrong()
            if key in _LISTS:
                lists[key] = self._strings()
            else:
                words[key] = self._value()
        return words, lists

    def _strings(self) -> tuple[str, ...]:
        self._need("(")
        found: list[str] = []
        while not self._take(")"):
            if found:
                self._need(",")
            found.append(self._string())
        return tuple(found)

    def _alter(self) -> AccountStatement | None:
        self._need("ALTER")
        if self._take("USER"):
            return self._alter_user()
        kind = self._kind()
        if kind is None:
            return None
        exists = self._take("IF", "EXISTS")
        name = self._governed_name(kind)
        if not self._take("SET"):
            raise not_modelled(f"ALTER {kind.value} … {self._peek()}")
        words, lists = self._settings(kind)
        return AlterGoverned(kind, name, exists, words, lists)

    def _alter_user(self) -> AccountStatement | None:
        if self._take("IF", "EXISTS"):
            return None
        user = self._part()
        unset = self._take("UNSET")
        if not (unset or self._take("SET")) or not self._take("AUTHENTICATION", "POLICY"):
            return None
        policy = None if unset else self._name(3)
        force = not unset and self._take("FORCE")
        self._end()
        return SetAuthenticationPolicy(user, policy, force)

    def _drop(self) -> AccountStatement | None:
        self._need("DROP")
        if self._take("FUNCTION"):
            exists = self._take("IF", "EXISTS")
            name = self._name(3)
            types = self._types()
            self._end()
            return DropFunction(name, types, exists)
        kind = self._kind()
        if kind is None:
            return None
        exists = self._take("IF", "EXISTS")
        name = self._governed_name(kind)
        self._end()
        return Drop(kind, name, exists)

    # -- functions ------------------------------------------------------------------------------
    def _type(self) -> str:
        word = self._part()
        if word not in TYPES:
            raise not_modelled(f"functions with {word[:30]}")
        return word

    def _function(self, or_replace: bool, secure: bool) -> AccountStatement:
        absent = self._take("IF", "NOT", "EXISTS")
        name = self._name(3)
        arguments = self._arguments()
        copy_grants = self._take("COPY", "GRANTS")
        self._need("RETURNS")
        returns = self._type()
        settings = {"LANGUAGE": "SQL", "HANDLER": "", "COMMENT": "", "RUNTIME_VERSION": ""}
        while not self._take("AS"):
            if self._take("VOLATILE") or self._take("IMMUTABLE"):
                continue
            key = self._part()
            if key not in settings:
                raise not_modelled(f"CREATE FUNCTION … {key[:30]}")
            if key != "LANGUAGE":
                self._need("=")
            settings[key] = self._value().text
        body = self._body()
        self._end()
        return CreateFunction(
            name=name,
            arguments=arguments,
            returns=returns,
            language=settings["LANGUAGE"],
            body=body,
            or_replace=or_replace,
            if_not_exists=absent,
            copy_grants=copy_grants,
            secure=secure,
            handler=settings["HANDLER"],
            comment=settings["COMMENT"],
        )

    def _arguments(self) -> tuple[tuple[str, str], ...]:
        self._need("(")
        found: list[tuple[str, str]] = []
        while not self._take(")"):
            if found:
                self._need(",")
            found.append((self._part(), self._type()))
        return tuple(found)

    def _body(self) -> str:
        if self._at_end() or self._tokens[self._at].token_type not in _BODIES:
            self._wrong()
        text = self._tokens[self._at].text
        self._at += 1
        if not text.strip():
            raise SqlError("001003", "42000", "SQL compilation error:\nempty function body")
        return text


def one_of(words: dict[str, Value], key: str, *valid: str) -> str:
    """A property that must be one of these words. Raises SqlError."""
    value = words[key].text.upper() if key in words else ""
    if value not in valid:
        raise bad_value(key)
    return value
