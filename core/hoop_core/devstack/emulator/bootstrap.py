"""How the account begins: the administrator, Vault's minter, the history, and the demo world.

Everything after the first user goes through the same account statements that a client may send.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hoop_core.devstack.demo_data import TABLES, load
from hoop_core.devstack.emulator import account_sql
from hoop_core.devstack.emulator.accounts import (
    Account,
    Kind,
    Password,
    Securable,
    User,
    load_public_key,
)
from hoop_core.devstack.emulator.engine import Engine
from hoop_core.devstack.emulator.errors import SqlError
from hoop_core.devstack.emulator.execution import Executor
from hoop_core.devstack.emulator.history import DATABASE, SCHEMA, VIEWS, History
from hoop_core.devstack.emulator.sessions import Session, Sessions
from hoop_core.errors import ConfigError

_KEYS = {"admin_user", "admin_password", "vault_user", "vault_public_key"}


@dataclass(frozen=True, slots=True)
class Bootstrap:
    admin_user: str
    admin_password: str = field(repr=False)
    vault_user: str
    vault_public_key: str
    """PEM"""


def read(path: Path) -> Bootstrap:
    """Raises ConfigError for a file that others may read, or that does not hold exactly the keys."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise ConfigError(
                f"The bootstrap file {path} may be read by others (mode {mode:o}).",
                "It holds a password: give it mode 0600.",
            )
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"The bootstrap file {path} cannot be read: {e.strerror}.") from None
    except ValueError:
        raise ConfigError(f"The bootstrap file {path} is not JSON.") from None
    if not isinstance(found, dict) or set(found) != _KEYS:
        wanted = ", ".join(sorted(_KEYS))
        raise ConfigError(f"The bootstrap file {path} must hold exactly: {wanted}.")
    for key, value in found.items():
        if not isinstance(value, str) or not value:
            raise ConfigError(f"The bootstrap file {path}: {key} must be a string.")
    for key in ("admin_user", "vault_user"):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_$]*", found[key]):
            raise ConfigError(f"The bootstrap file {path}: {key} must be a plain name.")
    return Bootstrap(**found)


def history_of(account: Account, engine: Engine) -> History:
    """Makes SNOWFLAKE.ACCOUNT_USAGE, readable by ACCOUNTADMIN."""
    engine.create_database(DATABASE)
    engine.create_schema(DATABASE, SCHEMA)
    history = History(engine.cursor())
    database = Securable(Kind.DATABASE, (DATABASE,))
    account.created(database, "")
    account.created(Securable(Kind.SCHEMA, (DATABASE, SCHEMA)), "")
    for view in VIEWS:
        account.created(Securable(Kind.TABLE, (DATABASE, SCHEMA, view)), "")
    account.grant("IMPORTED PRIVILEGES", database, "ACCOUNTADMIN", by="")
    return history


def _minter(b: Bootstrap) -> Iterable[str]:
    """Least privilege of Vault: make users, and hand on the roles that it owns."""
    body = "".join(
        line for line in b.vault_public_key.strip().splitlines() if not line.startswith("-----")
    )
    return (
        "CREATE ROLE VAULT_MINTER COMMENT = 'Vault makes and drops users with this role'",
        "GRANT ROLE VAULT_MINTER TO ROLE SECURITYADMIN",
        "GRANT CREATE USER ON ACCOUNT TO ROLE VAULT_MINTER",
        f"CREATE USER {b.vault_user} TYPE = SERVICE RSA_PUBLIC_KEY = '{body}' "
        "DEFAULT_ROLE = VAULT_MINTER COMMENT = 'the credential broker'",
        f"GRANT ROLE VAULT_MINTER TO USER {b.vault_user}",
    )


_ROLES = ("ML_READER", "PII_READER", "HOOP_OBSERVER")
_PLACES = (
    "CREATE DATABASE PROD",
    "CREATE SCHEMA PROD.CRM",
    "CREATE SCHEMA PROD.FEATURES",
    "CREATE SCHEMA PROD.HR",
    "CREATE WAREHOUSE ML_WH WAREHOUSE_SIZE = 'XSMALL' AUTO_SUSPEND = 60",
)
_GRANTS = (
    *(
        f"GRANT {privilege} TO ROLE {role}"
        for role in ("ML_READER", "PII_READER")
        for privilege in (
            "USAGE ON DATABASE PROD",
            "USAGE ON SCHEMA PROD.CRM",
            "USAGE ON SCHEMA PROD.FEATURES",
            "USAGE ON WAREHOUSE ML_WH",
            "SELECT ON ALL TABLES IN SCHEMA PROD.CRM",
            "SELECT ON FUTURE TABLES IN SCHEMA PROD.CRM",
            "SELECT ON ALL TABLES IN SCHEMA PROD.FEATURES",
            "SELECT ON FUTURE TABLES IN SCHEMA PROD.FEATURES",
        )
    ),
    *(
        f"GRANT INSERT, UPDATE, DELETE, TRUNCATE ON {scope} TABLES IN SCHEMA PROD.FEATURES "
        "TO ROLE ML_READER"
        for scope in ("ALL", "FUTURE")
    ),
    "GRANT CREATE TABLE ON SCHEMA PROD.FEATURES TO ROLE ML_READER",
    "GRANT USAGE ON DATABASE PROD TO ROLE HOOP_OBSERVER",
    *(
        f"GRANT USAGE ON SCHEMA PROD.{schema} TO ROLE HOOP_OBSERVER"
        for schema in ("PUBLIC", "CRM", "FEATURES", "HR")
    ),
    "GRANT REFERENCES ON ALL TABLES IN DATABASE PROD TO ROLE HOOP_OBSERVER",
    "GRANT REFERENCES ON FUTURE TABLES IN DATABASE PROD TO ROLE HOOP_OBSERVER",
)


class World:
    """Builds the account. `run` acts as a role, without a user behind it."""

    def __init__(
        self, account: Account, sessions: Sessions, engine: Engine, executor: Executor
    ) -> None:
        self._account = account
        self._engine = engine
        self._executor = executor
        self._administration = executor.administration
        nobody = User("", "", "ACCOUNTADMIN", datetime.now(UTC))
        self._session = Session(0, nobody, "ACCOUNTADMIN", False, engine.connect())

    def run(self, role: str, statements: Iterable[str]) -> None:
        self._session.role = role
        for sql in statements:
            parsed = account_sql.parse(account_sql.tokens_of(sql))
            if parsed is None:
                raise ConfigError(f"Not an account statement: {sql}")
            self._administration.run(parsed, self._session)

    def begin(self, b: Bootstrap) -> None:
        """The administrator and Vault's minter. Raises ConfigError for a key that is none."""
        admin = User(b.admin_user.upper(), b.admin_user.upper(), "ACCOUNTADMIN", datetime.now(UTC))
        admin.type = "PERSON"
        admin.password = Password.of(b.admin_password)
        admin.properties = {"DEFAULT_ROLE": "ACCOUNTADMIN", "DEFAULT_WAREHOUSE": "ML_WH"}
        admin.roles = {"ACCOUNTADMIN": ""}
        self._account.users[admin.name] = admin
        self._account.created(Securable(Kind.USER, (admin.name,)), "ACCOUNTADMIN")
        try:
            load_public_key("".join(_pem_body(b.vault_public_key)), "RSA_PUBLIC_KEY")
        except SqlError:
            text = (
                "The bootstrap file's vault_public_key is no RSA public key of 2048 bits or more."
            )
            raise ConfigError(text, "Give it as PEM.") from None
        self.run("SECURITYADMIN", _minter(b))

    def demo(self) -> None:
        """The demo world: places, roles, data and grants. Everything belongs to SYSADMIN."""
        self.run("SYSADMIN", _PLACES)
        with self._engine.cursor() as cursor:
            load(cursor)
        for name in TABLES:
            self._account.created(Securable(Kind.TABLE, name), "SYSADMIN")
        for role in _ROLES:
            self.run(
                "SECURITYADMIN",
                (
                    f"CREATE ROLE {role}",
                    f"GRANT ROLE {role} TO ROLE SYSADMIN",
                    f"GRANT OWNERSHIP ON ROLE {role} TO ROLE VAULT_MINTER",
                ),
            )
        self.run("SECURITYADMIN", _GRANTS)


def _pem_body(pem: str) -> list[str]:
    return [line for line in pem.strip().splitlines() if not line.startswith("-----")]
