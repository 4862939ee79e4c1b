"""Sets the embedded OpenBao up: issuer, identities, the gateway's role, the Snowflake engine.

The root token is made at initialisation, stays in this process and is revoked at the end. The unseal key
stays in this process too, for a server that works on files. Afterwards everything is reached with an OIDC token that OpenBao
issues to an identity, or with the short Vault token that such a token buys.

https://openbao.org/api-docs/secret/identity/tokens · auth/jwt · secret/databases
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import hvac
import requests
from hvac.exceptions import VaultError

from hoop_core.credentials.vault_plan import RECORDINGS_KEY
from hoop_core.devstack.openbao import PLUGIN_NAME, PluginCommand
from hoop_core.errors import VaultUnavailable
from hoop_core.snowflake.setup import SetupNames
from hoop_core.snowflake.vault_roles import gateway_policy, role_definition

USER_AUDIENCE, WORKLOAD_AUDIENCE = "hoop", "vault"
GATEWAY = "hoop-gateway"
GROUPS: Mapping[str, tuple[str, ...]] = {
    "ml-agents": ("churn-agent",),
    "data-owners": ("alice", "bob"),
    "pii-readers": ("pia",),
    "oncall": ("olga",),
}
USERS = tuple(name for members in GROUPS.values() for name in members)
USER_TOKEN_TTL, WORKLOAD_TOKEN_TTL = "8h", "10m"

_NAMES = SetupNames()
CONNECTION, MINTER = "snowflake", _NAMES.minter_user
NETWORK_POLICY = _NAMES.network_policy
SNOWFLAKE_ACCOUNT, WAREHOUSE = "HOOPDEV", _NAMES.warehouse
VAULT_ROLES: Mapping[str, str] = {
    "ml-reader": "ML_READER",
    "pii-reader": "PII_READER",
    "hoop-observer": _NAMES.observer_role,
}
"""Vault role to Snowflake role."""

RECORDINGS = "hoop-recordings"
"""The transit key for those who set `store.recordings_key` to it."""

_TIMEOUT_SECONDS = 30
_POLL_SECONDS = 0.05
_KEY = "hoop"
_BRIEF = "hoop-brief"


class SetupFailed(VaultUnavailable):
    """OpenBao refused a step of its own setup."""


@dataclass(frozen=True, slots=True)
class Identities:
    """How the stack itself signs in as one of its identities. Lives in memory only."""

    address: str
    passwords: Mapping[str, str] = field(repr=False)

    def token(self, name: str, *, brief: bool = False) -> str:
        """A fresh OIDC token: 8 hours for a user (aud `hoop`), 10 minutes for the gateway (aud
        `vault`). A brief one of a user lives for one second: how expiry is tried out.

        Raises KeyError for an unknown identity, VaultUnavailable when OpenBao does not answer.
        """
        password = self.passwords[name]
        role = WORKLOAD_AUDIENCE if name == GATEWAY else _BRIEF if brief else USER_AUDIENCE
        client = _client(self.address)
        try:
            client.auth.userpass.login(name, password)
            answer = client.read(f"identity/oidc/token/{role}")
            return str(answer["data"]["token"])
        except (VaultError, requests.RequestException, TypeError, KeyError) as e:
            raise VaultUnavailable(
                f"OpenBao gave no token for {name} ({type(e).__name__}).",
                "See the log of OpenBao; `hoop dev down` and `hoop dev up` start it anew.",
            ) from None


@dataclass(frozen=True, slots=True)
class SnowflakeTarget:
    """Where the engine mints users, and as whom. `private_key` is PEM (PKCS#8)."""

    host: str
    port: int
    private_key: str = field(repr=False)

    @property
    def connection_url(self) -> str:
        """gosnowflake's form of a DSN, without credentials."""
        return (
            f"{self.host}:{self.port}/PROD?account={SNOWFLAKE_ACCOUNT}&protocol=http"
            f"&role=VAULT_MINTER&warehouse={WAREHOUSE}"
        )


def unseal(address: str, key: str) -> None:
    """Open a server that was set up before, and wait until it serves. Raises SetupFailed."""
    client = _client(address)
    with _explained("unseal OpenBao"):
        client.sys.submit_unseal_key(key)
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while client.sys.read_health_status(method="HEAD").status_code != requests.codes.ok:
            if time.monotonic() > deadline:
                raise SetupFailed(f"OpenBao did not serve {_TIMEOUT_SECONDS} s after unsealing.")
            time.sleep(_POLL_SECONDS)


def issuer(address: str) -> str:
    """The `iss` of every token; OIDC discovery works below it."""
    return f"{address}/v1/identity/oidc"


class VaultSetup:
    """The steps between a bare server and a usable one. Use as a context manager.

    Leaving the block revokes the root token, also after a failure.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = _client(address)
        self.unseal_key = ""

    def __enter__(self) -> VaultSetup:
        with _explained("initialise OpenBao"):
            made = self._client.sys.initialize(secret_shares=1, secret_threshold=1)
            self._client.token = made["root_token"]
            self.unseal_key = str(made["keys"][0])
            unseal(self._address, self.unseal_key)
        return self

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        try:
            with _explained("revoke the root token"):
                self._client.auth.token.revoke_self()
        except SetupFailed:
            # A server that cannot answer has lost its memory, and the token with it.
            if error is None:
                raise
        finally:
            self._client.token = ""

    def identities(self) -> Identities:
        """The OIDC issuer, the entities with their groups, and a way to sign in as each."""
        with _explained("set up the identities"):
            self._issuer()
            accessor = self._enable_userpass()
            passwords, ids = {}, {}
            for name in (*USERS, GATEWAY):
                passwords[name] = secrets.token_urlsafe(32)
                ids[name] = self._identity(name, passwords[name], accessor)
            for group, members in GROUPS.items():
                self._write(
                    "identity/group", name=group, member_entity_ids=[ids[m] for m in members]
                )
            self._gateway_login(ids[GATEWAY])
            return Identities(self._address, passwords)

    def plugin(self, plugin: PluginCommand) -> None:
        """Register the Snowflake plugin and mount the engines; needs no Snowflake yet."""
        with _explained("register the Snowflake plugin"):
            self._write(
                f"sys/plugins/catalog/database/{PLUGIN_NAME}",
                command=plugin.command,
                sha256=plugin.sha256,
            )
            self._client.sys.enable_secrets_engine("database")
            self._client.sys.enable_secrets_engine("transit")
            self._write(f"transit/keys/{RECORDINGS}", **RECORDINGS_KEY)

    def snowflake(self, target: SnowflakeTarget) -> None:
        """Configure the engine and define the Vault roles; Snowflake need not answer yet."""
        with _explained("configure the Snowflake engine"):
            self._connection(target, verify=False)
            for vault_role, snowflake_role in VAULT_ROLES.items():
                definition = role_definition(
                    snowflake_role, WAREHOUSE, NETWORK_POLICY, connection=CONNECTION
                )
                self._write(f"database/roles/{vault_role}", **definition)

    def verify_snowflake(self, target: SnowflakeTarget) -> None:
        """Have the engine sign in to Snowflake once. Raises SetupFailed when it cannot."""
        with _explained("sign in to Snowflake as the minter"):
            # Written again, not reset: a reset ends the plugin's process, which is warm by now.
            self._connection(target, verify=True)

    def _connection(self, target: SnowflakeTarget, *, verify: bool) -> None:
        self._write(
            f"database/config/{CONNECTION}",
            plugin_name=PLUGIN_NAME,
            connection_url=target.connection_url,
            username=MINTER,
            private_key=target.private_key,
            allowed_roles=list(VAULT_ROLES),
            verify_connection=verify,
        )

    def _issuer(self) -> None:
        template = (
            '{"groups": {{identity.entity.groups.names}},'
            ' "preferred_username": {{identity.entity.name}}}'
        )
        self._write("identity/oidc/config", issuer=self._address)
        self._write(
            f"identity/oidc/key/{_KEY}",
            algorithm="RS256",
            rotation_period="24h",
            verification_ttl="24h",
            allowed_client_ids=[USER_AUDIENCE, WORKLOAD_AUDIENCE],
        )
        for role, audience, ttl in (
            (USER_AUDIENCE, USER_AUDIENCE, USER_TOKEN_TTL),
            (_BRIEF, USER_AUDIENCE, "1s"),
            (WORKLOAD_AUDIENCE, WORKLOAD_AUDIENCE, WORKLOAD_TOKEN_TTL),
        ):
            self._write(
                f"identity/oidc/role/{role}",
                key=_KEY,
                client_id=audience,
                ttl=ttl,
                template=base64.b64encode(template.encode()).decode(),
            )
        # A person may get a token for Hoop, and only the gateway one that Vault accepts.
        for audience, roles in (
            (USER_AUDIENCE, (USER_AUDIENCE, _BRIEF)),
            (WORKLOAD_AUDIENCE, (WORKLOAD_AUDIENCE,)),
        ):
            paths = {f"identity/oidc/token/{r}": {"capabilities": ["read"]} for r in roles}
            self._policy(f"oidc-{audience}", paths)

    def _enable_userpass(self) -> str:
        self._client.sys.enable_auth_method("userpass")
        methods = self._client.sys.list_auth_methods()["data"]
        return str(methods["userpass/"]["accessor"])

    def _identity(self, name: str, password: str, accessor: str) -> str:
        """An entity and its sign-in; returns the entity's id, the `sub` of its tokens."""
        audience = WORKLOAD_AUDIENCE if name == GATEWAY else USER_AUDIENCE
        self._write(
            f"auth/userpass/users/{name}",
            password=password,
            token_policies=[f"oidc-{audience}"],
            token_no_default_policy=True,
            token_ttl="60s",  # noqa: S106 (a duration)
            token_max_ttl="60s",  # noqa: S106
            token_num_uses=1,
        )
        entity = str(self._write("identity/entity", name=name)["data"]["id"])
        self._write(
            "identity/entity-alias", name=name, canonical_id=entity, mount_accessor=accessor
        )
        return entity

    def _gateway_login(self, entity: str) -> None:
        self._policy(GATEWAY, GATEWAY_POLICY)
        self._client.sys.enable_auth_method("jwt")
        self._write(
            "auth/jwt/config",
            oidc_discovery_url=issuer(self._address),
            bound_issuer=issuer(self._address),
        )
        self._write(
            f"auth/jwt/role/{GATEWAY}",
            role_type="jwt",
            user_claim="sub",
            bound_subject=entity,
            bound_audiences=[WORKLOAD_AUDIENCE],
            token_policies=[GATEWAY],
            token_no_default_policy=True,
            token_ttl="4h",  # noqa: S106 (a duration; a lease ends with the token that made it)
            token_max_ttl="4h",  # noqa: S106
        )

    def _policy(self, name: str, paths: Mapping[str, Any]) -> None:
        self._write(f"sys/policies/acl/{name}", policy=json.dumps({"path": paths}))

    def _write(self, path: str, **data: Any) -> Any:
        return self._client.write_data(path, data=data)


GATEWAY_POLICY: Mapping[str, Any] = gateway_policy(
    {"database": VAULT_ROLES}, data_keys=[f"transit/datakey/plaintext/{RECORDINGS}"]
)


class _explained:  # noqa: N801 (reads as a statement)
    """Turns OpenBao's errors into SetupFailed, with what was being done."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, VaultError):
            why = "; ".join(str(e) for e in error.errors or []) or type(error).__name__
            raise SetupFailed(f"OpenBao could not {self._what}: {why}.") from None
        if isinstance(error, requests.RequestException):
            raise SetupFailed(
                f"OpenBao did not answer ({type(error).__name__}) while asked to {self._what}."
            ) from None


def _client(address: str) -> Any:
    """A client that takes nothing from the user's environment: no token, namespace, CA or proxy."""
    session = requests.Session()
    session.trust_env = False
    return hvac.Client(
        url=address,
        token="",
        verify=True,
        namespace="",
        session=session,
        timeout=_TIMEOUT_SECONDS,
    )
