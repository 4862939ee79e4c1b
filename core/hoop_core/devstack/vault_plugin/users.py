"""Create, change and drop Snowflake users, as HashiCorp's vault-plugin-database-snowflake does.

https://developer.hashicorp.com/vault/api-docs/secret/databases/snowflake
https://docs.snowflake.com/en/sql-reference/sql/create-user
"""

from __future__ import annotations

import re
import secrets
import string
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hoop_core.devstack.vault_plugin.connections import (
    Connect,
    ConnectionConfig,
    Pool,
    PoolClosed,
    connect,
    is_session_over,
)
from hoop_core.devstack.vault_plugin.statements import TemplateRefused, render

RENEW = ("ALTER USER {{name}} SET DAYS_TO_EXPIRY = {{expiration}}",)
ROTATE_PASSWORD = ("ALTER USER {{name}} SET PASSWORD = '{{password}}'",)
ROTATE_KEY = ("ALTER USER {{name}} SET RSA_PUBLIC_KEY = '{{public_key}}'",)
REVOKE = (
    "ALTER USER IF EXISTS {{name}} SET DISABLED = TRUE",
    "DROP USER IF EXISTS {{name}}",
)
"""Disabling aborts the user's running queries; dropping alone is not documented to."""

_SECONDS_PER_DAY = 86400
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_]")
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,254}\Z")
_ALPHANUMERIC = string.ascii_letters + string.digits


class PluginError(Exception):
    """What OpenBao is told; never contains a password, a key or a connection string."""


@dataclass(frozen=True, slots=True)
class NewUser:
    """One user to make. Exactly one of `password` and `public_key` (PEM) is set."""

    display_name: str
    role_name: str
    expires_at: datetime
    creation: Sequence[str]
    rollback: Sequence[str] = ()
    password: str = ""
    public_key: str = ""


def user_name(display_name: str, role_name: str, *, now: float | None = None) -> str:
    """HashiCorp's default name, `v_<display>_<role>_<20 random>_<unix time>`, as a plain identifier."""
    display, role = (_NOT_PLAIN.sub("_", part[:32]) for part in (display_name, role_name))
    random = "".join(secrets.choice(_ALPHANUMERIC) for _ in range(20))
    return f"v_{display}_{role}_{random}_{int(time.time() if now is None else now)}"


def days_to_expiry(expires_at: datetime, *, now: datetime | None = None) -> str:
    """Whole days, at least one: Snowflake counts days, so this is a backstop and not the lease."""
    left = (expires_at - (now or datetime.now(UTC))).total_seconds()
    if left <= 0:
        raise PluginError("the expiration time lies in the past")
    return str(max(int(left // _SECONDS_PER_DAY), 1))


def key_body(pem: str) -> str:
    """A public key as Snowflake wants it: the PEM without its first and last line."""
    return "\n".join(line for line in pem.splitlines() if line and "-----" not in line)


class SnowflakeUsers:
    """One database configuration. Its methods block, and may be called from several threads."""

    def __init__(self, connect: Connect = connect) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._config: ConnectionConfig | None = None
        self._pool: Pool | None = None

    def initialize(self, data: Mapping[str, Any], *, verify: bool) -> None:
        """Take over a configuration; with `verify`, only after it was seen to work.

        Raises PluginError.
        """
        try:
            config = ConnectionConfig.parse(data)
        except (ValueError, TypeError) as e:
            raise PluginError(str(e)) from None
        pool = Pool(config, self._connect)
        if verify:
            self._explain("verify the connection", config, (), lambda: _run(pool, ["SELECT 1"]))
        with self._lock:
            old, self._pool, self._config = self._pool, pool, config
        if old:
            old.close()

    def create(self, user: NewUser) -> str:
        """Make a user and return its name. When a statement fails the user is dropped again.

        Raises PluginError; the message names the user if it may have been left behind.
        """
        if not any(s.strip() for s in user.creation):
            raise PluginError("creation_statements are empty")
        name = user_name(user.display_name, user.role_name)
        values = _names(name) | {"expiration": days_to_expiry(user.expires_at)}
        if user.public_key:
            values["public_key"] = key_body(user.public_key)
        else:
            values["password"] = user.password
        statements = _render(user.creation, values)
        undo = _render(user.rollback, _names(name)) or _render(REVOKE, _names(name))
        hidden = (user.password, *key_body(user.public_key).splitlines())
        config, pool = self._ready()
        sent: list[str] = []
        try:
            self._explain("create the user", config, hidden, lambda: _run(pool, statements, sent))
        except PluginError as failure:
            if not sent:
                raise
            # Snowflake's DDL commits by itself, and OpenBao keeps no lease for a failed creation.
            # A statement without an answer may have run as well, so one that was sent counts.
            try:
                _run(pool, undo)
            except Exception:
                raise PluginError(
                    f"{failure}; the user {name.upper()} may have been left behind: drop it by hand"
                ) from None
            raise
        return name

    def change_password(self, name: str, password: str, statements: Sequence[str]) -> None:
        """Set a password. Raises PluginError."""
        values = _names(name) | {"password": password}
        self._apply("change the password", statements or ROTATE_PASSWORD, values, (password,))

    def change_public_key(self, name: str, pem: str, statements: Sequence[str]) -> None:
        """Set the public key (PEM). Raises PluginError."""
        values = _names(name) | {"public_key": key_body(pem)}
        self._apply("change the public key", statements or ROTATE_KEY, values)

    def change_expiration(self, name: str, expires_at: datetime, statements: Sequence[str]) -> None:
        """Move the day on which Snowflake itself ends the user. Raises PluginError."""
        values = _names(name) | {"expiration": days_to_expiry(expires_at)}
        self._apply("renew the user", statements or RENEW, values)

    def delete(self, name: str, statements: Sequence[str]) -> None:
        """Disable and drop a user; a user that is already gone is success. Raises PluginError."""
        self._apply("drop the user", statements or REVOKE, _names(name))

    def close(self) -> None:
        """Forget the configuration. Returns at once."""
        with self._lock:
            pool, self._pool, self._config = self._pool, None, None
        if pool:
            pool.close()

    def _apply(
        self,
        what: str,
        templates: Sequence[str],
        values: Mapping[str, str],
        hidden: Iterable[str] = (),
    ) -> None:
        statements = _render(templates, values)
        config, pool = self._ready()
        self._explain(what, config, hidden, lambda: _run(pool, statements))

    def _ready(self) -> tuple[ConnectionConfig, Pool]:
        with self._lock:
            if self._config is None or self._pool is None:
                raise PluginError("the connection has not been initialized")
            return self._config, self._pool

    @staticmethod
    def _explain(
        what: str, config: ConnectionConfig, hidden: Iterable[str], action: Callable[[], None]
    ) -> None:
        """Run `action`; whatever it raises becomes a PluginError without secrets."""
        try:
            action()
        except Exception as e:
            text = " ".join(str(e).split()) or type(e).__name__
            text = scrub(text, (*config.secrets, *hidden))
            raise PluginError(f"unable to {what}: {text}") from None


def scrub(text: str, secrets_: Iterable[str]) -> str:
    """`text` without any of `secrets_`, the longest first."""
    for secret in sorted({s for s in secrets_ if s}, key=len, reverse=True):
        for form in {secret, " ".join(secret.split()), secret.replace("'", "''")}:
            text = text.replace(form, "[hidden]")
    return text


def _names(name: str) -> dict[str, str]:
    # Statements carry the name without quotes, so only a plain identifier can mean itself.
    if not _PLAIN_NAME.match(name):
        raise PluginError("the user name is not a plain Snowflake identifier")
    return {"name": name, "username": name}


def _render(templates: Sequence[str], values: Mapping[str, str]) -> list[str]:
    try:
        return render(templates, values)
    except TemplateRefused as e:
        raise PluginError(str(e)) from None


def _run(pool: Pool, statements: Sequence[str], sent: list[str] | None = None) -> None:
    """Execute in order on one connection; log in again once when the session turns out to be over.

    Each statement is added to `sent` before Snowflake can have seen it.
    """
    done = 0
    for last_attempt in (False, True):
        try:
            with pool.connection() as connection:
                cursor = connection.cursor()
                for statement in statements[done:]:
                    if sent is not None:
                        sent.append(statement)
                    cursor.execute(statement)
                    done += 1
                cursor.close()
                return
        except PoolClosed:
            raise
        except Exception as e:
            if last_attempt or not is_session_over(e):
                raise
            pool.forget_idle()
