"""What Vault must hold for Hoop, and how that differs from what it holds: `hoop vault setup`.

https://developer.hashicorp.com/vault/api-docs/system/policies · auth/jwt · secret/databases
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hoop_core.config import AccountSettings, Settings
from hoop_core.credentials.accounts import configured
from hoop_core.errors import ConfigError
from hoop_core.policy.model import Policy
from hoop_core.policy.setup_roles import reader_roles
from hoop_core.snowflake.setup import SetupNames
from hoop_core.snowflake.vault_roles import gateway_policy, vault_bodies

LEASE_TTL = "4h"
"""A user lives no longer than the token that it was asked for with, so both have the same time."""
RECORDINGS_KEY = {"type": "aes256-gcm96"}
"""Of Vault's transit engine; it never leaves Vault."""
LOG_KEY = {"type": "ed25519", "exportable": False, "allow_plaintext_backup": False}
"""Who could take it out could sign another log."""
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+)([smhd])\Z")


@dataclass(frozen=True, slots=True)
class Workload:
    """How Hoop proves to Vault who it is: what its token must say."""

    audiences: tuple[str, ...]
    subject: str = ""
    claims: Mapping[str, str] = field(default_factory=dict)
    issuer: str = ""
    """Whose tokens the mount takes, by OIDC discovery; empty: the mount is configured already."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One thing that Vault must hold. `secret` values are sent, and neither shown nor compared."""

    path: str
    body: Mapping[str, Any]
    secret: Mapping[str, str] = field(default_factory=dict, repr=False)
    mount: str = ""
    """For a mount that must be there: its type."""


@dataclass(frozen=True, slots=True)
class Difference:
    """`changes` are pairs of what is there and what should be, by key; `new`: nothing is there."""

    wanted: Wanted
    new: bool
    changes: Mapping[str, tuple[Any, Any]]

    @property
    def any(self) -> bool:
        return self.new or bool(self.changes)

    def lines(self) -> Iterator[str]:
        """For people: what would be written."""
        mark = "+" if self.new else "~" if self.changes else "="
        yield f"{mark} {self.wanted.path}"
        for key, (now, then) in self.changes.items():
            if not self.new:
                yield f"    - {key}: {_short(now)}"
            yield f"    + {key}: {_short(then)}"
        if self.any:
            yield from (f"    + {key}: (not shown)" for key in self.wanted.secret)

    def as_json(self) -> dict[str, Any]:
        return {
            "path": self.wanted.path,
            "state": "new" if self.new else "differs" if self.changes else "same",
            "changes": {k: {"now": a, "wanted": b} for k, (a, b) in self.changes.items()},
        }


def plan(
    settings: Settings,
    policy: Policy,
    workload: Workload,
    names: SetupNames,
    *,
    connection: str = "snowflake",
    connection_url: str = "",
    private_key: str = "",
) -> list[Wanted]:
    """Everything that Vault must hold, in the order in which it is written. Raises ConfigError.

    `private_key` is the minter's (PEM); without it a connection that is there keeps its own.
    """
    vault = settings.vault
    if not workload.subject and not workload.claims:
        raise ConfigError(
            "Nothing says which token is Hoop's: anybody whose token has the audience could mint users.",
            "Give --bound-subject, or --bound-claim NAME=VALUE.",
        )
    wanted = [Wanted(f"sys/auth/{vault.auth_mount}", {}, mount="jwt")]
    if workload.issuer:
        config = {"oidc_discovery_url": workload.issuer, "bound_issuer": workload.issuer}
        wanted.append(Wanted(f"auth/{vault.auth_mount}/config", config))
    mounts: dict[str, list[str]] = {}
    for account in configured(settings):
        mount = account.database_mount or vault.database_mount
        bodies = _database(
            settings, policy, account, names, connection=connection, connection_url=connection_url
        )
        if mount in mounts:
            raise ConfigError(
                f"Two accounts share the Vault mount {mount!r}.",
                "Give each further account a database_mount of its own.",
            )
        mounts[mount] = [p.rpartition("/")[2] for p in bodies if "/roles/" in p]
        wanted.append(Wanted(f"sys/mounts/{mount}", {}, mount="database"))
        for path, body in bodies.items():
            plain = {k: v for k, v in body.items() if k != "private_key"}
            own = {"private_key": private_key} if "private_key" in body and private_key else {}
            wanted.append(Wanted(f"{mount}/{path.partition('/')[2]}", plain, own))
    data_keys: list[str] = []
    transit, signing = vault.transit_mount, settings.audit.transit_key
    if settings.store.recordings_key or signing:
        wanted.append(Wanted(f"sys/mounts/{transit}", {}, mount="transit"))
    if signing:
        wanted.append(Wanted(f"{transit}/keys/{signing}", LOG_KEY))
    if settings.store.recordings_key:
        key = settings.store.recordings_key
        wanted.append(Wanted(f"{transit}/keys/{key}", RECORDINGS_KEY))
        data_keys.append(f"{transit}/datakey/plaintext/{key}")
    signs = (transit, signing) if signing else None
    gateway = gateway_policy(mounts, data_keys=data_keys, signing=signs)
    acl = json.dumps({"path": gateway}, indent=1, sort_keys=True)
    wanted.append(Wanted(f"sys/policies/acl/{vault.auth_role}", {"policy": acl}))
    wanted.append(
        Wanted(f"auth/{vault.auth_mount}/role/{vault.auth_role}", _login(settings, workload))
    )
    return wanted


def _database(
    settings: Settings,
    policy: Policy,
    account: AccountSettings,
    names: SetupNames,
    *,
    connection: str,
    connection_url: str,
) -> dict[str, Mapping[str, Any]]:
    """What the mount holds; by paths as if it were called `database`."""
    observer = account.observer_role or settings.vault.observer_role
    bodies = vault_bodies(
        names, reader_roles(policy.for_account(account.account)), observer, connection
    )
    config = dict(bodies[f"database/config/{connection}"])
    config["connection_url"] = connection_url or (
        f"{account.account}.snowflakecomputing.com/"
        f"?role={names.minter_role}&warehouse={names.warehouse}"
    )
    return {**bodies, f"database/config/{connection}": config}


def _login(settings: Settings, workload: Workload) -> dict[str, Any]:
    body: dict[str, Any] = {
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_audiences": list(workload.audiences),
        "token_policies": [settings.vault.auth_role],
        "token_no_default_policy": True,
        "token_ttl": LEASE_TTL,
        "token_max_ttl": LEASE_TTL,
    }
    if workload.subject:
        body["bound_subject"] = workload.subject
    if workload.claims:
        body["bound_claims"] = dict(workload.claims)
    return body


def difference(wanted: Wanted, found: Mapping[str, Any] | None) -> Difference:
    """`found` is what Vault answers for the path; None: nothing. Keys that Hoop does not set do not count."""
    if found is None:
        return Difference(wanted, True, {k: (None, v) for k, v in wanted.body.items()})
    flat = {**found, **(found.get("connection_details") or {})}
    changes = {
        key: (flat.get(key), value)
        for key, value in wanted.body.items()
        if _plain(flat.get(key)) != _plain(value)
    }
    return Difference(wanted, False, changes)


def as_commands(wanted: Iterable[Wanted]) -> str:
    """`vault` command lines for an administrator. No secret is in the text."""
    out = ["# Hoop: run where Vault's administrator works."]
    for each in wanted:
        if each.mount:
            verb, _, path = each.path.removeprefix("sys/").partition("/")
            enable = "auth" if verb == "auth" else "secrets"
            out.append(f"vault {enable} enable -path={shlex.quote(path)} {each.mount}")
        elif "connection_url" in each.body:
            words = [f"{k}={_word(v)}" for k, v in each.body.items()]
            words.append("private_key=@vault-minter-private-key.pem")
            out.append(" \\\n  ".join(["vault write", each.path, *map(shlex.quote, words)]))
        else:
            # JSON has no line of its own that could end the document.
            body = json.dumps(each.body, indent=2)
            out.append(f"vault write {each.path} - <<'END_OF_BODY'\n{body}\nEND_OF_BODY")
    return "\n".join([*out, ""])


def _word(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def _plain(value: Any) -> Any:
    """Values as they are compared: Vault answers durations in seconds, and policies as they came."""
    if isinstance(value, bool) or value is None:
        return bool(value)
    if isinstance(value, (int, float)):
        return str(int(value))
    if isinstance(value, str):
        duration = _DURATION.match(value)
        if duration:
            return str(int(duration[1]) * _SECONDS[duration[2]])
        if value.lstrip().startswith("{"):
            try:
                return json.loads(value)
            except ValueError:
                return value
        return value
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        plain = [_plain(v) for v in value]
        return sorted(plain) if all(isinstance(v, str) for v in plain) else plain
    return value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    text = " ".join(text.split())
    return text if len(text) <= 160 else f"{text[:157]}..."
