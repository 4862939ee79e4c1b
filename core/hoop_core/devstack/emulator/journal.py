"""What outlives the stand-in's process when it is asked to keep something: users, queries and sign-ins.

An append-only file of one JSON object a line, on disk before a statement begins and before it is answered, so
that a stand-in that is killed and started again knows who exists and what was run. Everything else (tables,
roles, sessions) begins anew as it was seeded.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hoop_core.devstack.emulator.accounts import Account, Kind, Securable, User
from hoop_core.devstack.emulator.user_keys import Password, load_public_key
from hoop_core.errors import ConfigError

Json = dict[str, Any]
_CUT_SHORT = {
    "EXECUTION_STATUS": "INCIDENT",
    "ERROR_CODE": "000603",
    "ERROR_MESSAGE": "SQL execution internal error: the server ended.",
}


class Journal:
    """One file, mode 0600, for one process at a time."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a last line that was not written to its end is cut off. Raises ConfigError."""
        self._lock = threading.Lock()
        self._written: dict[str, Json] = {}
        """Users as the file knows them."""
        self._queries: dict[str, Json] = {}
        self._logins: list[Json] = []
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        os.ftruncate(self._file, whole)
        try:
            for line in content[:whole].splitlines():
                self._read(json.loads(line))
        except (ValueError, KeyError, TypeError):
            raise ConfigError(
                f"The journal {path} is not one of the Snowflake stand-in.",
                "Move it away to begin with an account as it is seeded.",
            ) from None

    def _read(self, record: Json) -> None:
        if "user" in record:
            self._written[record["user"]["name"]] = record["user"]
        elif "dropped" in record:
            del self._written[record["dropped"]]
        elif "login" in record:
            self._logins.append(record["login"])
        elif "ended" in record:
            self._queries[record["ended"]["QUERY_ID"]] = record["ended"]
        else:
            began = record["began"]
            self._queries[began["QUERY_ID"]] = {**began, **_CUT_SHORT}

    # -- users ----------------------------------------------------------------------------------
    def restore(self, account: Account) -> None:
        """The users of a file that has some take the place of those that the account began with."""
        if self._written:
            for name in list(account.users):
                account.users.pop(name).dropped = True
                account.forget(Securable(Kind.USER, (name,)))
        for record in self._written.values():
            _restore(account, record)
        account.on_change = lambda: self._users(account)
        self._users(account)

    def _users(self, account: Account) -> None:
        """Write what has changed. Under the account's lock."""
        now = {name: _described(account, user) for name, user in account.users.items()}
        changed: list[Json] = [{"dropped": n} for n in self._written.keys() - now.keys()]
        changed += [{"user": u} for n, u in now.items() if self._written.get(n) != u]
        self._append(changed)
        self._written = now

    # -- history --------------------------------------------------------------------------------
    def queries(self) -> Iterator[Json]:
        """Of earlier processes, in order. What one of them did not end is an incident."""
        yield from self._queries.values()
        self._queries.clear()

    def logins(self) -> Iterator[Json]:
        yield from self._logins
        self._logins.clear()

    def began(self, event: Mapping[str, Any]) -> None:
        self._append([{"began": event}])

    def ended(self, event: Mapping[str, Any]) -> None:
        self._append([{"ended": event}])

    def login(self, event: Mapping[str, Any]) -> None:
        self._append([{"login": event}])

    def _append(self, records: Iterable[Json]) -> None:
        text = "".join(json.dumps(r, default=_moment) + "\n" for r in records)
        if text:
            with self._lock:
                os.write(self._file, text.encode())
                os.fsync(self._file)


def _moment(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"a journal holds no {type(value).__name__}")


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _described(account: Account, user: User) -> Json:
    on = Securable(Kind.USER, (user.name,))
    password = user.password
    return {
        "name": user.name,
        "login_name": user.login_name,
        "owner": user.owner,
        "created_on": user.created_on.isoformat(),
        "type": user.type,
        "properties": dict(user.properties),
        "parameters": dict(user.parameters),
        "password": password and [_text(password.salt), _text(password.digest)],
        "public_keys": {
            k: _text(v.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
            for k, v in user.public_keys.items()
        },
        "disabled": user.disabled,
        "must_change_password": user.must_change_password,
        "expires_at": user.expires_at and user.expires_at.isoformat(),
        "roles": dict(user.roles),
        "secondary_roles": user.secondary_roles,
        "last_success_login": user.last_success_login and user.last_success_login.isoformat(),
        "authentication_policy": user.authentication_policy and list(user.authentication_policy),
        "owned_by": account.owners.get(on),
        "grants": [
            [g.privilege, g.role, g.granted_by, g.grant_option] for g in account.grants_on(on)
        ],
    }


def _restore(account: Account, record: Json) -> None:
    kept = dict(record)
    on = Securable(Kind.USER, (kept["name"],))
    owner, grants = kept.pop("owned_by"), kept.pop("grants")
    created, password = kept.pop("created_on"), kept.pop("password")
    policy = kept.pop("authentication_policy")
    user = User(
        **kept
        | {
            "created_on": datetime.fromisoformat(created),
            "password": password and Password(*map(base64.b64decode, password)),
            "public_keys": {k: load_public_key(v, k) for k, v in kept["public_keys"].items()},
            "expires_at": _time(kept["expires_at"]),
            "last_success_login": _time(kept["last_success_login"]),
            "authentication_policy": policy and tuple(policy),
        }
    )
    account.users[user.name] = user
    if owner is not None:
        account.owners[on] = owner
    for privilege, role, by, option in grants:
        account.grant(privilege, on, role, by=by, option=option)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
