"""The properties of CREATE USER and ALTER USER: which there are, and what a value may be.

https://docs.snowflake.com/en/sql-reference/sql/create-user
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from hoop_core.devstack.emulator.account_statements import Properties, Value
from hoop_core.devstack.emulator.accounts import User
from hoop_core.devstack.emulator.errors import (
    SqlError,
    already_exists,
    bad_parameter,
    bad_value,
)
from hoop_core.devstack.emulator.sessions import DEFAULTS, parameter_value
from hoop_core.devstack.emulator.user_keys import Password, load_public_key

Change = Callable[[User], None]
Rule = Callable[[str, Value], Change]

_TYPES = ("PERSON", "SERVICE", "LEGACY_SERVICE")
_NOT_FOR_SERVICE = {
    "PASSWORD",
    "MUST_CHANGE_PASSWORD",
    "FIRST_NAME",
    "MIDDLE_NAME",
    "LAST_NAME",
    "MINS_TO_BYPASS_MFA",
    "DISABLE_MFA",
}


def set_properties(user: User, properties: Properties, logins: Collection[str]) -> None:
    """Checks everything before it changes anything. `logins` are the other users' login names.

    Raises SqlError, never with a value in its text.
    """
    _check_service(user, properties)
    changes = [_change(key, value) for key, value in properties.items()]
    if "LOGIN_NAME" in properties and properties["LOGIN_NAME"].text.upper() in {*logins, ""}:
        raise already_exists(properties["LOGIN_NAME"].text.upper())
    for change in changes:
        change(user)


def _check_service(user: User, properties: Properties) -> None:
    """A SERVICE user has no password and no person's name."""
    service = user.type == "SERVICE"
    if "TYPE" in properties:
        service = properties["TYPE"].text.upper() == "SERVICE"
    wrong = _NOT_FOR_SERVICE & {k for k, v in properties.items() if v.form != "null"}
    if service and user.password is not None:
        wrong |= {"PASSWORD"}
    if service and wrong:
        what = ", ".join(sorted(wrong))
        text = f"SQL execution error: Cannot set {what} for a user of TYPE = SERVICE."
        raise SqlError("003554", "22023", text)


def _change(key: str, value: Value) -> Change:
    rule = _RULES.get(key)
    if rule is None:
        if key not in DEFAULTS:
            raise bad_parameter(key)
        rule = _parameter
    if value.form == "null":
        return _unset(key)
    return rule(key, value)


def _unset(key: str) -> Change:
    if key in _PLAIN_DEFAULTS:
        attribute, empty = _PLAIN_DEFAULTS[key]
        return lambda user: setattr(user, attribute, empty)
    if key == "LOGIN_NAME":
        return lambda user: setattr(user, "login_name", user.name.upper())

    def forget(user: User) -> None:
        user.properties.pop(key, None)
        user.parameters.pop(key, None)
        user.public_keys.pop(key, None)

    return forget


_PLAIN_DEFAULTS: dict[str, tuple[str, Any]] = {
    "PASSWORD": ("password", None),
    "TYPE": ("type", None),
    "DISABLED": ("disabled", False),
    "MUST_CHANGE_PASSWORD": ("must_change_password", False),
    "DAYS_TO_EXPIRY": ("expires_at", None),
    "DEFAULT_SECONDARY_ROLES": ("secondary_roles", True),
}


def _text(key: str, value: Value) -> Change:
    return lambda user: user.properties.__setitem__(key, value.text)


def _name(key: str, value: Value) -> Change:
    """A name in a property: a string is folded like a bare name unless it holds quotes."""
    name = value.text
    if value.form == "string":
        name = name.strip('"') if name.startswith('"') else name.upper()
    return lambda user: user.properties.__setitem__(key, name)


def _parameter(key: str, value: Value) -> Change:
    _, typed = parameter_value(key, value.text)
    return lambda user: user.parameters.__setitem__(key, typed)


def _password(key: str, value: Value) -> Change:
    if value.form != "string":
        raise bad_value(key)
    hashed = Password.of(value.text)
    return lambda user: setattr(user, "password", hashed)


def _public_key(key: str, value: Value) -> Change:
    if value.form != "string":
        raise bad_value(key)
    loaded = load_public_key(value.text, key)
    return lambda user: user.public_keys.__setitem__(key, loaded)


def _login_name(key: str, value: Value) -> Change:
    return lambda user: setattr(user, "login_name", value.text.upper())


def _type(key: str, value: Value) -> Change:
    kind = value.text.upper()
    if kind not in _TYPES:
        raise bad_value(key)
    return lambda user: setattr(user, "type", kind)


def _flag(key: str, value: Value) -> Change:
    text = value.text.upper()
    if text not in ("TRUE", "FALSE"):
        raise bad_value(key)
    return lambda user: setattr(user, key.lower(), text == "TRUE")


def _expiry(key: str, value: Value) -> Change:
    """Whole days from now; zero or less is the state "expired"."""
    try:
        at = datetime.now(UTC) + timedelta(days=int(value.text))
    except (ValueError, OverflowError):
        raise bad_value(key) from None
    return lambda user: setattr(user, "expires_at", at)


def _secondary(key: str, value: Value) -> Change:
    if value.form != "list" or value.text.upper() not in ("", "ALL"):
        raise bad_value(key)
    return lambda user: setattr(user, "secondary_roles", value.text.upper() == "ALL")


_RULES: dict[str, Rule] = {
    "PASSWORD": _password,
    "RSA_PUBLIC_KEY": _public_key,
    "RSA_PUBLIC_KEY_2": _public_key,
    "LOGIN_NAME": _login_name,
    "TYPE": _type,
    "DISABLED": _flag,
    "MUST_CHANGE_PASSWORD": _flag,
    "DAYS_TO_EXPIRY": _expiry,
    "DEFAULT_SECONDARY_ROLES": _secondary,
    "DISPLAY_NAME": _text,
    "FIRST_NAME": _text,
    "MIDDLE_NAME": _text,
    "LAST_NAME": _text,
    "EMAIL": _text,
    "COMMENT": _text,
    "DEFAULT_ROLE": _name,
    "DEFAULT_WAREHOUSE": _name,
    "DEFAULT_NAMESPACE": _name,
    "NETWORK_POLICY": _name,
}
