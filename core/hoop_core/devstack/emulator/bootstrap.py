"""How the account begins: the administrator, Vault's minter, the history, and the demo world.

Everything after the first user goes through statements that a client may send; the demo world is set up
by the very text that `hoop snowflake setup-sql` prints.
"""

from __future__ import annotations

import json
import re
import stat
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from hoop_core.devstack.demo_data import TABLES, load
from hoop_core.devstack.emulator import account_sql
from hoop_core.devstack.emulator.accounts import (
    Account,
    Kind,
    Securable,
    User,
)
from hoop_core.devstack.emulator.engine import Engine
from hoop_core.devstack.emulator.errors import SqlError
from hoop_core.devstack.emulator.execution import Executor
from hoop_core.devstack.emulator.history import DATABASE, SCHEMA, VIEWS, History
from hoop_core.devstack.emulator.sessions import Session, Sessions
from hoop_core.devstack.emulator.user_keys import Password, load_public_key
from hoop_core.errors import ConfigError
from hoop_core.policy.file import parse_policy
from hoop_core.policy.setup_roles import reader_roles
from hoop_core.snowflake.setup import SetupNames, SetupPlan, sections

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
    """Without the demo world: Vault's user alone, to try minting out."""
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


ADDRESSES = ("127.0.0.1/32",)
"""Where Hoop and Vault come from in the embedded stack."""

_PLACES = (
    "CREATE DATABASE PROD",
    "CREATE SCHEMA PROD.CRM",
    "CREATE SCHEMA PROD.FEATURES",
    "CREATE SCHEMA PROD.HR",
    "CREATE WAREHOUSE ML_WH WAREHOUSE_SIZE = 'XSMALL' AUTO_SUSPEND = 60",
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
        self._sessions = sessions

    def run(self, role: str, statements: Iterable[str]) -> None:
        self._session.role = role
        for sql in statements:
            parsed = account_sql.parse(account_sql.tokens_of(sql))
            if parsed is None:
                raise ConfigError(f"Not an account statement: {sql}")
            self._administration.run(parsed, self._session)

    def script(self, user: User, statements: Iterable[str]) -> None:
        """Statements as a signed-in user sends them, one after the other. Raises ConfigError."""
        connection = self._engine.connect()
        session = Session(self._sessions.next_id(), user, "ACCOUNTADMIN", False, connection)
        for sql in statements:
            query = self._executor.submit(session, str(uuid.uuid4()), {"sqlText": sql})
            query.done.result()
            if query.error is not None:
                raise ConfigError(f"The account's setup failed: {query.error.message} ({sql})")
        self._sessions.end(session)
        connection.close()

    def begin(self, b: Bootstrap) -> None:
        """The administrator. Raises ConfigError for a key of Vault's that is none."""
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

    def minter(self, b: Bootstrap) -> None:
        """Vault's user in an account without anything else."""
        self.run("SECURITYADMIN", _minter(b))

    def demo(self, b: Bootstrap) -> None:
        """Places and data, which belong to SYSADMIN, and what Hoop's setup makes for the demo policy."""
        self.run("SYSADMIN", _PLACES)
        with self._engine.cursor() as cursor:
            load(cursor)
        for name in TABLES:
            self._account.created(Securable(Kind.TABLE, name), "SYSADMIN")
        text = resources.files("hoop_core.devstack").joinpath("demo_policy.yaml").read_text()
        plan = SetupPlan(
            hoop_addresses=ADDRESSES,
            vault_addresses=ADDRESSES,
            vault_key="".join(_pem_body(b.vault_public_key)),
            readers=reader_roles(parse_policy(text, "the demo policy")),
            names=SetupNames(minter_user=b.vault_user.upper()),
        )
        admin = self._account.users[b.admin_user.upper()]
        self.script(admin, (s for part in sections(plan) for s in part.statements))


def _pem_body(pem: str) -> list[str]:
    return [line for line in pem.strip().splitlines() if not line.startswith("-----")]
