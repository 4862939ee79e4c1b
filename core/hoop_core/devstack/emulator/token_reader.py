"""Reading one statement token by token: words, names, values, properties."""

from __future__ import annotations

from typing import NoReturn

from sqlglot.tokenizer_core import Token, TokenType

from hoop_core.devstack.emulator.account_statements import Name, Properties, Value
from hoop_core.devstack.emulator.errors import SqlError, syntax


class TokenReader:
    """The tokens of one statement, read from left to right."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def _peek(self, ahead: int = 0) -> str:
        """The upper-cased word; a quoted name or a string is never a word."""
        at = self._at + ahead
        if at >= len(self._tokens):
            return ""
        token = self._tokens[at]
        quoted = token.token_type in (TokenType.STRING, TokenType.IDENTIFIER, TokenType.RAW_STRING)
        return "" if quoted else token.text.upper()

    def _take(self, *words: str) -> bool:
        """Consumes these words when they come next. A token may hold several words."""
        at, left = self._at, list(words)
        while left:
            if at >= len(self._tokens):
                return False
            got = self._peek(at - self._at).split()
            if not got or got != left[: len(got)]:
                return False
            left = left[len(got) :]
            at += 1
        self._at = at
        return True

    def _need(self, *words: str) -> None:
        if not self._take(*words):
            self._wrong()

    def _wrong(self) -> NoReturn:
        if self._at < len(self._tokens):
            token = self._tokens[self._at]
            secret = token.token_type in (TokenType.STRING, TokenType.RAW_STRING)
            raise syntax("<string>" if secret else token.text, token.start)
        raise syntax("<EOF>")

    def _at_end(self) -> bool:
        return self._at >= len(self._tokens)

    def _end(self) -> None:
        if not self._at_end():
            self._wrong()

    def _types(self) -> tuple[str, ...]:
        """The argument types that tell functions of one name apart."""
        self._need("(")
        found: list[str] = []
        while not self._take(")"):
            if found:
                self._need(",")
            found.append(self._part())
        return tuple(found)

    def _part(self) -> str:
        if self._at >= len(self._tokens):
            self._wrong()
        token = self._tokens[self._at]
        if token.token_type is TokenType.IDENTIFIER:
            self._at += 1
            return token.text
        text = token.text.upper()
        if token.token_type is TokenType.STRING or not _is_plain(text):
            self._wrong()
        self._at += 1
        return text

    def _name(self, most: int = 1) -> Name:
        parts = [self._part()]
        while len(parts) < most and self._take("."):
            parts.append(self._part())
        return tuple(parts)

    def _string(self) -> str:
        if self._at < len(self._tokens):
            token = self._tokens[self._at]
            if token.token_type in (TokenType.STRING, TokenType.RAW_STRING):
                self._at += 1
                return token.text
        return self._wrong()

    def _value(self) -> Value:
        if self._at >= len(self._tokens):
            self._wrong()
        token = self._tokens[self._at]
        if token.token_type in (TokenType.STRING, TokenType.RAW_STRING):
            self._at += 1
            return Value("string", token.text)
        sign = "-" if self._take("-") else ""
        token = self._tokens[self._at] if self._at < len(self._tokens) else token
        if token.token_type is TokenType.NUMBER:
            self._at += 1
            return Value("number", sign + token.text)
        if sign:
            self._wrong()
        if self._take("("):
            items: list[str] = []
            while not self._take(")"):
                items.append(self._string())
                self._take(",")
            return Value("list", ",".join(items))
        for word, form in (("TRUE", "boolean"), ("FALSE", "boolean"), ("NULL", "null")):
            if self._take(word):
                return Value(form, word)
        return Value("name", ".".join(self._name(3)))

    def _properties(self) -> Properties:
        found: dict[str, Value] = {}
        while self._at < len(self._tokens):
            key = self._part()
            self._need("=")
            if key in found:
                raise SqlError(
                    "001003", "42000", f"SQL compilation error:\nduplicate property '{key}'"
                )
            found[key] = self._value()
            self._take(",")
        return found


def _is_plain(text: str) -> bool:
    return bool(text) and text.replace("$", "_").isidentifier()
