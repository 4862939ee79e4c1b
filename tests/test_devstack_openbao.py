"""The embedded OpenBao, its identities and Vault roles, and the supervisor around the parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import snowflake.connector
from cryptography.hazmat.primitives import serialization
from joserfc import jwk, jwt
from snowflake.connector.errors import DatabaseError
from typer.testing import CliRunner

from hoop_core.cli.dev import app
from hoop_core.config import load_settings
from hoop_core.devstack import supervisor
from hoop_core.devstack.environment import default_home, format_env
from hoop_core.devstack.openbao import OpenBao
from hoop_core.devstack.processes import (
    Part,
    PartFailed,
    clean_environment,
    free_port,
    process_started,
    tail,
    write_private,
)
from hoop_core.devstack.stack import DevStack, StackRunning
from hoop_core.devstack.vault_setup import (
    GATEWAY,
    GROUPS,
    USERS,
    VAULT_ROLES,
    Identities,
    VaultSetup,
    issuer,
)
from hoop_core.devstack.workload import WorkloadToken
from hoop_core.errors import VaultUnavailable

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    " print('deaf', flush=True); time.sleep(600)",
]


def eventually(check: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def part(tmp_path: Path, command: list[str], **options: Any) -> Part:
    return Part("The part", command, log=tmp_path / "part.log", directory=tmp_path, **options)


# --- processes ---------------------------------------------------------------------------------


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_stopped_part_leaves_nothing_of_its_group(tmp_path: Path) -> None:
    sleeper = part(tmp_path, SLEEP)
    sleeper.start()
    group = sleeper.pid
    assert group is not None
    assert not group_is_gone(group)
    sleeper.stop()
    assert not sleeper.running
    assert eventually(lambda: group_is_gone(group))


def test_a_part_that_ignores_the_request_to_stop_is_killed(tmp_path: Path) -> None:
    deaf = part(tmp_path, STUBBORN, stop_seconds=0.5)
    deaf.start()
    deaf.wait_until(lambda: "deaf" in tail(deaf.log), seconds=30)
    group = deaf.pid
    assert group is not None
    deaf.stop()
    assert eventually(lambda: group_is_gone(group))


@pytest.mark.parametrize("command", [SLEEP, STUBBORN])
def test_a_part_ends_when_its_supervisor_is_killed(tmp_path: Path, command: list[str]) -> None:
    program = (
        "import json, sys, time; from pathlib import Path\n"
        "from hoop_core.devstack.processes import Part\n"
        "command, place = json.loads(sys.argv[1]), Path(sys.argv[2])\n"
        "p = Part('p', command, log=place / 'log', directory=place, stop_seconds=0.5)\n"
        "p.start(); print(p.pid, flush=True); time.sleep(600)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(command), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout
    group = int(holder.stdout.readline())
    assert not group_is_gone(group)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert eventually(lambda: group_is_gone(group))


def test_a_part_that_ends_while_starting_is_reported_with_its_log(tmp_path: Path) -> None:
    broken = part(tmp_path, [sys.executable, "-c", "raise SystemExit('no such setting')"])
    broken.start()
    with pytest.raises(PartFailed, match="ended while starting") as failure:
        broken.wait_until(lambda: False, seconds=30)
    assert failure.value.exit_code == 3
    assert "no such setting" in failure.value.log_tail


def test_a_part_that_is_never_ready_is_reported(tmp_path: Path) -> None:
    sleeper = part(tmp_path, SLEEP)
    sleeper.start()
    try:
        with pytest.raises(PartFailed, match="not ready"):
            sleeper.wait_healthy(
                f"http://127.0.0.1:{free_port()}/", seconds=0.3, accept=frozenset({200})
            )
    finally:
        sleeper.stop()


def test_a_part_does_not_inherit_the_users_own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VAULT_TOKEN", "HOOP_GATEWAY__PORT", "SNOWFLAKE_PASSWORD", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "theirs")
    assert "theirs" not in clean_environment().values()
    assert clean_environment({"A": "b"})["A"] == "b"


def test_a_private_file_is_replaced_whole_and_readable_only_by_its_owner(tmp_path: Path) -> None:
    target = tmp_path / "token"
    target.write_text("old")
    target.chmod(0o644)
    write_private(target, "new")
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["token"]


def test_a_process_is_known_by_its_start_and_a_dead_one_is_not(tmp_path: Path) -> None:
    process = subprocess.Popen(SLEEP)
    started = process_started(process.pid)
    assert started
    assert process_started(process.pid) == started
    process.kill()
    assert eventually(lambda: process_started(process.pid) is None)
    process.wait()


def test_env_lines_can_be_sourced_and_a_value_that_cannot_is_refused() -> None:
    text = format_env({"A_URL": "http://127.0.0.1:1/", "TOKEN": "a.b-c_D"})
    assert text == "A_URL=http://127.0.0.1:1/\nTOKEN=a.b-c_D\n"
    for value in ("a b", "$(id)", "a;b", "a\nb", "`id`"):
        with pytest.raises(ValueError, match="TOKEN"):
            format_env({"TOKEN": value})


def test_the_default_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOP_DEV_HOME", "/a")
    assert default_home() == Path("/a")
    monkeypatch.delenv("HOOP_DEV_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", "/b")
    assert default_home() == Path("/b/hoop/dev")


def test_down_leaves_a_process_alone_that_only_has_the_recorded_id(tmp_path: Path) -> None:
    bystander = subprocess.Popen(SLEEP)
    try:
        (tmp_path / "supervisor.json").write_text(
            json.dumps({"pid": bystander.pid, "started": "long ago"})
        )
        result = CliRunner().invoke(app, ["down", "--home", str(tmp_path), "--json"])
        assert result.exit_code == 0
        assert json.loads(result.stdout)["status"] == "not_running"
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("record", ["", "[]", '{"pid": "x"}', '{"pid": 1}'])
def test_a_damaged_record_means_that_nothing_runs(tmp_path: Path, record: str) -> None:
    (tmp_path / "supervisor.json").write_text(record)
    assert supervisor.running(tmp_path) is None


def test_the_workload_token_is_refreshed_also_after_a_failure(tmp_path: Path) -> None:
    answers: Iterator[str | None] = iter(["first", None, "second"])

    def issue() -> str:
        answer = next(answers, "later")
        if answer is None:
            raise VaultUnavailable("OpenBao is away.")
        return answer

    token = WorkloadToken(tmp_path / "token", issue, refresh_seconds=0.01)
    token.start()
    try:
        assert eventually(lambda: token.path.read_text() == "later")
        assert token.path.stat().st_mode & 0o777 == 0o600
    finally:
        token.stop()


def test_a_first_workload_token_that_cannot_be_issued_is_an_error(tmp_path: Path) -> None:
    def issue() -> str:
        raise VaultUnavailable("OpenBao is away.")

    with pytest.raises(VaultUnavailable):
        WorkloadToken(tmp_path / "token", issue).start()
    assert list(tmp_path.iterdir()) == []


# --- OpenBao and its identities ----------------------------------------------------------------


class Vault:
    """A configured OpenBao without Snowflake, and what its setup held in memory."""

    def __init__(self, server: OpenBao) -> None:
        self.server = server
        server.start()
        with VaultSetup(server.address) as setup:
            self.root_token = str(setup._client.token)
            self.identities: Identities = setup.identities()
            # Another workload of the house: its tokens have the audience that Vault wants.
            setup._write(
                "auth/userpass/users/other-job", password="pw", token_policies=["oidc-vault"]
            )

    def request(self, method: str, path: str, token: str = "", **body: Any) -> httpx.Response:
        return httpx.request(
            method,
            f"{self.server.address}/v1/{path}",
            headers={"X-Vault-Token": token} if token else {},
            json=body or None,
            timeout=30,
            trust_env=False,
        )

    def login(self, name: str) -> httpx.Response:
        return self.request("POST", "auth/jwt/login", role=GATEWAY, jwt=self.identities.token(name))


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    home = tmp_path_factory.mktemp("vault")
    server = OpenBao(home / "openbao", port=free_port(), log=home / "openbao.log")
    try:
        yield Vault(server)
    finally:
        server.stop()


def verified(vault: Vault, token: str, audience: str) -> dict[str, Any]:
    """The claims of a token, checked as any OIDC client does it: discovery, keys, signature."""
    base = issuer(vault.server.address)
    discovery = httpx.get(f"{base}/.well-known/openid-configuration", trust_env=False).json()
    assert discovery["issuer"] == base
    keys = jwk.KeySet.import_key_set(httpx.get(discovery["jwks_uri"], trust_env=False).json())
    claims = jwt.decode(token, keys, algorithms=["RS256"]).claims
    jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": base}, aud={"essential": True, "value": audience}
    ).validate(claims)
    return dict(claims)


@pytest.mark.e2e
@pytest.mark.parametrize("name", USERS)
def test_a_users_token_can_be_verified_and_names_its_groups(vault: Vault, name: str) -> None:
    claims = verified(vault, vault.identities.token(name), "hoop")
    assert claims["preferred_username"] == name
    assert claims["groups"] == [g for g, members in GROUPS.items() if name in members]
    assert claims["exp"] - claims["iat"] == 8 * 3600


@pytest.mark.e2e
def test_the_gateways_token_is_for_vault_only_and_short(vault: Vault) -> None:
    claims = verified(vault, vault.identities.token(GATEWAY), "vault")
    assert claims["exp"] - claims["iat"] == 600
    assert not claims["groups"]


@pytest.mark.e2e
def test_each_identity_has_its_own_subject(vault: Vault) -> None:
    names = (*USERS, GATEWAY)
    audiences = {GATEWAY: "vault"}
    subjects = {
        verified(vault, vault.identities.token(n), audiences.get(n, "hoop"))["sub"] for n in names
    }
    assert len(subjects) == len(names)


@pytest.mark.e2e
def test_the_root_token_is_revoked_after_setup(vault: Vault) -> None:
    assert vault.root_token
    assert vault.request("GET", "auth/token/lookup-self", vault.root_token).status_code == 403


@pytest.mark.e2e
def test_only_the_gateway_can_sign_in_to_vault(vault: Vault) -> None:
    assert vault.login(GATEWAY).json()["auth"]["token_policies"] == [GATEWAY]
    for name in USERS:
        assert vault.login(name).status_code == 400


@pytest.mark.e2e
def test_another_workload_cannot_sign_in_as_the_gateway(vault: Vault) -> None:
    signed_in = vault.request("POST", "auth/userpass/login/other-job", password="pw").json()
    token = signed_in["auth"]["client_token"]
    issued = vault.request("GET", "identity/oidc/token/vault", token).json()["data"]["token"]
    assert verified(vault, issued, "vault")["sub"]
    answer = vault.request("POST", "auth/jwt/login", role=GATEWAY, jwt=issued)
    assert answer.status_code == 400
    assert "subject" in answer.text


@pytest.mark.e2e
@pytest.mark.parametrize(("name", "other"), [("alice", "vault"), (GATEWAY, "hoop")])
def test_an_identity_cannot_ask_for_the_other_kind_of_token(
    vault: Vault, name: str, other: str
) -> None:
    password = vault.identities.passwords[name]
    signed_in = vault.request("POST", f"auth/userpass/login/{name}", password=password).json()
    token = signed_in["auth"]["client_token"]
    assert vault.request("GET", f"identity/oidc/token/{other}", token).status_code == 403


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "sys/leases/revoke", {"lease_id": "auth/userpass/login/alice/x", "sync": True}),
        ("PUT", "sys/leases/revoke", {"sync": True}),
        ("PUT", "sys/leases/revoke", {"lease_id": "database/creds/ml-reader/x", "prefix": True}),
        ("PUT", "sys/leases/revoke/database/creds/ml-reader/x", {"sync": True}),
        ("PUT", "sys/leases/revoke-prefix/database", {"sync": True}),
        ("PUT", "sys/leases/revoke-force/database", {"sync": True}),
        ("PUT", "sys/leases/lookup", {"lease_id": "auth/userpass/login/alice/x"}),
        ("LIST", "sys/leases/lookup/auth/userpass/login", {}),
        ("GET", "database/creds/somebody-else", {}),
        ("GET", "database/config/snowflake", {}),
        ("POST", "database/roles/ml-reader", {"db_name": "snowflake"}),
        ("GET", "identity/oidc/token/hoop", {}),
        ("LIST", "sys/leases/lookup/database/creds/ml-reader", {}),
        ("POST", "auth/token/create", {}),
        ("POST", "auth/token/create", {"display_name": "root"}),
        ("POST", "auth/token/create", {"display_name": "hoop-a", "policies": ["root"]}),
        ("POST", "auth/token/create", {"display_name": "hoop-a", "no_parent": True}),
        ("POST", "auth/token/create-orphan", {"display_name": "hoop-a"}),
        ("GET", "sys/policies/acl/hoop-gateway", {}),
    ],
)
def test_the_gateways_policy_allows_nothing_beyond_its_own_leases(
    vault: Vault, method: str, path: str, body: dict[str, Any]
) -> None:
    token = vault.login(GATEWAY).json()["auth"]["client_token"]
    assert vault.request(method, path, token, **body).status_code == 403


@pytest.mark.e2e
def test_the_audit_device_records_calls_without_secrets(vault: Vault) -> None:
    token = vault.login(GATEWAY).json()["auth"]["client_token"]
    vault.request("GET", "sys/leases?type=irrevocable", token)
    log = vault.server.audit_log
    assert log.stat().st_mode & 0o777 == 0o600
    text = log.read_text()
    assert '"path":"auth/jwt/login"' in text
    assert not [s for s in (token, *vault.identities.passwords.values()) if s in text]


@pytest.mark.e2e
def test_no_token_is_written_by_the_stack_apart_from_the_gateways_own(vault: Vault) -> None:
    assert vault.root_token not in "".join(
        p.read_text(errors="replace")
        for p in vault.server.part.log.parent.rglob("*")
        if p.is_file()
    )
    assert "passwords" not in repr(vault.identities)


# --- with the Snowflake emulator ---------------------------------------------------------------


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    with DevStack(tmp_path_factory.mktemp("stack"), gateway=False) as running:
        yield running


class GatewayVault:
    """Vault as the gateway sees it: signed in with the workload token from the file."""

    def __init__(self, stack: DevStack) -> None:
        settings = load_settings(stack.config_file).vault
        self._client = httpx.Client(base_url=f"{settings.address}/v1/", timeout=40, trust_env=False)
        signed_in = self._client.post(
            f"auth/{settings.auth_mount}/login",
            json={"role": settings.auth_role, "jwt": settings.jwt_file.read_text()},
        )
        self._client.headers["X-Vault-Token"] = signed_in.json()["auth"]["client_token"]

    def mint(self, role: str) -> dict[str, Any]:
        answer = self._client.get(f"database/creds/{role}")
        answer.raise_for_status()
        return dict(answer.json())

    def revoke(self, lease_id: str) -> int:
        body = {"lease_id": lease_id, "sync": True}
        return self._client.put("sys/leases/revoke", json=body).status_code

    def irrevocable(self) -> int:
        answer = self._client.get("sys/leases", params={"type": "irrevocable"})
        return int(answer.json()["data"]["lease_count"])


def sign_in(stack: DevStack, **how: Any) -> Any:
    return snowflake.connector.connect(
        host=stack.info.snowflake_host,
        port=stack.info.snowflake_port,
        protocol="http",
        account=stack.info.snowflake_account,
        login_timeout=10,
        **how,
    )


def as_minted(stack: DevStack, minted: dict[str, Any]) -> Any:
    key = serialization.load_pem_private_key(minted["data"]["rsa_private_key"].encode(), None)
    der = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return sign_in(
        stack, user=minted["data"]["username"], private_key=der, authenticator="SNOWFLAKE_JWT"
    )


def user_names(stack: DevStack) -> set[str]:
    info = stack.info
    with sign_in(stack, user=info.admin_user, password=info.admin_password) as connection:
        return {row[0] for row in connection.cursor().execute("SHOW USERS").fetchall()}


@pytest.mark.e2e
@pytest.mark.parametrize("role", VAULT_ROLES)
def test_a_minted_user_signs_in_with_its_key_until_it_is_revoked(
    stack: DevStack, role: str
) -> None:
    vault = GatewayVault(stack)
    minted = vault.mint(role)
    name = minted["data"]["username"].upper()
    assert name.startswith("V_JWT_")
    assert minted["lease_duration"] == 4 * 3600
    with as_minted(stack, minted) as connection:
        (who,) = connection.cursor().execute("SELECT CURRENT_USER(), CURRENT_ROLE()").fetchall()
    assert who == (name, VAULT_ROLES[role])
    assert name in user_names(stack)

    assert vault.revoke(minted["lease_id"]) == 204
    assert name not in user_names(stack)
    assert vault.irrevocable() == 0
    with pytest.raises(DatabaseError):
        as_minted(stack, minted)


@pytest.mark.e2e
def test_the_stack_writes_a_configuration_that_the_gateway_accepts(stack: DevStack) -> None:
    settings = load_settings(stack.config_file)
    assert settings.identity[0].issuer == stack.info.issuer
    assert settings.snowflake.url == stack.info.snowflake_url
    assert settings.policy.file == stack.info.policy_file
    assert settings.vault.jwt_file.stat().st_mode & 0o777 == 0o600
    assert stack.home.stat().st_mode & 0o777 == 0o700


@pytest.mark.e2e
def test_the_stack_keeps_no_secret_on_disk_but_the_gateways_token(stack: DevStack) -> None:
    info = stack.info
    assert info.admin_password not in repr(info)
    assert info.token_agent not in repr(info)
    texts = {p: p.read_text(errors="replace") for p in stack.home.rglob("*") if p.is_file()}
    for secret in (info.admin_password, info.token_agent, info.token_approver, "PRIVATE KEY"):
        assert [p.name for p, text in texts.items() if secret in text] == []


@pytest.mark.e2e
def test_a_second_stack_in_the_same_home_is_refused(stack: DevStack) -> None:
    with pytest.raises(StackRunning, match="already running") as refusal:
        DevStack(stack.home, gateway=False).start()
    assert refusal.value.exit_code == 1
    assert user_names(stack)


@pytest.mark.e2e
def test_openbao_can_be_taken_away_and_comes_back_as_a_new_one(stack: DevStack) -> None:
    before = stack.info
    stack.stop_openbao()
    with pytest.raises(VaultUnavailable):
        stack.token("alice")
    after = stack.restart_openbao()
    assert after.vault_addr == before.vault_addr
    assert after.token_agent != before.token_agent
    minted = GatewayVault(stack).mint("ml-reader")
    assert GatewayVault(stack).revoke(minted["lease_id"]) == 204


@pytest.mark.nightly
@pytest.mark.e2e
def test_a_revocation_without_snowflake_fails_and_can_be_repeated(stack: DevStack) -> None:
    vault = GatewayVault(stack)
    minted = vault.mint("ml-reader")
    stack.stop_emulator()
    try:
        assert vault.revoke(minted["lease_id"]) >= 400
        with pytest.raises(httpx.HTTPStatusError):
            vault.mint("ml-reader")
    finally:
        stack.restart_emulator()
    # The emulator has forgotten the user, which is the state that a revocation asks for.
    assert vault.revoke(minted["lease_id"]) == 204


@pytest.mark.e2e
def test_a_part_that_cannot_start_stops_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = DevStack(tmp_path / "home", gateway=False)
    failing = part(tmp_path, [sys.executable, "-c", "raise SystemExit('port is taken')"])
    monkeypatch.setattr(broken, "emulator", failing)
    with pytest.raises(PartFailed, match="ended while starting") as failure:
        broken.start()
    assert "port is taken" in failure.value.log_tail
    assert not broken.openbao.part.running
    assert not broken.owns_home


# --- the commands ------------------------------------------------------------------------------


def dev(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = "from hoop_core.cli.dev import app; app()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments, "--home", str(home)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@pytest.mark.e2e
def test_dev_up_leaves_a_stack_behind_that_down_takes_away(tmp_path: Path) -> None:
    home, env_file = tmp_path / "home", tmp_path / "stack.env"
    try:
        up = dev(home, "up", "--env-file", str(env_file), "--json")
        assert up.returncode == 0, up.stdout + up.stderr
        shown = json.loads(up.stdout)
        values = dict(line.split("=", 1) for line in env_file.read_text().splitlines())
        assert env_file.stat().st_mode & 0o777 == 0o600
        assert shown["status"] == "ready"
        assert {"HOOP_TOKEN_AGENT", "HOOP_TOKEN_APPROVER2", "VAULT_ADDR"} <= values.keys()
        assert not [v for k, v in values.items() if "TOKEN" in k and v in up.stdout + up.stderr]
        gateway = httpx.get(f"{values['HOOP_GATEWAY_URL']}/healthz", trust_env=False)
        assert gateway.status_code == 200

        again = dev(home, "up", "--json")
        assert again.returncode == 1
        assert "hoop dev down" in json.loads(again.stdout)["error"]["hint"]
    finally:
        down = dev(home, "down", "--json")
    assert down.returncode == 0
    assert json.loads(down.stdout)["status"] == "stopped"
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{values['VAULT_ADDR']}/v1/sys/health", trust_env=False)
    assert json.loads(dev(home, "down", "--json").stdout)["status"] == "not_running"


@pytest.mark.nightly
@pytest.mark.e2e
def test_a_gateway_that_does_not_start_is_shown_with_its_log(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nrulez: []\n")
    up = DevStack(tmp_path / "home", policy=policy)
    try:
        with pytest.raises(PartFailed) as caught:
            up.start()
        assert "gateway" in caught.value.part.lower()
        assert "rulez" in caught.value.log_tail
    finally:
        up.stop()
    assert supervisor.running(tmp_path / "home") is None


def test_dev_up_refuses_a_wrong_policy_before_anything_starts(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nrulez: []\n")
    up = dev(tmp_path / "home", "up", "--policy", str(policy), "--json")
    assert up.returncode == 2
    assert str(policy) in json.loads(up.stdout)["error"]["message"]
    assert not (tmp_path / "home" / "logs").exists()


def test_a_refused_second_start_leaves_the_running_stack_alone(stack: DevStack) -> None:
    second = DevStack(stack.home, gateway=False)
    with pytest.raises(StackRunning):
        second.start()
    second.stop()
    assert (stack.home / "gateway-token").is_file()
    assert httpx.get(f"{stack.info.vault_addr}/v1/sys/health").status_code == 200
