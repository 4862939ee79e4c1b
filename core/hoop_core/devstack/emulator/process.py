"""The stand-in as a process of its own, seeded with fresh credentials: for tests and experiments."""

from __future__ import annotations

import json
import os
import secrets
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from hoop_core.devstack.processes import LOOPBACK, Part, free_port

START_SECONDS = 60.0
_OK = frozenset({200})


@dataclass(frozen=True, slots=True)
class Running:
    """A started stand-in and how its first two users sign in."""

    port: int
    log: Path
    admin_user: str
    admin_password: str = field(repr=False)
    vault_user: str
    vault_key: bytes = field(repr=False)
    """DER, PKCS#8, not encrypted: what the connector takes as `private_key`."""
    host: str = LOOPBACK
    account: str = "HOOPDEV"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def options(self, **more: Any) -> dict[str, Any]:
        """Arguments for `snowflake.connector.connect`; the administrator unless `user` is given."""
        base = {
            "host": self.host,
            "port": self.port,
            "protocol": "http",
            "account": self.account,
            "login_timeout": 20,
        }
        if "user" not in more:
            base |= {"user": self.admin_user, "password": self.admin_password}
        return base | more

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
        seconds: float = 30.0,
    ) -> dict[str, Any]:
        """One exchange of the drivers' protocol; the answer's JSON."""
        headers = {"Authorization": f'Snowflake Token="{token}"'} if token else {}
        with httpx.Client(trust_env=False, timeout=seconds) as client:
            response = client.request(method, self.url + path, json=body, headers=headers)
        answer = response.json()
        if not isinstance(answer, dict):
            raise ValueError("the answer is no JSON object")
        return answer

    def sign_in(self, data: Mapping[str, Any] | None = None, query: str = "") -> dict[str, Any]:
        """A login-request, by default the administrator's; `data` replaces or adds fields."""
        base = {
            "ACCOUNT_NAME": self.account,
            "LOGIN_NAME": self.admin_user,
            "PASSWORD": self.admin_password,
            "CLIENT_APP_ID": "PythonConnector",
            "CLIENT_APP_VERSION": "0",
        }
        path = f"/session/v1/login-request?requestId={uuid.uuid4()}{query}"
        return self.call("POST", path, {"data": {**base, **(data or {})}})

    def query(
        self, token: str, sql: str, *, request_id: str | None = None, **body: Any
    ) -> dict[str, Any]:
        """A query-request; its answer may be "in progress"."""
        path = f"/queries/v1/query-request?requestId={request_id or uuid.uuid4()}"
        return self.call("POST", path, {"sqlText": sql, **body}, token=token)


def key_pair() -> tuple[bytes, str]:
    """A new RSA key: private as DER (PKCS#8), public as the body of a PEM file."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, "".join(pem.decode().splitlines()[1:-1])


@contextmanager
def running(directory: Path, *arguments: str) -> Iterator[Running]:
    """Starts the stand-in with `arguments` and stops it at the end. Raises PartFailed."""
    private, public = key_pair()
    found = Running(
        port=free_port(),
        log=directory / "emulator.log",
        admin_user="HOOP_ADMIN",
        admin_password=secrets.token_urlsafe(16),
        vault_user="VAULT_MINTER_SVC",
        vault_key=private,
    )
    bootstrap = directory / "bootstrap.json"
    content = {
        "admin_user": found.admin_user,
        "admin_password": found.admin_password,
        "vault_user": found.vault_user,
        "vault_public_key": f"-----BEGIN PUBLIC KEY-----\n{public}\n-----END PUBLIC KEY-----\n",
    }
    descriptor = os.open(bootstrap, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file)
    command = [
        *(sys.executable, "-m", "hoop_core.devstack.emulator"),
        *("--port", str(found.port), "--bootstrap", str(bootstrap)),
        *arguments,
    ]
    environment = {"TMPDIR": str(directory)}  # fakesnow leaves a folder there
    part = Part(
        "The Snowflake stand-in",
        command,
        log=found.log,
        directory=directory,
        environment=environment,
    )
    part.start()
    try:
        part.wait_healthy(f"{found.url}/healthz", seconds=START_SECONDS, accept=_OK)
        yield found
    finally:
        part.stop()
        bootstrap.unlink(missing_ok=True)
