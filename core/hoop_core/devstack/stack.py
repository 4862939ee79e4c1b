"""The embedded stack as one object: emulator, OpenBao with its plugin, and the gateway.

    with DevStack(home) as stack:
        stack.info.gateway_url, stack.token("alice"), ...

The parts are subprocesses on free loopback ports and end with the process that holds the DevStack.
Their state is in memory, so stopping the emulator or OpenBao forgets everything that it knew; those of a
`durable` stack can be killed and started again, and still know what users and leases there are.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from hoop_core.devstack.front_door import CLIENT, FrontDoor
from hoop_core.devstack.openbao import OpenBao
from hoop_core.devstack.processes import LOOPBACK, Part, free_port, write_private
from hoop_core.devstack.replica import Replica
from hoop_core.devstack.vault_setup import (
    GATEWAY,
    MINTER,
    SNOWFLAKE_ACCOUNT,
    USER_AUDIENCE,
    Identities,
    SnowflakeTarget,
    VaultSetup,
    issuer,
    unseal,
)
from hoop_core.devstack.workload import WorkloadToken
from hoop_core.errors import ConfigError, HoopError

AGENT, APPROVER, APPROVER2, PII_READER = "churn-agent", "alice", "bob", "pia"
_PEOPLE = {
    APPROVER: "data owner: approves",
    APPROVER2: "data owner: approves, too",
    PII_READER: "may see personal data",
    AGENT: "the job that asks",
}
ADMIN = "HOOP_ADMIN"
UI_PATH = "/"

_START_SECONDS = 30.0
_HEALTHY = frozenset({200})
_GATEWAY_STOP_SECONDS = 30.0
"""The gateway revokes the users that it minted before it ends."""

Progress = Callable[[str], None]


class StackRunning(HoopError):
    """Another process runs a stack in this home."""

    reason = "STACK_RUNNING"


@dataclass(frozen=True, slots=True)
class StackInfo:
    """Where everything is, and tokens of the demo identities (8 hours). Gateway fields are empty
    and 0 without a gateway."""

    home: Path
    gateway_url: str
    gateway_host: str
    gateway_port: int
    ui_url: str
    vault_addr: str
    issuer: str
    snowflake_account: str
    snowflake_host: str
    snowflake_port: int
    admin_user: str
    config_file: Path
    policy_file: Path
    admin_password: str = field(repr=False)
    token_agent: str = field(repr=False)
    token_approver: str = field(repr=False)
    token_approver2: str = field(repr=False)
    token_pii_reader: str = field(repr=False)

    @property
    def snowflake_url(self) -> str:
        return f"http://{self.snowflake_host}:{self.snowflake_port}"

    def env(self) -> dict[str, str]:
        """What `hoop dev up --env-file` writes. Holds secrets: keep it in a 0600 file."""
        gateway = {
            "HOOP_GATEWAY_URL": self.gateway_url,
            "HOOP_GATEWAY_HOST": self.gateway_host,
            "HOOP_GATEWAY_PORT": str(self.gateway_port),
            "HOOP_UI_URL": self.ui_url,
        }
        return (gateway if self.gateway_url else {}) | {
            "HOOP_CONFIG": str(self.config_file),
            "HOOP_TOKEN_AGENT": self.token_agent,
            "HOOP_TOKEN_APPROVER": self.token_approver,
            "HOOP_TOKEN_APPROVER2": self.token_approver2,
            "HOOP_TOKEN_PII_READER": self.token_pii_reader,
            "VAULT_ADDR": self.vault_addr,
            "SNOWFLAKE_ACCOUNT": self.snowflake_account,
            "SNOWFLAKE_HOST": self.snowflake_host,
            "SNOWFLAKE_PORT": str(self.snowflake_port),
            "SNOWFLAKE_ADMIN_USER": self.admin_user,
            "SNOWFLAKE_ADMIN_PASSWORD": self.admin_password,
        }


class DevStack:
    """Starts, holds and stops the stack. One thread at a time may use it."""

    def __init__(
        self,
        home: Path,
        *,
        gateway: bool = True,
        policy: Path | None = None,
        store: str = "",
        durable: bool = False,
        minting_port: int = 0,
    ) -> None:
        """`policy` replaces the demo policy, and `store` the SQLite file. Nothing is written before start().

        `minting_port` is where Vault's plugin finds Snowflake when that is not the emulator itself (a proxy).
        """
        self.home = home.resolve()
        self.store_url = store or f"sqlite:///{self.home / 'hoop.db'}"
        self.config_file = self.home / "hoop.toml"
        self.policy_file = self.home / "policy.yaml"
        self._given_policy, self._with_gateway = policy, gateway
        self._lock: int | None = None
        self.replicas: list[Replica] = []
        self._info: StackInfo | None = None
        self._identities: Identities | None = None
        self._admin_password = secrets.token_urlsafe(24)
        self._private_key, self._public_key = _key_pair()
        self._emulator_port, self._gateway_port = free_port(), free_port()
        self._minting_port = minting_port or self._emulator_port
        self._unseal_key = ""
        logs = self.home / "logs"
        self._bootstrap = self.home / "emulator-bootstrap.json"
        self._journal = self.home / "emulator.journal"
        self._scratch = self.home / "emulator-scratch"
        self.openbao = OpenBao(
            self.home / "openbao", port=free_port(), log=logs / "openbao.log", durable=durable
        )
        self.emulator = Part(
            "The Snowflake emulator",
            [
                *_python("hoop_core.devstack.emulator"),
                *("--port", str(self._emulator_port), "--bootstrap", str(self._bootstrap)),
                *(("--journal", str(self._journal)) if durable else ()),
            ],
            log=logs / "emulator.log",
            directory=self.home,
            environment={"TMPDIR": str(self._scratch)},  # fakesnow leaves a folder there
        )
        self.gateway = Part(
            "The gateway",
            [*_python("hoop_core.cli"), "serve", "--config", str(self.config_file)],
            log=logs / "gateway.log",
            directory=self.home,
            stop_seconds=_GATEWAY_STOP_SECONDS,
        )
        self._workload_token = WorkloadToken(self.home / "gateway-token", self._issue_workload)
        self.front_door = FrontDoor(
            free_port(),
            issuer=issuer(self.openbao.address),
            people=_PEOPLE,
            token=self.token,
        )

    @property
    def info(self) -> StackInfo:
        """Raises RuntimeError before start()."""
        if self._info is None:
            raise RuntimeError("the stack is not started")
        return self._info

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that should run, in the order in which they are stopped."""
        parts = (self.gateway, self.emulator, self.openbao.part)
        return parts if self._with_gateway else parts[1:]

    @property
    def owns_home(self) -> bool:
        """Whether this object holds the home's lock: true from start() to stop()."""
        return self._lock is not None

    def __enter__(self) -> DevStack:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, progress: Progress | None = None) -> StackInfo:
        """Start everything and wait until it is ready; on any failure everything is stopped again.

        Raises StackRunning, PartFailed (with the tail of the part's log), ConfigError, Unavailable.
        """
        say = progress or (lambda _: None)
        self._take_home()
        try:
            self._start_parts(say)
            self._info = self._make_info()
            say("Ready")
            return self._info
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the gateway first, which revokes its users, then the rest. May be called twice.

        Without the home's lock nothing in it is ours to stop or remove.
        """
        if self._lock is None:
            return
        self._workload_token.stop()
        self.front_door.stop()
        gateways = (*(r.part for r in self.replicas), self.gateway)
        for part in (*gateways, self.emulator, self.openbao.part):
            part.stop()
        for leftover in (self._bootstrap, self._workload_token.path):
            leftover.unlink(missing_ok=True)
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._info = self._identities = None
        os.close(self._lock)
        self._lock = None

    def token(self, identity: str) -> str:
        """A fresh OIDC token of `churn-agent`, `alice`, `bob` or `pia` (8 h), or of `hoop-gateway`.

        Raises KeyError for anybody else, VaultUnavailable while OpenBao is stopped.
        """
        if self._identities is None:
            raise RuntimeError("the stack is not started")
        return self._identities.token(identity)

    def brief_token(self, identity: str) -> str:
        """A token that expires one second from now."""
        if self._identities is None:
            raise RuntimeError("the stack is not started")
        return self._identities.token(identity, brief=True)

    def stop_openbao(self) -> None:
        """Take OpenBao away; in memory, with all its leases and signing keys."""
        self.openbao.stop()

    def restart_openbao(self) -> StackInfo:
        """Start OpenBao again at the old address: a new one, and tokens of the old one are void (use the
        new info), or the same one when the stack is durable.
        """
        self.openbao.stop()
        if self._unseal_key:
            self.openbao.start()
            unseal(self.openbao.address, self._unseal_key)
        else:
            self._start_openbao(lambda: None)
        self._info = self._make_info()
        return self._info

    def stop_emulator(self) -> None:
        """Take Snowflake away, with all its data."""
        self.emulator.stop()

    def restart_emulator(self) -> None:
        """Start the emulator again at the old address, newly seeded; a durable one has kept its users."""
        self.emulator.stop()
        self._launch_emulator()
        self._await_emulator()

    def stop_gateway(self) -> None:
        """Stop the gateway in an orderly way: it ends its sessions first."""
        self.gateway.stop()

    def kill_gateway(self) -> None:
        """End the gateway as a crash would."""
        self.gateway.kill()

    def restart_gateway(self) -> None:
        """Start the gateway again, at the old address and with the old store."""
        self.gateway.stop()
        self.gateway.start()
        self._await_gateway()

    def replica(
        self, name: str, settings: Mapping[str, str] | None = None, *, port: int | None = None
    ) -> Replica:
        """A further gateway, not started yet, that stops with the stack. All need one store to share."""
        log = self.gateway.log.with_name(f"gateway-{name}.log")
        made = Replica(name, self.config_file, log=log, settings=settings, port=port)
        self.replicas.append(made)
        return made

    def _take_home(self) -> None:
        """Make the home ours alone. The kernel gives the lock back however we end."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise StackRunning(
                f"A stack is already running in {self.home}.",
                f"Stop it with `hoop dev down --home {self.home}`, or choose another --home.",
            ) from None
        self._lock = lock
        for part in (self.gateway, self.emulator, self.openbao.part):
            part.log.unlink(missing_ok=True)
        # Of an earlier stack: the key to OpenBao's files ended with its process.
        self._journal.unlink(missing_ok=True)
        self.openbao.forget()

    def _start_parts(self, say: Progress) -> None:
        self._copy_policy()
        self._write_config()
        say("Starting the Snowflake emulator and OpenBao")
        self._launch_emulator()
        with ThreadPoolExecutor(1) as pool:
            emulator = pool.submit(self._await_emulator)

            def emulator_ready() -> None:
                say("Loading the demo data")
                emulator.result()
                say("Signing in to Snowflake as the minter")
                # It imports while the engine signs in; both must work before we are ready.
                if self._with_gateway:
                    self.gateway.start()

            try:
                self._start_openbao(emulator_ready, say)
            except BaseException:
                # Ends the wait of the other thread too, which would otherwise hold us up.
                self.emulator.kill()
                raise
        if self._with_gateway:
            say("Waiting for the gateway")
            self._await_gateway()

    def _launch_emulator(self) -> None:
        bootstrap = {
            "admin_user": ADMIN,
            "admin_password": self._admin_password,
            "vault_user": MINTER,
            "vault_public_key": self._public_key,
        }
        write_private(self._bootstrap, json.dumps(bootstrap))
        self._scratch.mkdir(mode=0o700, exist_ok=True)
        self.emulator.start()

    def _await_emulator(self) -> None:
        self.emulator.wait_healthy(
            f"http://{LOOPBACK}:{self._emulator_port}/healthz",
            seconds=_START_SECONDS,
            accept=_HEALTHY,
        )
        self._bootstrap.unlink(missing_ok=True)

    def _start_openbao(
        self, emulator_ready: Callable[[], None], say: Progress | None = None
    ) -> None:
        say = say or (lambda _: None)
        plugin = self.openbao.start()
        with VaultSetup(self.openbao.address) as setup:
            say("Setting up identities and Vault roles")
            self._identities = setup.identities()
            self.front_door.start()
            setup.plugin(plugin)
            target = SnowflakeTarget(LOOPBACK, self._minting_port, self._private_key)
            setup.snowflake(target)
            self._workload_token.start()
            emulator_ready()
            setup.verify_snowflake(target)
            self._unseal_key = setup.unseal_key if self.openbao.durable else ""

    def _await_gateway(self) -> None:
        self.gateway.wait_healthy(
            f"http://{LOOPBACK}:{self._gateway_port}/healthz",
            seconds=_START_SECONDS,
            accept=_HEALTHY,
        )

    def _issue_workload(self) -> str:
        return self.token(GATEWAY)

    def _copy_policy(self) -> None:
        if self._given_policy is not None:
            try:
                shutil.copyfile(self._given_policy, self.policy_file)
            except OSError as e:
                raise ConfigError(
                    f"The policy {self._given_policy} cannot be read: {e.strerror}."
                ) from None
            return
        demo = resources.files("hoop_core.devstack")
        self.policy_file.write_bytes(demo.joinpath("demo_policy.yaml").read_bytes())
        # beside it what the policy names for trying it out
        catalog = demo.joinpath("demo_catalog.yaml")
        self.policy_file.with_name(catalog.name).write_bytes(catalog.read_bytes())

    def _write_config(self) -> None:
        """hoop.toml for `hoop serve`; holds no secret."""
        sections: dict[str, Mapping[str, str | float]] = {
            "[gateway]": {"host": LOOPBACK, "port": self._gateway_port, "metrics_port": 0},
            "[[identity]]": {
                "issuer": issuer(self.openbao.address),
                "audience": USER_AUDIENCE,
                "leeway_seconds": 1,  # one host, one clock
                "discovery_url": self.front_door.url,  # OpenBao's own document, and where people sign in
                "client_id": CLIENT,
            },
            "[snowflake]": {
                "account": SNOWFLAKE_ACCOUNT,
                "url": f"http://{LOOPBACK}:{self._emulator_port}",
            },
            "[vault]": {
                "address": self.openbao.address,
                "jwt_file": str(self._workload_token.path),
            },
            "[store]": {
                "url": self.store_url,
                "recordings": str(self.home / "recordings"),
            },
            "[audit]": {"key_file": str(self.home / "hoop-log.key")},
            "[lineage]": {"file": str(self.home / "lineage.jsonl")},
            "[[reconcile.allowed]]": {"user": MINTER, "reason": "OpenBao makes and ends the users"},
            # it is there to be changed, and seen to change
            "[policy]": {"file": str(self.policy_file), "reload_seconds": 0.25},
        }
        # A JSON string is a TOML string; non-ASCII stays as it is, for TOML knows no surrogates.
        text = "".join(
            f"{section}\n"
            + "".join(f"{k} = {json.dumps(v, ensure_ascii=False)}\n" for k, v in values.items())
            + "\n"
            for section, values in sections.items()
        )
        self.config_file.write_text(text)

    def _make_info(self) -> StackInfo:
        url = f"http://{LOOPBACK}:{self._gateway_port}" if self._with_gateway else ""
        return StackInfo(
            home=self.home,
            gateway_url=url,
            gateway_host=LOOPBACK if url else "",
            gateway_port=self._gateway_port if url else 0,
            ui_url=url and url + UI_PATH,
            vault_addr=self.openbao.address,
            issuer=issuer(self.openbao.address),
            snowflake_account=SNOWFLAKE_ACCOUNT,
            snowflake_host=LOOPBACK,
            snowflake_port=self._emulator_port,
            admin_user=ADMIN,
            config_file=self.config_file,
            policy_file=self.policy_file,
            admin_password=self._admin_password,
            token_agent=self.token(AGENT),
            token_approver=self.token(APPROVER),
            token_approver2=self.token(APPROVER2),
            token_pii_reader=self.token(PII_READER),
        )


def _python(module: str) -> list[str]:
    # -P: the working directory is not a place to import code from.
    return [sys.executable, "-P", "-m", module]


def _key_pair() -> tuple[str, str]:
    """A new RSA key pair as PEM (private PKCS#8, public); the private one only OpenBao is given."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), public.decode()
