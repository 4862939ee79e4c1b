"""What Hoop makes of Vault's answers and of its own key file, without a Vault."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from hoop_core.config import AccountSettings, Settings, SnowflakeSettings, VaultSettings
from hoop_core.credentials.accounts import Accounts, configured, minter_for
from hoop_core.credentials.direct import PASSPHRASE, new_key, read_key
from hoop_core.credentials.minting import VAULT_FAULT
from hoop_core.credentials.vault import VaultMinter
from hoop_core.errors import ConfigError, IdentityError, VaultUnavailable
from hoop_core.model import RoleBinding, account_key

READER = RoleBinding("ml-reader", "ML_READER")


class Answers(requests.Session):
    """A Vault that answers from a script: path to status and body, or to several, the last one for ever."""

    def __init__(self, script: dict[str, Any]) -> None:
        super().__init__()
        self.script, self.asked = script, []

    def request(self, method: Any, url: Any, *_: Any, **__: Any) -> requests.Response:  # type: ignore[override]
        path = url.partition("/v1/")[2]
        self.asked.append(path)
        said = self.script.get(path, (204, None))
        if isinstance(said, list):
            said = said.pop(0) if len(said) > 1 else said[0]
        status, body = said
        answer = requests.Response()
        answer.status_code, answer.url = status, url
        answer._content = b"" if body is None else json.dumps(body).encode()
        answer.headers["Content-Type"] = "application/json"
        return answer


LOGIN = {"auth": {"client_token": "t-parent", "accessor": "a-parent"}}
CHILD = {"auth": {"client_token": "t-child", "accessor": "a-child"}}


def minter(tmp_path: Path, **creds: Any) -> tuple[VaultMinter, Answers]:
    token = tmp_path / "jwt"
    token.write_text("jwt")
    script: dict[str, Any] = {
        "auth/jwt/login": (200, LOGIN),
        "auth/token/create": (200, CHILD),
    }
    if creds:
        script["database/creds/ml-reader"] = (200, creds)
    answers = Answers(script)
    return VaultMinter(VaultSettings(jwt_file=token), "ABCDEF", answers), answers


def test_a_user_that_vault_names_in_its_own_way_is_refused(tmp_path: Path) -> None:
    key = new_key()[0].decode()
    vault, _ = minter(
        tmp_path, lease_id="database/creds/ml-reader/1", lease_duration=60,
        data={"username": "svc_1", "rsa_private_key": key},
    )  # fmt: skip
    with pytest.raises(VaultUnavailable, match="username_template"):
        vault.mint(vault.draft(READER, "s"))


def test_a_role_that_gives_passwords_is_refused(tmp_path: Path) -> None:
    vault, _ = minter(
        tmp_path, lease_id="x", lease_duration=60, data={"username": "u", "password": "p-secret"}
    )
    with pytest.raises(VaultUnavailable, match="rsa_private_key") as refused:
        vault.mint(vault.draft(READER, "s"))
    assert "p-secret" not in str(refused.value)


def test_an_answer_that_is_none_is_an_error_of_ours(tmp_path: Path) -> None:
    vault, _ = minter(tmp_path, something="else")
    with pytest.raises(VaultUnavailable):
        vault.mint(vault.draft(READER, "s"))


def test_a_token_that_cannot_be_used_for_minting_is_given_back(tmp_path: Path) -> None:
    vault, answers = minter(tmp_path)
    answers.script["auth/token/create"] = (403, {"errors": ["permission denied"]})
    with pytest.raises(VaultUnavailable, match="does not let Hoop"):
        vault.draft(READER, "s")
    assert answers.asked[-1] == "auth/token/revoke-self"


def test_a_failed_mint_gives_its_token_back(tmp_path: Path) -> None:
    vault, answers = minter(tmp_path)
    answers.script["database/creds/ml-reader"] = (500, {"errors": ["no"]})
    with pytest.raises(VaultUnavailable):
        vault.mint(vault.draft(READER, "s"))
    assert answers.asked[-1] == "auth/token/revoke-self"


DEAD_PLUGIN = (400, {"errors": ["failed to revoke entry: plugin shutdown"]})


def test_a_revocation_that_finds_vaults_plugin_dead_is_asked_for_again(tmp_path: Path) -> None:
    vault, answers = minter(tmp_path)
    lease = replace(vault.draft(READER, "s").lease, lease_id="database/creds/ml-reader/1")
    answers.script["sys/leases/revoke"] = [DEAD_PLUGIN, (204, None)]
    vault.revoke(lease)
    assert answers.asked.count("sys/leases/revoke") == 2


def test_a_revocation_that_vault_refuses_twice_has_failed(tmp_path: Path) -> None:
    vault, answers = minter(tmp_path)
    lease = replace(vault.draft(READER, "s").lease, lease_id="database/creds/ml-reader/1")
    answers.script["sys/leases/revoke"] = DEAD_PLUGIN
    with pytest.raises(VaultUnavailable, match="plugin shutdown"):
        vault.revoke(lease)
    assert answers.asked.count("sys/leases/revoke") == 2


def test_a_fault_inside_vault_is_told_from_one_that_does_not_answer(tmp_path: Path) -> None:
    vault, answers = minter(tmp_path)
    answers.script["database/creds/ml-reader"] = (500, {"errors": ["internal error"]})
    with pytest.raises(VaultUnavailable) as failed:
        vault.mint(vault.draft(READER, "s"))
    answers.script["database/creds/ml-reader"] = (503, {"errors": ["Vault is sealed"]})
    with pytest.raises(VaultUnavailable) as silent:
        vault.mint(vault.draft(READER, "s"))
    assert (failed.value.reason, silent.value.reason) == (VAULT_FAULT, "VAULT_UNAVAILABLE")


def test_secrets_are_in_no_repr(tmp_path: Path) -> None:
    vault, _ = minter(tmp_path)
    draft = vault.draft(READER, "s")
    assert draft.secret == "t-child" and draft.lease.accessor == "a-parent"
    assert "t-child" not in repr(draft) and "a-parent" not in repr(draft)
    assert draft.lease.snowflake_user.startswith("V_TOKEN_HOOP_ABCDEF_")


def test_what_vault_gave_up_is_revoked_where_it_is_hoops(tmp_path: Path) -> None:
    vault, answers = minter(tmp_path)
    leases = [{"lease_id": i} for i in ("database/creds/ml-reader/1", "other/creds/x/2")]
    answers.script["sys/leases"] = (200, {"data": {"leases": leases}})
    assert vault.sweep() == 1
    assert answers.asked.count("sys/leases/revoke") == 1


# --- the direct minter's own key ----------------------------------------------------------------


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    path.chmod(mode)
    return path


def pem(key: Any, passphrase: bytes = b"") -> bytes:
    how = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how))


KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "k.pem", pem(KEY), 0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_key(file)
    file.chmod(0o600)
    assert read_key(file) == pem(KEY)


def test_an_encrypted_key_is_opened_with_the_passphrase_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "k.pem", pem(KEY, b"open sesame"))
    for wrong in ("", "sesame"):
        monkeypatch.setenv(PASSPHRASE, wrong)
        with pytest.raises(ConfigError, match=PASSPHRASE) as refused:
            read_key(file)
        assert not wrong or wrong not in str(refused.value).replace(PASSPHRASE, "")
    monkeypatch.setenv(PASSPHRASE, "open sesame")
    assert read_key(file) == pem(KEY)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nothing",
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)),
    ],
)
def test_what_is_no_rsa_key_of_enough_bits_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError):
        read_key(write(tmp_path / "k.pem", content))


def test_a_missing_or_unnamed_key_is_refused_when_the_gateway_is_built(tmp_path: Path) -> None:
    for direct in ({}, {"private_key_file": tmp_path / "none.pem"}):
        settings = Settings(
            snowflake={"account": "a"}, credentials={"backend": "direct", "direct": direct}
        )
        with pytest.raises(ConfigError, match=r"private_key_file is not set|cannot be read"):
            minter_for(settings, configured(settings)[0], "ABCDEF")


# --- accounts -----------------------------------------------------------------------------------


def test_the_default_account_comes_first_and_the_others_keep_what_they_leave_out() -> None:
    settings = Settings(
        snowflake=SnowflakeSettings(account="acme-prod", url="https://prod"),
        accounts=(AccountSettings(account="acme_dev", database_mount="dev"),),
    )
    assert [a.account for a in configured(settings)] == ["acme-prod", "acme_dev"]
    assert [a.url for a in configured(settings)] == ["https://prod", ""]


@pytest.mark.parametrize("name", ["ACME_PROD", "acme-prod", "acme-prod.eu-central-1", " acme-prod"])
def test_two_spellings_of_one_account_are_one_too_many(name: str) -> None:
    settings = Settings(
        snowflake=SnowflakeSettings(account="acme-prod"), accounts=(AccountSettings(account=name),)
    )
    with pytest.raises(ConfigError, match="twice"):
        configured(settings)


def accounts(*names: str) -> Accounts:
    made: Any = [SimpleNamespace(key=account_key(n)) for n in names]
    return Accounts(made)


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        (None, "ACME-PROD"),
        (" ", "ACME-PROD"),
        ("hoop", "ACME-PROD"),
        ("acme_prod", "ACME-PROD"),
        ("Acme_Dev.eu-central-1", "ACME-DEV"),
    ],
)
def test_a_client_chooses_by_any_spelling_and_gets_the_default_without_a_name(
    given: str | None, chosen: str
) -> None:
    assert accounts("acme-prod", "acme-dev").choose(given) == chosen


def test_an_unknown_name_is_refused_without_naming_the_known_ones() -> None:
    with pytest.raises(IdentityError) as refused:
        accounts("acme-prod", "acme-dev").choose("other")
    assert refused.value.errno == 390100 and "acme" not in refused.value.text.lower()
    assert accounts("acme-prod").choose("other") == "ACME-PROD"


PLAIN = {
    "vault.address": {"vault": {"address": "http://vault.example"}},
    "snowflake.url": {"snowflake": {"account": "a", "url": "http://snowflake.example"}},
}


@pytest.mark.parametrize("what", PLAIN)
def test_credentials_do_not_travel_in_clear_to_another_host(what: str) -> None:
    given: dict[str, Any] = {"snowflake": {"account": "a"}, **PLAIN[what]}
    with pytest.raises(ConfigError, match=f"{what}.*in clear"):
        configured(Settings(**given))
    section = what.partition(".")[0]
    given[section] = {**given[section], "unsafe_plain_http": True}
    assert configured(Settings(**given))


def test_settings_show_no_password_of_the_store() -> None:
    shown = repr(Settings(store={"url": "postgresql://hoop:s3cr3t@db/hoop"}))
    assert "s3cr3t" not in shown
