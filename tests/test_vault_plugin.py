"""The Snowflake plugin of the embedded OpenBao: templates, users, AutoMTLS, gRPC."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpclib import GRPCError
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.config import Configuration
from grpclib.exceptions import StreamTerminatedError
from grpclib.server import Server
from hypothesis import given
from hypothesis import strategies as st

from hoop_core.devstack.vault_plugin import messages as m
from hoop_core.devstack.vault_plugin.connections import ConfigRefused, ConnectionConfig
from hoop_core.devstack.vault_plugin.handshake import (
    COOKIE_NAME,
    COOKIE_VALUE,
    HandshakeRefused,
    negotiate,
)
from hoop_core.devstack.vault_plugin.service import PluginService
from hoop_core.devstack.vault_plugin.statements import TemplateRefused, render
from hoop_core.devstack.vault_plugin.users import (
    REVOKE,
    NewUser,
    PluginError,
    SnowflakeUsers,
    days_to_expiry,
    user_name,
)

CREATE = (
    "CREATE USER {{name}} TYPE = SERVICE RSA_PUBLIC_KEY = '{{public_key}}'"
    " DAYS_TO_EXPIRY = {{expiration}}; GRANT ROLE ML_READER TO USER {{name}};"
)
CONFIG = {
    "connection_url": "127.0.0.1:443/PROD?account=HOOPDEV&protocol=http&role=VAULT_MINTER",
    "username": "VAULT_MINTER_SVC",
    "password": "the-minters-password",
}


class SnowflakeFault(Exception):
    def __init__(self, text: str, errno: int = 2003) -> None:
        super().__init__(text)
        self.errno = errno


@dataclass
class FakeSnowflake:
    """Records what is executed; `fail` may raise for a statement, before or after it took effect."""

    executed: list[str] = field(default_factory=list)
    logins: int = 0
    fail: Callable[[str], None] = lambda _: None

    def connect(self, _config: ConnectionConfig) -> FakeSnowflake:
        self.logins += 1
        return self

    def cursor(self) -> FakeSnowflake:
        return self

    def execute(self, command: str, /) -> None:
        self.fail(command)
        self.executed.append(command)

    def close(self) -> None:
        return None


def ready_users(snowflake: FakeSnowflake) -> SnowflakeUsers:
    users = SnowflakeUsers(snowflake.connect)
    users.initialize(CONFIG, verify=False)
    return users


def new_user(**changes: Any) -> NewUser:
    values: dict[str, Any] = {
        "display_name": "jwt-agent",
        "role_name": "ml-reader",
        "expires_at": datetime.now(UTC) + timedelta(hours=1),
        "creation": [CREATE],
        "public_key": "-----BEGIN PUBLIC KEY-----\nTUlJ\nQklq\n-----END PUBLIC KEY-----\n",
    }
    return NewUser(**(values | changes))


# --- templates ---------------------------------------------------------------------------------


def test_a_template_is_cut_at_semicolons_but_not_within_quotes_or_comments() -> None:
    assert render(
        ["SELECT ';' -- a; b\n; SELECT $$;$$ /* ; */; ", "DROP USER {{name}}"], {"name": "V_1"}
    ) == ["SELECT ';'", "SELECT $$;$$", "DROP USER V_1"]


@pytest.mark.parametrize(
    "template",
    [
        'CREATE USER "{{name}}"',
        'CREATE USER "x{{ username }}y"',
        "CREATE USER IDENTIFIER('\"{{name}}\"')",
        'EXECUTE IMMEDIATE $$CREATE USER "{{name}}"$$',
    ],
)
def test_a_user_name_within_double_quotes_is_refused(template: str) -> None:
    with pytest.raises(TemplateRefused, match="double quotes"):
        render([template], {"name": "V_1", "username": "V_1"})


@pytest.mark.parametrize(
    "template", ["SELECT 'a", 'SELECT "a', "SELECT $$a", "SELECT 1 /* a", "SELECT ''' {{name}}"]
)
def test_an_unclosed_quote_is_refused(template: str) -> None:
    with pytest.raises(TemplateRefused, match="unclosed"):
        render([template], {"name": "V_1"})


@pytest.mark.parametrize("template", ["{{nmae}}", "'{{nmae}}'", "{{password}}", "{{na-me}}"])
def test_an_unknown_or_missing_value_is_refused(template: str) -> None:
    with pytest.raises(TemplateRefused):
        render([template], {"name": "V_1"})


def test_a_value_that_is_not_a_plain_word_must_be_quoted() -> None:
    with pytest.raises(TemplateRefused, match="single quotes"):
        render(["SET P = {{password}}"], {"password": "x; DROP DATABASE PROD"})


@given(st.text(min_size=1))
def test_a_password_stays_one_string_literal(password: str) -> None:
    (statement,) = render(
        ["ALTER USER {{name}} SET PASSWORD = '{{password}}'"],
        {"name": "V_1", "password": password},
    )
    literal = statement.removeprefix("ALTER USER V_1 SET PASSWORD = ")
    body = literal[1:-1].replace("\\\\", "").replace("''", "")
    assert literal[0] == literal[-1] == "'"
    assert "'" not in body
    assert "\\" not in body


# --- users -------------------------------------------------------------------------------------


@given(st.text(), st.text())
def test_a_user_name_is_always_a_plain_identifier(display: str, role: str) -> None:
    name = user_name(display, role, now=1_700_000_000.9)
    assert name.startswith("v_")
    assert name.endswith("_1700000000")
    assert name.isascii()
    assert name.replace("_", "").isalnum()
    assert len(name) <= 255


def test_two_users_of_the_same_role_get_different_names() -> None:
    assert user_name("a", "b", now=1.0) != user_name("a", "b", now=1.0)


@pytest.mark.parametrize(
    ("left", "days"),
    [(timedelta(seconds=1), "1"), (timedelta(hours=47), "1"), (timedelta(days=3, hours=1), "3")],
)
def test_days_to_expiry_counts_whole_days_and_at_least_one(left: timedelta, days: str) -> None:
    now = datetime.now(UTC)
    assert days_to_expiry(now + left, now=now) == days


def test_an_expiration_in_the_past_is_refused() -> None:
    with pytest.raises(PluginError, match="past"):
        days_to_expiry(datetime.now(UTC) - timedelta(seconds=1))


def test_a_created_user_has_the_key_without_the_pem_frame() -> None:
    snowflake = FakeSnowflake()
    name = ready_users(snowflake).create(new_user())
    assert snowflake.executed == [
        f"CREATE USER {name} TYPE = SERVICE RSA_PUBLIC_KEY = 'TUlJ\nQklq' DAYS_TO_EXPIRY = 1",
        f"GRANT ROLE ML_READER TO USER {name}",
    ]


def test_a_half_made_user_is_dropped_when_a_grant_fails() -> None:
    def fail(command: str) -> None:
        if command.startswith("GRANT"):
            raise SnowflakeFault("role is not there")

    snowflake = FakeSnowflake(fail=fail)
    with pytest.raises(PluginError, match="role is not there"):
        ready_users(snowflake).create(new_user())
    created, disabled, dropped = snowflake.executed
    name = created.split()[2]
    assert disabled == f"ALTER USER IF EXISTS {name} SET DISABLED = TRUE"
    assert dropped == f"DROP USER IF EXISTS {name}"


def test_a_creation_without_an_answer_is_undone_too() -> None:
    def fail(command: str) -> None:
        if command.startswith("CREATE"):
            raise TimeoutError("no answer")

    snowflake = FakeSnowflake(fail=fail)
    with pytest.raises(PluginError):
        ready_users(snowflake).create(new_user())
    assert [c.split()[0] for c in snowflake.executed] == ["ALTER", "DROP"]


def test_rollback_statements_of_the_role_are_used() -> None:
    def fail(command: str) -> None:
        if command.startswith("GRANT"):
            raise SnowflakeFault("no")

    snowflake = FakeSnowflake(fail=fail)
    with pytest.raises(PluginError):
        ready_users(snowflake).create(new_user(rollback=["DROP USER {{name}}"]))
    assert [c.split()[0] for c in snowflake.executed] == ["CREATE", "DROP"]


def test_a_user_that_could_not_be_dropped_again_is_named() -> None:
    def fail(command: str) -> None:
        if not command.startswith("CREATE"):
            raise SnowflakeFault("gone away")

    with pytest.raises(PluginError, match=r"V_JWT_AGENT_ML_READER_\w+ may have been left behind"):
        ready_users(FakeSnowflake(fail=fail)).create(new_user())


def test_nothing_is_undone_when_the_login_failed() -> None:
    snowflake = FakeSnowflake()

    def refuse(_config: ConnectionConfig) -> FakeSnowflake:
        snowflake.logins += 1
        raise SnowflakeFault("no route", 250001)

    users = SnowflakeUsers(refuse)
    users.initialize(CONFIG, verify=False)
    with pytest.raises(PluginError, match="no route"):
        users.create(new_user())
    assert snowflake.logins == 1


def test_a_refused_template_creates_nothing() -> None:
    snowflake = FakeSnowflake()
    with pytest.raises(PluginError, match="double quotes"):
        ready_users(snowflake).create(new_user(creation=['CREATE USER "{{name}}"']))
    assert snowflake.executed == []


def test_revocation_disables_before_it_drops() -> None:
    snowflake = FakeSnowflake()
    ready_users(snowflake).delete("v_a_b_c_1", ())
    assert snowflake.executed == [s.replace("{{name}}", "v_a_b_c_1") for s in REVOKE]
    assert [s.split()[0] for s in snowflake.executed] == ["ALTER", "DROP"]


@pytest.mark.parametrize("name", ["", "a b", 'x"', "v; DROP DATABASE PROD", "1a", "ä"])
def test_a_name_that_is_no_identifier_is_not_dropped(name: str) -> None:
    snowflake = FakeSnowflake()
    with pytest.raises(PluginError, match="identifier"):
        ready_users(snowflake).delete(name, ())
    assert snowflake.executed == []


def test_an_ended_session_is_replaced_once_without_repeating_what_was_done() -> None:
    ended = iter([True])

    def fail(command: str) -> None:
        if command.startswith("GRANT") and next(ended, False):
            raise SnowflakeFault("session gone", 390111)

    snowflake = FakeSnowflake(fail=fail)
    ready_users(snowflake).create(new_user())
    assert [c.split()[0] for c in snowflake.executed] == ["CREATE", "GRANT"]
    assert snowflake.logins == 2


def test_errors_contain_no_secret() -> None:
    secrets = ("the-minters-password", "n3w-password", "TUlJ")

    def fail(command: str) -> None:
        raise SnowflakeFault(f"cannot run {command} as {secrets[0]}")

    users = ready_users(FakeSnowflake(fail=fail))
    for attempt in (
        lambda: users.change_password("v_1", secrets[1], ()),
        lambda: users.create(new_user()),
        lambda: users.create(
            new_user(public_key="", password=secrets[1], creation=["CREATE USER '{{password}}'"])
        ),
    ):
        with pytest.raises(PluginError) as error:
            attempt()
        assert not [s for s in secrets if s in str(error.value)]


def test_one_stuck_operation_does_not_hold_up_another() -> None:
    stuck, entered = threading.Event(), threading.Event()

    def fail(command: str) -> None:
        if command.startswith("CREATE"):
            entered.set()
            stuck.wait(60)

    users = ready_users(FakeSnowflake(fail=fail))
    worker = threading.Thread(target=lambda: users.create(new_user()))
    worker.start()
    try:
        assert entered.wait(30)
        users.delete("v_other", ())
        assert worker.is_alive()
    finally:
        stuck.set()
        worker.join()


# --- configuration -----------------------------------------------------------------------------


def test_a_connection_url_without_credentials_takes_them_from_the_fields() -> None:
    config = ConnectionConfig.parse(CONFIG)
    assert dict(config.arguments) == {
        "user": "VAULT_MINTER_SVC",
        "password": "the-minters-password",
        "account": "HOOPDEV",
        "host": "127.0.0.1",
        "port": 443,
        "protocol": "http",
        "database": "PROD",
        "role": "VAULT_MINTER",
    }
    assert "the-minters-password" not in repr(config)


def test_a_plain_account_and_the_username_placeholder_are_understood() -> None:
    url = "{{username}}:{{password}}@acme-eu.snowflakecomputing.com/DB"
    config = ConnectionConfig.parse(CONFIG | {"connection_url": url})
    assert config.arguments["account"] == "acme-eu"
    assert config.arguments["user"] == "VAULT_MINTER_SVC"


@pytest.mark.parametrize(
    "change",
    [
        {"connection_url": ""},
        {"username": ""},
        {"password": ""},
        {"private_key": "a key as well"},
        {"username_template": "{{.DisplayName}}"},
        {"max_connection_lifetime": "soon"},
        {"connection_url": "host:port/DB?account=A"},
    ],
)
def test_a_faulty_configuration_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(ConfigRefused):
        ConnectionConfig.parse(CONFIG | change)


# --- handshake and gRPC ------------------------------------------------------------------------


@dataclass(frozen=True)
class ClientCertificate:
    """What go-plugin makes for AutoMTLS: self-signed, ECDSA P-521."""

    pem: str
    key_pem: bytes = field(repr=False)

    @classmethod
    def make(cls) -> ClientCertificate:
        key, now = ec.generate_private_key(ec.SECP521R1()), datetime.now(UTC)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(seconds=30))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA512())
        )
        return cls(
            certificate.public_bytes(serialization.Encoding.PEM).decode(),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )

    def context(self, server_der: bytes, directory: Path) -> ssl.SSLContext:
        pem = directory / "client.pem"
        pem.write_bytes(self.key_pem + self.pem.encode())
        context = ssl.create_default_context(cadata=server_der)  # type: ignore[arg-type]
        context.load_cert_chain(pem)
        context.set_alpn_protocols(["h2"])
        return context


def environment(certificate: ClientCertificate) -> dict[str, str]:
    return {
        COOKIE_NAME: COOKIE_VALUE,
        "PLUGIN_PROTOCOL_VERSIONS": "5,6",
        "PLUGIN_CLIENT_CERT": certificate.pem,
    }


@pytest.mark.parametrize(
    "change",
    [
        {COOKIE_NAME: "something else"},
        {"PLUGIN_PROTOCOL_VERSIONS": "4"},
        {"PLUGIN_PROTOCOL_VERSIONS": ""},
        {"PLUGIN_CLIENT_CERT": ""},
        {"PLUGIN_CLIENT_CERT": "not a certificate"},
    ],
)
def test_a_handshake_without_all_its_parts_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(HandshakeRefused):
        negotiate(environment(ClientCertificate.make()) | change)


def test_the_handshake_line_has_the_form_that_go_plugin_reads() -> None:
    handshake = negotiate(environment(ClientCertificate.make()))
    core, protocol, network, path, kind, certificate = handshake.line(Path("/run/s")).split("|")
    assert (core, protocol, network, path, kind) == ("1", "6", "unix", "/run/s", "grpc")
    assert "=" not in certificate
    padding = "=" * (-len(certificate) % 4)
    assert base64.b64decode(certificate + padding) == handshake.certificate_der


def open_channel(path: Path, context: ssl.SSLContext) -> Channel:
    return Channel(
        path=str(path), ssl=context, config=Configuration(ssl_target_name_override="localhost")
    )


async def call(channel: Channel, path: str, request: Any, reply: Any, key: str = "a") -> Any:
    method: Any = UnaryUnaryMethod(channel, path, type(request), reply)
    return await method(request, timeout=30, metadata={"multiplex_id": key})


async def database(channel: Channel, name: str, request: Any, reply: str, key: str = "a") -> Any:
    return await call(channel, f"/dbplugin.v5.Database/{name}", request, m.DATABASE[reply], key)


async def initialize(channel: Channel, key: str) -> Any:
    request = m.DATABASE["InitializeRequest"]()
    request.config_data.update(CONFIG)
    return await database(channel, "Initialize", request, "InitializeResponse", key)


@asynccontextmanager
async def served(tmp_path: Path, service: PluginService) -> AsyncIterator[Channel]:
    certificate = ClientCertificate.make()
    handshake = negotiate(environment(certificate))
    server, path = Server([service]), tmp_path / "s"
    await server.start(path=str(path), ssl=handshake.tls)
    channel = open_channel(path, certificate.context(handshake.certificate_der, tmp_path))
    try:
        yield channel
    finally:
        channel.close()
        service.shutdown.set()
        server.close()
        service.close()


@pytest.fixture
def short_tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A Unix socket's path has about a hundred bytes.
    return tmp_path_factory.mktemp("s")


def test_configurations_are_kept_apart_and_offer_key_pairs(short_tmp: Path) -> None:
    snowflakes: list[FakeSnowflake] = []

    def make() -> SnowflakeUsers:
        snowflakes.append(FakeSnowflake())
        return SnowflakeUsers(snowflakes[-1].connect)

    async def run() -> None:
        async with served(short_tmp, PluginService(make)) as channel:
            reply = await initialize(channel, "a")
            assert list(reply.config_data["supported_credential_types"]) == [
                "password",
                "rsa_private_key",
            ]
            await initialize(channel, "b")
            drop = m.DATABASE["DeleteUserRequest"](username="v_1")
            await database(channel, "DeleteUser", drop, "DeleteUserResponse", "b")
            assert [len(s.executed) for s in snowflakes] == [0, 2]
            await database(channel, "Close", m.DATABASE["Empty"](), "Empty", "b")
            with pytest.raises(GRPCError, match="not initialized"):
                await database(channel, "DeleteUser", drop, "DeleteUserResponse", "b")
            await database(channel, "DeleteUser", drop, "DeleteUserResponse", "a")

    asyncio.run(run())


def test_a_user_is_made_from_the_request_of_openbao(short_tmp: Path) -> None:
    snowflake = FakeSnowflake()

    async def run() -> str:
        service = PluginService(lambda: SnowflakeUsers(snowflake.connect))
        async with served(short_tmp, service) as channel:
            await initialize(channel, "a")
            request = m.DATABASE["NewUserRequest"](
                credential_type=m.CREDENTIAL_RSA_PRIVATE_KEY,
                public_key=b"-----BEGIN PUBLIC KEY-----\nTUlJ\n-----END PUBLIC KEY-----\n",
            )
            request.username_config.display_name = "jwt-x"
            request.username_config.role_name = "ml-reader"
            request.expiration.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
            request.statements.Commands.append(CREATE)
            reply = await database(channel, "NewUser", request, "NewUserResponse")
            return str(reply.username)

    name = asyncio.run(run())
    assert snowflake.executed[0].startswith(
        f"CREATE USER {name} TYPE = SERVICE RSA_PUBLIC_KEY = 'TUlJ'"
    )


def test_type_and_close_answer_while_snowflake_does_not(short_tmp: Path) -> None:
    stuck = threading.Event()

    async def run() -> None:
        entered = asyncio.Event()
        loop = asyncio.get_running_loop()

        def fail(_command: str) -> None:
            loop.call_soon_threadsafe(entered.set)
            stuck.wait(60)

        service = PluginService(lambda: SnowflakeUsers(FakeSnowflake(fail=fail).connect))
        async with served(short_tmp, service) as channel:
            await initialize(channel, "a")
            drop = m.DATABASE["DeleteUserRequest"](username="v_1")
            waiting = asyncio.create_task(
                database(channel, "DeleteUser", drop, "DeleteUserResponse")
            )
            await asyncio.wait_for(entered.wait(), 30)
            empty = m.DATABASE["Empty"]()
            reply = await database(channel, "Type", empty, "TypeResponse")
            await database(channel, "Close", empty, "Empty")
            assert reply.Type == "snowflake"
            assert not waiting.done()
            stuck.set()
            await waiting

    try:
        asyncio.run(run())
    finally:
        stuck.set()


def test_a_fault_of_the_plugin_itself_tells_only_its_type(short_tmp: Path) -> None:
    class Broken(SnowflakeUsers):
        def delete(self, name: str, statements: Any) -> None:
            raise RuntimeError("the-minters-password")

    async def run() -> None:
        async with served(short_tmp, PluginService(Broken)) as channel:
            await initialize(channel, "a")
            drop = m.DATABASE["DeleteUserRequest"](username="v_1")
            with pytest.raises(GRPCError, match="plugin fault: RuntimeError") as error:
                await database(channel, "DeleteUser", drop, "DeleteUserResponse")
            assert "password" not in str(error.value)

    asyncio.run(run())


@contextmanager
def plugin_process(certificate: ClientCertificate) -> Iterator[tuple[Path, bytes]]:
    """The real plugin process; yields its socket and its certificate."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hoop_core.devstack.vault_plugin"],
        env=os.environ | environment(certificate),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        line = process.stdout.readline().strip().split("|")
        yield Path(line[3]), base64.b64decode(line[5] + "=" * (-len(line[5]) % 4))
    finally:
        process.terminate()
        process.wait(30)


def test_the_plugin_process_serves_the_holder_of_the_certificate_and_nobody_else(
    tmp_path: Path,
) -> None:
    ours, strangers = ClientCertificate.make(), ClientCertificate.make()
    empty = m.DATABASE["Empty"]()

    async def ask(path: Path, context: ssl.SSLContext) -> str:
        async with open_channel(path, context) as channel:
            return str((await database(channel, "Type", empty, "TypeResponse")).Type)

    with plugin_process(ours) as (path, der):
        anonymous = ssl.create_default_context(cadata=der)  # type: ignore[arg-type]
        anonymous.set_alpn_protocols(["h2"])
        for refused in (anonymous, strangers.context(der, tmp_path)):
            with pytest.raises((StreamTerminatedError, OSError)):
                asyncio.run(ask(path, refused))
        assert asyncio.run(ask(path, ours.context(der, tmp_path))) == "snowflake"
        assert path.exists()
    assert not path.parent.exists()
