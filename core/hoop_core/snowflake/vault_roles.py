"""Vault's side of minting: how its Snowflake engine makes a user, takes it back, and is configured.

https://developer.hashicorp.com/vault/api-docs/secret/databases ·
https://docs.snowflake.com/en/sql-reference/sql/create-user
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from hoop_core.errors import ConfigError
from hoop_core.snowflake.quoting import identifier, remark
from hoop_core.snowflake.setup import SetupNames, check_roles
from hoop_core.snowflake.setup_grants import ReaderRole

REVOCATION_STATEMENTS = (
    "ALTER USER IF EXISTS {{name}} SET DISABLED = TRUE",
    "DROP USER IF EXISTS {{name}}",
)
"""Disabling aborts what the user runs; dropping alone is not documented to."""

_VAULT_NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]*\w)?\Z", re.ASCII)


def creation_statements(role: str, warehouse: str, network_policy: str) -> list[str]:
    """A service user with a public key, one role, no secondary ones, and the network policy from birth.

    `{{name}}` stays unquoted: in quotes Snowflake would store it in mixed case, and the revocation
    would miss it. Whole days are all that DAYS_TO_EXPIRY counts: it is the last resort, not the lease.
    Raises ConfigError for names that mean something to Vault's template.
    """
    role, warehouse, policy = (_untemplated(n) for n in (role, warehouse, network_policy))
    return [
        "CREATE USER {{name}} TYPE = SERVICE RSA_PUBLIC_KEY = '{{public_key}}' "
        f"DEFAULT_ROLE = {role} DEFAULT_SECONDARY_ROLES = () DEFAULT_WAREHOUSE = {warehouse} "
        f"NETWORK_POLICY = {policy} DAYS_TO_EXPIRY = {{{{expiration}}}} "
        "COMMENT = 'Minted for one session of Hoop'",
        f"GRANT ROLE {role} TO USER {{{{name}}}}",
    ]


def role_definition(
    role: str, warehouse: str, network_policy: str, *, connection: str, ttl: str = "4h"
) -> dict[str, Any]:
    """The body for `database/roles/NAME`. Raises ConfigError."""
    return {
        "db_name": connection,
        "credential_type": "rsa_private_key",
        "credential_config": {"key_bits": "2048", "format": "pkcs8"},
        "creation_statements": creation_statements(role, warehouse, network_policy),
        "revocation_statements": list(REVOCATION_STATEMENTS),
        "default_ttl": ttl,
        "max_ttl": ttl,
    }


def gateway_policy(
    mounts: Mapping[str, Iterable[str]],
    *,
    data_keys: Iterable[str] = (),
    signing: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """Least privilege of the gateway, as the paths of a Vault policy: mint, revoke, see what Vault gave
    up to revoke, and have data keys made; nothing else. `mounts` has the Vault roles of each database mount, `data_keys`
    transit keys as `mount/datakey/plaintext/name`: what they wrap the gateway cannot unwrap again. `signing` is the
    transit mount and the key that signs the log.
    """
    creds = sorted(f"{mount}/creds/{role}" for mount, roles in mounts.items() for role in roles)
    signs: dict[str, Any] = {}
    if signing is not None:
        mount, key = signing
        signs = {
            f"{mount}/sign/{key}": {"capabilities": ["update"]},
            f"{mount}/keys/{key}": {"capabilities": ["read"]},  # its public half
        }
    return {
        **signs,
        **{path: {"capabilities": ["read"]} for path in creds},
        **{path: {"capabilities": ["update"]} for path in sorted(data_keys)},
        # The lease is named in the body: without these bounds the path alone would allow any lease.
        "sys/leases/revoke": {
            "capabilities": ["update"],
            "required_parameters": ["lease_id"],
            "allowed_parameters": {
                "lease_id": [f"{mount}/creds/*" for mount in sorted(mounts)],
                "sync": [],
            },
        },
        # The list of leases that Vault gave up to revoke.
        "sys/leases": {"capabilities": ["read", "list", "sudo"]},
        # Each user is asked for with a token that bears the beginning of its name.
        "auth/token/create": {
            "capabilities": ["update"],
            "required_parameters": ["display_name"],
            "allowed_parameters": {"display_name": ["hoop-*"], "no_default_policy": []},
        },
        # And with the end of that token ends a user of whom Vault's answer was lost.
        "auth/token/revoke-accessor": {"capabilities": ["update"]},
        "auth/token/revoke-self": {"capabilities": ["update"]},
    }


def vault_bodies(
    names: SetupNames, readers: Iterable[ReaderRole], observer_vault_role: str, connection: str
) -> dict[str, Mapping[str, Any]]:
    """Path in Vault to the body that is written there. Raises ConfigError."""
    readers = tuple(readers)
    check_roles(names, readers)
    wanted: dict[str, tuple[str, str]] = {}
    for reader in readers:
        found = (reader.snowflake_role, reader.warehouse or names.warehouse)
        if wanted.setdefault(reader.vault_role, found) != found:
            raise ConfigError(
                f"The policy gives the Vault role `{remark(reader.vault_role)}` two meanings.",
                "One Vault role mints users of one Snowflake role and warehouse.",
            )
    if observer_vault_role in wanted:
        raise ConfigError(f"The Vault role `{remark(observer_vault_role)}` is the observer's own.")
    wanted[observer_vault_role] = (names.observer_role, names.warehouse)
    for name in (*wanted, connection):
        if not _VAULT_NAME.match(name):
            raise ConfigError(
                f"`{remark(name)}` cannot be a name in Vault.",
                "Use letters, digits, `-`, `_` and `.`.",
            )
    config = {
        "plugin_name": "snowflake-database-plugin",
        "connection_url": "ORGANIZATION-ACCOUNT.snowflakecomputing.com/"
        f"?role={names.minter_role}&warehouse={names.warehouse}",
        "username": names.minter_user,
        "private_key": "@vault-minter-private-key.pem",
        "allowed_roles": sorted(wanted),
    }
    return {
        f"database/config/{connection}": config,
        **{
            f"database/roles/{name}": role_definition(
                role, warehouse, names.network_policy, connection=connection
            )
            for name, (role, warehouse) in wanted.items()
        },
    }


def as_commands(bodies: Mapping[str, Mapping[str, Any]]) -> str:
    """`vault write` lines. The configuration takes the private key from a file, never from the text."""
    out = ["# Hoop: run where Vault's administrator works. Put your account into connection_url."]
    for path, body in bodies.items():
        plain = {k: v for k, v in body.items() if isinstance(v, str)}
        if "private_key" in plain:
            words = [f"{k}={v}" for k, v in plain.items()]
            words.append("allowed_roles=" + ",".join(body["allowed_roles"]))
            out.append(" \\\n  ".join(["vault write", path, *map(shlex.quote, words)]))
        else:
            # JSON has no line of its own that could end the document.
            out.append(
                f"vault write {path} - <<'END_OF_ROLE'\n{json.dumps(body, indent=2)}\nEND_OF_ROLE"
            )
    return "\n".join([*out, ""])


def _untemplated(name: str) -> str:
    """Vault splits statements at semicolons wherever they stand, and fills in what stands in braces."""
    if any(c in name for c in "{};"):
        raise ConfigError(
            f"The name `{remark(name)}` has a meaning in Vault's statements.",
            "Rename the object: no braces and no semicolons.",
        )
    return identifier(name)
