"""The log signed by a key that never leaves a real OpenBao."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hoop_core.audit.verify import verify_bundle, verify_store
from hoop_core.config import Settings
from hoop_core.credentials.log_key import open_log, opened_log
from hoop_core.errors import ConfigError, StoreUnavailable
from hoop_core.evidence.bundle import Population, export_bundle
from hoop_core.store import Store

pytestmark = pytest.mark.e2e


@dataclass
class Vault:
    """`stop` ends it; `client` is its administrator's."""

    address: str
    token: Path
    client: Any
    server: Any
    stopped: bool = False

    def stop(self) -> None:
        self.stopped = True
        self.server.stop()

    def settings(self, folder: Path, key: str = "hoop-log", **audit: Any) -> Settings:
        return Settings.model_validate(
            {
                "store": {"url": f"sqlite:///{folder / 't.db'}", "recordings": str(folder / "rec")},
                "audit": {"transit_key": key, "origin": "test.example/log", **audit},
                "vault": {"address": self.address, "jwt_file": self.token, "timeout_seconds": 5},
            }
        )


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    """Its gateway may do what `hoop vault setup` lets it: sign, and read the public key."""
    from hoop_core.credentials.vault_plan import LOG_KEY
    from hoop_core.devstack.openbao import OpenBao
    from hoop_core.devstack.processes import free_port
    from hoop_core.devstack.vault_setup import GATEWAY, SetupFailed, VaultSetup
    from hoop_core.snowflake.vault_roles import gateway_policy

    home = tmp_path_factory.mktemp("transit")
    bao = OpenBao(home / "bao", port=free_port(), log=home / "bao.log")
    bao.start()
    try:
        with VaultSetup(bao.address) as setup:
            identities, client = setup.identities(), setup._client
            client.sys.enable_secrets_engine("transit")
            client.write_data("transit/keys/hoop-log", data=LOG_KEY)
            client.write_data("transit/keys/loose", data={**LOG_KEY, "exportable": True})
            client.write_data("transit/keys/rsa", data={"type": "rsa-2048"})
            acl: dict[str, Any] = {}
            for key in ("hoop-log", "loose", "rsa"):
                acl |= gateway_policy({}, signing=("transit", key))
            policy = json.dumps({"path": acl})
            client.write_data(f"sys/policies/acl/{GATEWAY}", data={"policy": policy})
            token = home / "workload"
            token.write_text(identities.token(GATEWAY))
            made = Vault(bao.address, token, client, bao)
            yield made
    except SetupFailed:
        if not made.stopped:
            raise
    finally:
        bao.stop()


def begun(settings: Settings) -> None:
    store = Store(settings.store.url)
    store.migrate()
    log = open_log(settings, store)
    for number in range(3):
        log.append("test", {"n": number})
    log.checkpoint()
    store.close()


def test_the_log_is_signed_by_vault_and_verifies_with_its_public_key(
    vault: Vault, tmp_path: Path
) -> None:
    settings = vault.settings(tmp_path)
    begun(settings)
    with opened_log(settings) as (store, log):
        key = log.key.verifier_key
        log.append("test", {})
        made = export_bundle(
            settings, tmp_path / "evidence.zip", Population("tester"), log=log, store=store
        )
    assert verify_store(settings.store.url, verifier_key=key).faults == ()
    assert verify_bundle(made.path, verifier_key=key).faults == ()
    assert not list(tmp_path.glob("*.key"))


def test_vault_is_asked_at_the_start_and_for_checkpoints_not_for_entries(
    vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = vault.settings(tmp_path)
    begun(settings)
    with opened_log(settings) as (_, log):
        asked: list[bytes] = []
        sign = type(log.key).signature
        monkeypatch.setattr(
            type(log.key), "signature", lambda key, told: (asked.append(told), sign(key, told))[1]
        )
        for _ in range(5):
            log.append("test", {})
        assert asked == []
        log.checkpoint()
        assert len(asked) == 1


@pytest.mark.parametrize(
    ("key", "says"),
    [("loose", "exportable"), ("rsa", "not ed25519"), ("hoop-log", "no version 7")],
)
def test_a_key_that_could_sign_elsewhere_is_refused(
    vault: Vault, tmp_path: Path, key: str, says: str
) -> None:
    more = {"transit_version": 7} if key == "hoop-log" else {}
    with pytest.raises(ConfigError, match=says):
        begun(vault.settings(tmp_path, key, **more))


def test_the_key_cannot_be_taken_out_by_whoever_signs_with_it(vault: Vault) -> None:
    told = vault.client.read("transit/keys/hoop-log")["data"]
    assert (told["exportable"], told["allow_plaintext_backup"]) == (False, False)
    with pytest.raises(Exception, match="not exportable"):
        vault.client.read("transit/export/signing-key/hoop-log")


def test_a_log_of_a_key_file_is_not_taken_over_by_one_in_vault(
    vault: Vault, tmp_path: Path
) -> None:
    settings = vault.settings(tmp_path)
    on_file = settings.model_copy(
        update={"audit": settings.audit.model_copy(
            update={"transit_key": "", "key_file": tmp_path / "k"})}
    )  # fmt: skip
    begun(on_file)
    with pytest.raises(ConfigError, match="another key"):
        begun(settings)


def test_without_vault_entries_go_on_and_checkpoints_say_why_not(
    vault: Vault, tmp_path: Path
) -> None:
    """Last: it ends the server."""
    settings = vault.settings(tmp_path)
    begun(settings)
    with opened_log(settings) as (_, log):
        log.append("test", {})
        vault.stop()
        assert log.append("test", {}) == 4
        with pytest.raises(StoreUnavailable, match="cannot be signed"):
            log.checkpoint()
        assert log.append("test", {}) == 5
    with pytest.raises(StoreUnavailable, match="cannot be signed"), opened_log(settings):
        pass
