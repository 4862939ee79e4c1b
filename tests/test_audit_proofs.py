"""Proofs and checkpoints, judged by libraries that others wrote: sigstore's and the Go transparency log's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from hoop_core.audit import merkle, proofs
from hoop_core.audit.checkpoint import Checkpoint
from hoop_core.audit.log import AuditLog
from hoop_core.audit.proofs import StoredTree
from hoop_core.audit.proving import consistency, inclusion
from hoop_core.audit.stored import bounds, stored_entries
from hoop_core.errors import ConfigError, EvidenceError, StoreUnavailable
from hoop_core.model import Json
from hoop_core.store import Store
from hoop_core.store.tables import log_entries, log_subtrees
from tests.clients_venv import environment
from tests.native_world import CLIENTS, build, built, tool
from tests.postgres_server import BOTH

DATABASES = BOTH
Judge = Callable[[list[Json]], list[str]]


@pytest.fixture(scope="module")
def sigstore() -> Judge:
    command = [str(environment("sigstore") / "python"), str(CLIENTS / "sigstore" / "check.py")]
    return lambda told: judged(command, told)


@pytest.fixture(scope="module")
def transparency() -> Judge:
    go = tool("go", "golang-go")
    with built(CLIENTS / "transparency", "go.mod", "go.sum", "main.go") as (folder, done):
        if not done:
            build([go, "build", "-o", "check", "."], folder, GOFLAGS="-buildvcs=false")
    return lambda told: judged([str(folder / "check")], told)


def judged(command: list[str], told: list[Json]) -> list[str]:
    lines = "".join(json.dumps(one) + "\n" for one in told)
    return subprocess.run(
        command, input=lines, capture_output=True, text=True, check=True, timeout=100
    ).stdout.split()


@pytest.fixture
def long_log(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> AuditLog:
    """Runs of four leaves, so that kept roots are used in a small log."""
    monkeypatch.setattr(proofs, "_LEVEL", 2)
    monkeypatch.setattr(proofs, "_RUN", 4)
    for number in range(23):
        log.append("test", {"n": number, "text": "Zo\u00eb"})
    return log


def all_proofs(log: AuditLog, store: Store) -> list[Json]:
    signed = log.checkpoint()
    key = {"verifier_key": log.key.verifier_key}
    told = [inclusion(store, seq, signed) | key for seq in range(signed.size)]
    return told + [consistency(store, n, signed) | key for n in range(1, signed.size + 1)]


def test_every_inclusion_proof_verifies_with_sigstore(
    long_log: AuditLog, store: Store, sigstore: Judge
) -> None:
    told = [p for p in all_proofs(long_log, store) if "entry" in p]
    assert sigstore(told) == ["verified"] * 23
    assert sigstore([p | {"entry": p["entry"] + " "} for p in told]) == ["refused"] * 23


def test_every_proof_and_checkpoint_verifies_with_the_go_libraries(
    long_log: AuditLog, store: Store, transparency: Judge
) -> None:
    told = all_proofs(long_log, store)
    assert transparency(told) == ["verified"] * 46
    other_root = [p | {"older_root": "00" * 32, "entry": p.get("entry", "") and "{}"} for p in told]
    assert set(transparency([p for p in other_root if p["path"]])) == {"refused"}
    unsigned = [p | {"checkpoint": p["checkpoint"].replace("\n23\n", "\n24\n")} for p in told]
    assert set(transparency(unsigned)) == {"refused"}


@pytest.mark.parametrize("number", [0, 1, 4])
def test_kept_roots_of_runs_that_somebody_changed_are_made_anew(
    long_log: AuditLog, store: Store, number: int
) -> None:
    signed = long_log.checkpoint()
    right = inclusion(store, 0, signed), inclusion(store, 17, signed), consistency(store, 3, signed)

    def spoil() -> None:
        with store.write() as connection:
            assert len(connection.scalars(select(log_subtrees.c.number)).all()) == 5
            one = update(log_subtrees).where(log_subtrees.c.number == number)
            connection.execute(one.values(root=bytes(32)))

    for proof in range(3):
        spoil()
        assert (
            inclusion(store, 0, signed) if proof == 0
            else inclusion(store, 17, signed) if proof == 1
            else consistency(store, 3, signed)
        ) == right[proof]  # fmt: skip
    spoil()
    tree = StoredTree(store, signed.size)
    assert tree.leads_to(signed.root) and not tree.leads_to(bytes(32))


def test_a_changed_entry_has_no_proof(long_log: AuditLog, store: Store) -> None:
    signed = long_log.checkpoint()
    with store.write() as connection:
        forged = log_entries.c.seq == 7
        connection.execute(update(log_entries).where(forged).values(leaf=bytes(32)))
    with pytest.raises(EvidenceError, match="not as it was signed"):
        inclusion(store, 7, signed)
    with pytest.raises(EvidenceError):
        consistency(store, 3, signed)


def test_a_missing_entry_is_named(long_log: AuditLog, store: Store) -> None:
    signed = long_log.checkpoint()
    with store.write() as connection:
        connection.execute(log_entries.delete().where(log_entries.c.seq == 22))
    with pytest.raises(StoreUnavailable, match="gap"):
        StoredTree(store, signed.size).root()


@pytest.mark.parametrize("seq", [-1, 23, 10**9])
def test_there_is_no_proof_for_what_is_not_there(
    long_log: AuditLog, store: Store, seq: int
) -> None:
    signed = long_log.checkpoint()
    with pytest.raises(ConfigError):
        inclusion(store, seq, signed)
    with pytest.raises(ConfigError):
        consistency(store, seq if seq != 23 else 24, signed)


def _tree(leaves: list[bytes]) -> Callable[[int, int], bytes]:
    return lambda begin, end: merkle.root_of(leaves[begin:end])


@given(st.integers(1, 80), st.data())
def test_an_inclusion_proof_leads_to_the_root_and_no_other_does(size: int, data: Any) -> None:
    leaves = [merkle.leaf_hash(bytes([n])) for n in range(size)]
    index = data.draw(st.integers(0, size - 1))
    path = merkle.inclusion_proof(index, size, _tree(leaves))
    assert merkle.root_by_inclusion(leaves[index], index, size, path) == merkle.root_of(leaves)
    if path:
        wrong = data.draw(st.integers(0, len(path) - 1))
        path[wrong] = bytes(32)
        assert merkle.root_by_inclusion(leaves[index], index, size, path) != merkle.root_of(leaves)
        with pytest.raises(ValueError, match="zip"):
            merkle.root_by_inclusion(leaves[index], index, size, path[:-1])


@given(st.integers(0, 300), st.integers(0, 300))
def test_subtrees_put_together_are_the_tree(first: int, more: int) -> None:
    leaves = [merkle.leaf_hash(n.to_bytes(2, "big")) for n in range(first + more)]
    tree = merkle.Frontier()
    for begin, end in ((0, first), (first, first + more)):
        for level, at in merkle.subtrees_of(begin, end):
            tree.append_subtree(level, merkle.root_of(leaves[at : at + (1 << level)]))
    assert (tree.size, tree.root()) == (len(leaves), merkle.root_of(leaves))
    assert merkle.Frontier.of(tree.size, tree.packed()).root() == tree.root()


def test_a_time_is_found_by_its_entries(log: AuditLog, store: Store) -> None:
    for number in range(9):
        log.append("test", {"n": number})
    times = [e.at for e in stored_entries(store)]
    assert bounds(store, None, None) == (0, 9)
    assert bounds(store, times[3], times[7]) == (times.index(times[3]), times.index(times[7]))
    assert bounds(store, "2000", "2000-01-02") == (0, 0)
    assert bounds(store, "9999", None) == (9, 9)


def test_a_checkpoint_of_an_older_tree_is_no_head(log: AuditLog, store: Store) -> None:
    log.append("test", {})
    older = log.checkpoint()
    log.append("test", {})
    assert isinstance(older, Checkpoint)
    assert inclusion(store, 0, older)["tree_size"] == 1


def test_the_command_prints_a_proof(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from hoop_core.cli.root import app
    from hoop_core.config import Settings
    from hoop_core.credentials.log_key import open_log

    url = f"sqlite:///{tmp_path / 'h.db'}"
    config = tmp_path / "hoop.toml"
    config.write_text(f'[store]\nurl = "{url}"\n[audit]\nkey_file = "{tmp_path / "k"}"\n')
    store = Store(url)
    store.migrate()
    audit = {"key_file": tmp_path / "k"}
    log = open_log(Settings.model_validate({"store": {"url": url}, "audit": audit}), store)
    log.append("test", {"n": 1})
    store.close()
    ran = CliRunner().invoke(app, ["audit", "prove", "0", "--config", str(config), "--json"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.output)["tree_size"] == 1
    ran = CliRunner().invoke(app, ["audit", "prove", "5", "--config", str(config), "--json"])
    assert (ran.exit_code, "no entry 5" in ran.output) == (2, True)
