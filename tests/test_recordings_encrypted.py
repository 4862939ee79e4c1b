"""Recordings encrypted with keys of a real OpenBao: who records cannot read, and who reads finds what was shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hoop_core.audit.log import AuditLog
from hoop_core.audit.recording import Recorder
from hoop_core.audit.recording_keys import RecordingKeys
from hoop_core.config import VaultSettings
from hoop_core.credentials.transit import TransitDataKeys
from hoop_core.errors import EvidenceError, StoreUnavailable, VaultUnavailable
from hoop_core.replay.results import recorded_files, verified_file
from hoop_core.replay.session import Result
from hoop_core.replay.unsealing import Unsealer
from tests.replay_world import SESSION, RecordedLog

pytestmark = pytest.mark.e2e
NAME = "hoop-recordings"
CANARY = b"anna@example.com 078-05-1120 "


@dataclass(frozen=True)
class Vault:
    settings: VaultSettings
    root: str


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    """Its gateway may do what `hoop vault setup` lets it: have keys made, and nothing more."""
    from hoop_core.devstack.openbao import OpenBao
    from hoop_core.devstack.processes import free_port
    from hoop_core.devstack.vault_setup import GATEWAY, VaultSetup
    from hoop_core.snowflake.vault_roles import gateway_policy

    home = tmp_path_factory.mktemp("transit")
    bao = OpenBao(home / "bao", port=free_port(), log=home / "bao.log")
    bao.start()
    try:
        with VaultSetup(bao.address) as setup:
            identities = setup.identities()
            client = setup._client
            client.sys.enable_secrets_engine("transit")
            client.write_data(f"transit/keys/{NAME}", data={"type": "aes256-gcm96"})
            acl = gateway_policy({}, data_keys=[f"transit/datakey/plaintext/{NAME}"])
            client.write_data(
                f"sys/policies/acl/{GATEWAY}", data={"policy": json.dumps({"path": acl})}
            )
            token = home / "workload"
            token.write_text(identities.token(GATEWAY))
            yield Vault(VaultSettings(address=bao.address, jwt_file=token), client.token)
    finally:
        bao.stop()


@pytest.fixture
def recorder(vault: Vault, log: AuditLog, tmp_path: Path) -> Recorder:
    keys = RecordingKeys(TransitDataKeys(vault.settings, NAME), log)
    return Recorder(str(tmp_path / "rec"), keys=keys)


def opening(vault: Vault) -> Unsealer:
    return Unsealer(lambda name, w: TransitDataKeys(vault.settings, name, vault.root).unwrapped(w))


def recorded(recorder: Recorder, session: str = "ses_1", number: int = 1) -> list[dict[str, Any]]:
    kept, _ = recorder.open_exchange(session, number).write({"asked": CANARY.decode()}, CANARY * 9)
    return [f.as_json() for f in kept]


def kinds(log: AuditLog) -> list[tuple[str, dict[str, Any]]]:
    return [(e.kind, json.loads(e.text)["data"]) for e in log.entries()]


def test_what_lies_there_shows_nothing_and_opens_to_what_was_shown(
    vault: Vault, recorder: Recorder, tmp_path: Path
) -> None:
    told = recorded(recorder)
    for file in (tmp_path / "rec").rglob("*"):
        assert not file.is_file() or b"anna" not in file.read_bytes()
    opened = [
        opening(vault).opened(t, verified_file(t, recorder.read(t["path"])), recorder.read)
        for t in told
    ]
    assert opened[1] == CANARY * 9
    assert json.loads(opened[0] or b"") == {"asked": CANARY.decode()}


def test_the_log_has_both_digests_and_vouches_for_the_wrapped_key_before_it_is_used(
    recorder: Recorder, log: AuditLog
) -> None:
    told = recorded(recorder)
    [(kind, data)] = kinds(log)
    assert kind == "recording.key" and data["transit_key"] == NAME
    [key] = recorded_files(data)
    assert verified_file(key, recorder.read(key["path"]))
    assert {(t["key"]["path"], t["key"]["sha256"]) for t in told} == {(key["path"], key["sha256"])}
    assert all(t["shown"]["sha256"] != t["sha256"] for t in told)
    assert "vault:v1:" in recorder.read(key["path"]).decode()


def test_a_session_has_one_key_and_another_session_another(
    recorder: Recorder, log: AuditLog
) -> None:
    same = {t["key"]["path"] for n in (1, 2) for t in recorded(recorder, "ses_1", n)}
    other = {t["key"]["path"] for t in recorded(recorder, "ses_2")}
    assert len(same) == len(other) == 1 and same != other
    assert [kind for kind, _ in kinds(log)] == ["recording.key"] * 2


def test_the_gateways_own_identity_cannot_open_what_it_recorded(
    vault: Vault, recorder: Recorder
) -> None:
    [told, _] = recorded(recorder)
    unsealer = Unsealer(lambda name, w: TransitDataKeys(vault.settings, name).unwrapped(w))
    with pytest.raises(VaultUnavailable, match="does not let Hoop"):
        unsealer.opened(told, recorder.read(told["path"]), recorder.read)


def test_without_a_key_the_file_stays_closed_and_that_is_no_error(recorder: Recorder) -> None:
    [told, _] = recorded(recorder)
    assert Unsealer().opened(told, recorder.read(told["path"]), recorder.read) is None


def test_a_key_file_that_was_exchanged_is_found(vault: Vault, recorder: Recorder) -> None:
    [mine, _], [other, _] = recorded(recorder, "ses_1"), recorded(recorder, "ses_2")

    def read(path: str) -> bytes:
        return recorder.read(other["key"]["path"] if path == mine["key"]["path"] else path)

    with pytest.raises(EvidenceError, match="not the one"):
        opening(vault).opened(mine, recorder.read(mine["path"]), read)


def test_a_file_of_another_session_does_not_open_under_this_ones_name(
    vault: Vault, recorder: Recorder
) -> None:
    [mine, _], [again, _] = recorded(recorder, "ses_1", 1), recorded(recorder, "ses_1", 2)
    with pytest.raises(EvidenceError, match="does not open"):
        opening(vault).opened(mine, recorder.read(again["path"]), recorder.read)


def test_with_vault_away_nothing_is_recorded_in_the_clear(
    vault: Vault, log: AuditLog, tmp_path: Path
) -> None:
    away = vault.settings.model_copy(update={"address": "http://127.0.0.1:1"})
    keys = RecordingKeys(TransitDataKeys(away, NAME), log)
    recorder = Recorder(str(tmp_path / "rec"), keys=keys)
    assert not recorder.ready("ses_1")
    with pytest.raises(StoreUnavailable, match="no key to encrypt"):
        recorder.prepare("ses_1")
    with pytest.raises(StoreUnavailable):
        recorder.open_exchange("ses_1", 1)
    assert not [p for p in (tmp_path / "rec").rglob("*") if p.is_file()]
    assert kinds(log) == []


def test_replay_looks_into_encrypted_results_with_the_key_and_says_so_without(
    vault: Vault, recorder: Recorder
) -> None:
    """The recording shows an address that the mask should have taken away."""
    told = RecordedLog()
    intent = told.ask("SELECT id, email FROM c")
    outcome = told.answer(intent, ["ID", "EMAIL"], [["1", "anna@example.com"]])
    plain = list(told.files.values())
    exchange = recorder.open_exchange(SESSION, 1)
    exchange.asked.write(plain[0])
    exchange.shown.write(plain[1])
    sealed = [exchange.asked.close().as_json(), exchange.shown.close().as_json()]
    told.entries[outcome]["data"]["recording"] = sealed
    told.files = {}
    for each in sealed:
        for path in (each["path"], each["key"]["path"]):
            told.files[path] = recorder.read(path)
    [closed] = told.replay().session(SESSION)
    assert closed.result is Result.MATCHES and closed.checked.files == 2
    assert all("encrypted" in why for why in closed.checked.left_out)
    [opened] = told.replay(opening(vault)).session(SESSION)
    assert [d.what for d in opened.differences] == ["masked result"]
