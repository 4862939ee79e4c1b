"""Errors in Snowflake's words: code, SQLSTATE and message, as a driver will show them."""

from __future__ import annotations

__all__ = ["LoginError", "SessionError", "SqlError"]


class SqlError(Exception):
    """A statement failed. `code` is Snowflake's six-digit error code."""

    def __init__(self, code: str, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.sqlstate = sqlstate
        self.message = message


class LoginError(Exception):
    """A sign-in was refused; `user` is the account's name for who tried, when it is known."""

    def __init__(
        self, code: str, message: str, *, factor: str = "", user: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.factor = factor
        self.user = user


class SessionError(Exception):
    """The request carries no live session."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def no_such_object(kind: str, name: str) -> SqlError:
    """Snowflake answers alike for what is not there and for what the role may not see."""
    text = f"SQL compilation error:\n{kind} '{name}' does not exist or not authorized."
    sqlstate = "42S02" if kind in ("Object", "Table", "View") else "02000"
    return SqlError("002003", sqlstate, text)


def already_exists(name: str) -> SqlError:
    text = f"SQL compilation error:\nObject '{name}' already exists."
    return SqlError("002002", "42710", text)


def not_usable() -> SqlError:
    """The answer of USE for what is not there or not granted."""
    text = "SQL compilation error:\nObject does not exist, or operation cannot be performed."
    return SqlError("002043", "02000", text)


def insufficient(kind: str, name: str) -> SqlError:
    text = (
        f"SQL access control error:\nInsufficient privileges to operate on {kind.lower()} '{name}'."
    )
    return SqlError("003001", "42501", text)


def syntax(near: str, at: int = 0) -> SqlError:
    text = f"SQL compilation error:\nsyntax error line 1 at position {at} unexpected '{near}'."
    return SqlError("001003", "42000", text)


def bad_value(parameter: str) -> SqlError:
    """The value itself is left out: it may be a key or a password."""
    text = f"SQL compilation error:\ninvalid value for parameter '{parameter}'"
    return SqlError("001008", "22023", text)


def bad_parameter(parameter: str) -> SqlError:
    return SqlError("001006", "22023", f"SQL compilation error:\ninvalid parameter '{parameter}'")


def not_modelled(what: str) -> SqlError:
    """The stand-in's own honesty, in Snowflake's code for a feature that is not there."""
    text = f"Unsupported feature '{what}': the Snowflake stand-in does not model it."
    return SqlError("000002", "0A000", text)
