"""`hoop vault setup` against a real OpenBao: what it writes is what the gateway needs, and no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from hoop_core.config import Settings, load_settings
from hoop_core.credentials.vault import VaultMinter
from hoop_core.credentials.vault_plan import Wanted, Workload, as_commands, difference, plan
from hoop_core.errors import ConfigError
from hoop_core.policy.file import parse_policy
from hoop_core.snowflake.setup import SetupNames
from tests.credentials_world import READER

if TYPE_CHECKING:
    from hoop_core.devstack.stack import DevStack

POLICY = """
version: 1
roles:
  - {groups: [ml-agents], vault_role: ml-reader, snowflake_role: ML_READER, warehouse: ML_WH}
rules:
  - {name: read, groups: [ml-agents], reads: ["PROD.CRM.*"], then: allow}
"""
HOOP = Workload(("vault",), subject="the-gateway")


def planned(**settings: Any) -> list[Wanted]:
    made = Settings(snowflake={"account": "acme-prod"}, **settings)
    return plan(made, parse_policy(POLICY, "p"), HOOP, SetupNames())


def body_of(wanted: list[Wanted], path: str) -> dict[str, Any]:
    return dict(next(w for w in wanted if w.path == path).body)


def test_a_revocation_may_name_hoops_own_leases_only() -> None:
    acl = json.loads(body_of(planned(), "sys/policies/acl/hoop-gateway")["policy"])["path"]
    assert acl["sys/leases/revoke"]["allowed_parameters"] == {
        "lease_id": ["database/creds/*"], "sync": [],
    }  # fmt: skip
    assert acl["sys/leases/revoke"]["required_parameters"] == ["lease_id"]
    assert [p for p in acl if "creds" in p] == [
        "database/creds/hoop-observer", "database/creds/ml-reader",
    ]  # fmt: skip


def test_recordings_are_encrypted_with_keys_that_the_gateway_cannot_unwrap() -> None:
    assert not [w for w in planned() if "transit" in w.path]
    wanted = planned(store={"recordings_key": "hoop-recordings"})
    assert body_of(wanted, "transit/keys/hoop-recordings") == {"type": "aes256-gcm96"}
    assert [w.mount for w in wanted if w.path == "sys/mounts/transit"] == ["transit"]
    acl = json.loads(body_of(wanted, "sys/policies/acl/hoop-gateway")["policy"])["path"]
    assert {p: acl[p] for p in acl if p.startswith("transit/")} == {
        "transit/datakey/plaintext/hoop-recordings": {"capabilities": ["update"]}
    }


def test_the_key_that_signs_the_log_can_be_used_and_not_taken_out() -> None:
    wanted = planned(audit={"transit_key": "hoop-log"})
    assert body_of(wanted, "transit/keys/hoop-log") == {
        "type": "ed25519", "exportable": False, "allow_plaintext_backup": False,
    }  # fmt: skip
    acl = json.loads(body_of(wanted, "sys/policies/acl/hoop-gateway")["policy"])["path"]
    assert {p: acl[p]["capabilities"] for p in acl if p.startswith("transit/")} == {
        "transit/sign/hoop-log": ["update"], "transit/keys/hoop-log": ["read"],
    }  # fmt: skip


def test_user_names_are_never_quoted_in_what_vault_runs() -> None:
    for role in ("ml-reader", "hoop-observer"):
        body = body_of(planned(), f"database/roles/{role}")
        assert body["credential_type"] == "rsa_private_key"
        for statement in (*body["creation_statements"], *body["revocation_statements"]):
            assert "{{name}}" in statement and '"{{name}}"' not in statement


def test_each_account_has_a_mount_of_its_own() -> None:
    wanted = planned(accounts=[{"account": "acme-dev", "database_mount": "dev-db"}])
    url = body_of(wanted, "dev-db/config/snowflake")["connection_url"]
    assert url.startswith("acme-dev.snowflakecomputing.com/")
    assert "dev-db/roles/ml-reader" in [w.path for w in wanted]
    acl = json.loads(body_of(wanted, "sys/policies/acl/hoop-gateway")["policy"])["path"]
    assert "dev-db/creds/ml-reader" in acl
    assert acl["sys/leases/revoke"]["allowed_parameters"]["lease_id"] == [
        "database/creds/*", "dev-db/creds/*",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="share the Vault mount"):
        planned(accounts=[{"account": "acme-dev"}])


def test_a_login_that_anybody_could_use_is_refused() -> None:
    with pytest.raises(ConfigError, match="which token is Hoop's"):
        plan(
            Settings(snowflake={"account": "a"}), parse_policy(POLICY, "p"), Workload(("vault",)),
            SetupNames(),
        )  # fmt: skip


def test_the_printed_commands_hold_no_key() -> None:
    made = Settings(snowflake={"account": "acme-prod"})
    wanted = plan(made, parse_policy(POLICY, "p"), HOOP, SetupNames(), private_key="SECRET-KEY")
    text = as_commands(wanted)
    assert "SECRET-KEY" not in text and "SECRET-KEY" not in repr(wanted)
    assert "private_key=@vault-minter-private-key.pem" in text
    assert "vault secrets enable -path=database database" in text


def test_what_vault_says_in_other_words_is_no_difference() -> None:
    wanted = Wanted("x", {"ttl": "4h", "roles": ["b", "a"], "policy": '{"path": {"a": 1}}'})
    found = {"ttl": 14400, "roles": ["a", "b"], "policy": '{ "path": {"a":1} }', "other": 1}
    assert not difference(wanted, found).any
    assert difference(wanted, {**found, "ttl": 60}).changes == {"ttl": (60, "4h")}


@pytest.fixture(scope="module")
def snowflake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    from hoop_core.devstack.stack import DevStack

    with DevStack(tmp_path_factory.mktemp("vault-setup"), gateway=False) as running:
        yield running


@pytest.mark.e2e
def test_a_bare_vault_is_set_up_and_mints_and_a_second_run_changes_nothing(
    snowflake: DevStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hoop_core.cli.vault import app
    from hoop_core.devstack.openbao import OpenBao
    from hoop_core.devstack.processes import free_port
    from hoop_core.devstack.vault_setup import GATEWAY, SnowflakeTarget, VaultSetup

    key = tmp_path / "minter.pem"
    key.write_text(snowflake._private_key)
    target = SnowflakeTarget("127.0.0.1", snowflake._emulator_port, snowflake._private_key)
    bao = OpenBao(tmp_path / "bao", port=free_port(), log=tmp_path / "bao.log")
    plugin = bao.start()

    def hoop(*options: str) -> Result:
        arguments = [
            "setup", "--config", str(snowflake.config_file), "--bound-subject", subject,
            "--issuer", snowflake.info.issuer, "--connection-url", target.connection_url, "--json",
        ]  # fmt: skip
        return CliRunner().invoke(app, [*arguments, *options])

    try:
        with VaultSetup(bao.address) as setup:
            client = setup._client
            client.write_data(
                "sys/plugins/catalog/database/snowflake-database-plugin",
                data={"command": plugin.command, "sha256": plugin.sha256},
            )
            monkeypatch.setenv("VAULT_ADDR", bao.address)
            monkeypatch.setenv("VAULT_TOKEN", client.token)
            token = snowflake.token(GATEWAY)
            subject = _subject(token)
            assert hoop("--diff").exit_code == 1
            keyless = hoop("--apply")
            assert keyless.exit_code == 2 and "private key was not given" in keyless.output
            first = hoop("--apply", "--private-key", str(key))
            assert first.exit_code == 0, first.output
            assert {d["state"] for d in json.loads(first.output)["differences"]} == {"new"}
            again = hoop("--apply")
            assert again.exit_code == 0, again.output
            assert {d["state"] for d in json.loads(again.output)["differences"]} == {"same"}
            assert hoop("--diff").exit_code == 0

            client.write_data("database/roles/ml-reader", data={
                "db_name": "snowflake", "creation_statements": ['CREATE USER "{{name}}"'],
            })  # fmt: skip
            changed = hoop("--diff")
            assert changed.exit_code == 1
            states = {d["path"]: d["state"] for d in json.loads(changed.output)["differences"]}
            assert [p for p, s in states.items() if s != "same"] == ["database/roles/ml-reader"]
            assert hoop("--apply").exit_code == 0

            settings = load_settings(snowflake.config_file).vault
            workload = tmp_path / "workload"
            workload.write_text(token)
            minter = VaultMinter(
                settings.model_copy(update={"address": bao.address, "jwt_file": workload}), "ABCDEF"
            )
            lease = minter.mint(minter.draft(READER, "s1"))
            assert lease.snowflake_user.startswith("V_TOKEN_HOOP_ABCDEF_")
            minter.revoke(lease)
            assert minter.sweep() == 0
            stranger = httpx.post(
                f"{bao.address}/v1/auth/jwt/login",
                json={"role": "hoop-gateway", "jwt": snowflake.token("alice")},
            )
            assert stranger.status_code == 400
    finally:
        bao.stop()


def _subject(token: str) -> str:
    import base64

    body = token.split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["sub"])
