"""The Parquet files where something is wrong with their place, with the recordings, or with the process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from hoop_core.audit.log import AuditLog
from hoop_core.audit.recording import rowset_to_arrow
from hoop_core.cli.root import app
from hoop_core.errors import ConfigError, StoreUnavailable
from hoop_core.lake import files as lake_files
from hoop_core.lake.writer import LakeWriter
from hoop_core.store import Store
from hoop_core.store.tables import log_entries
from tests.lake_world import ROWTYPE, Killed, World, killed


@pytest.fixture
def world(store: Store, log: AuditLog, tmp_path: Path) -> Iterator[World]:
    log.append("log.begun", {})
    yield World(store, log, tmp_path)


def test_a_process_that_dies_while_it_writes_leaves_nothing_that_readers_see(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.session(1, "a@x")
    monkeypatch.setattr(lake_files, "_renamed", killed)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # nobody tidies up after a kill
    with pytest.raises(Killed):
        world.writer("one").step()
    monkeypatch.undo()
    (left,) = [p for p in Path(world.root).rglob("*") if p.is_file()]
    assert left.name.startswith(".")
    assert world.ask("SELECT * FROM entries") == []
    world.writer("one").step()
    assert not left.exists()
    assert world.whole()


def test_the_command_empties_the_files_too(world: World, tmp_path: Path) -> None:
    made = world.policy()
    (tmp_path / "p.yaml").write_text(made.text)
    world.session(1, "a@x")
    with world.store.write() as connection:
        connection.execute(update(log_entries).values(at="2020-01-01T00:00:00.000000Z"))
    world.writer("gateway").step()
    assert world.values() == ["SELECT 'a@x'", "a@x"]
    config = tmp_path / "hoop.toml"
    sections: dict[str, dict[str, str]] = {
        "store": {
            "url": world.store.url.render_as_string(hide_password=False),
            "recordings": str(tmp_path / "recordings"),
        },
        "audit": {"origin": "test.example/log", "key_file": str(tmp_path / "log.key")},
        "policy": {"file": str(tmp_path / "p.yaml")},
        "lake": {"root": world.root},
    }
    config.write_text(
        "".join(
            f"[{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items())
            for name, values in sections.items()
        )
    )
    asked = ["audit", "prune", "--config", str(config), "--json"]
    found = CliRunner().invoke(app, asked)
    assert (found.exit_code, json.loads(found.stdout)["entries"]) == (0, 2)
    sql = "SELECT count(*) FILTER (WHERE pruned), (SELECT count(*) FROM results) FROM entries"
    shown = ["audit", "query", "--config", str(config), "--json", sql]
    assert json.loads(CliRunner().invoke(app, shown).stdout)["rows"] == [[2, 0]]
    assert world.values() == []


# ---------------------------------------------------------------------- what is not written


def test_a_recording_that_the_log_does_not_vouch_for_is_left_out(world: World) -> None:
    file = world.session(1, "a@x")
    file.write_bytes(rowset_to_arrow(ROWTYPE, [["forged@x"]]))
    assert world.whole()
    assert world.values() == ["SELECT 'a@x'"]


def test_a_recording_that_is_gone_does_not_hold_the_rest_up(world: World) -> None:
    world.session(1, "a@x").unlink()
    world.session(2, "b@x")
    assert world.whole()
    assert world.values()[-1] == "b@x"


def test_a_place_that_cannot_be_written_is_named_and_tried_again(world: World) -> None:
    world.session(1, "a@x")
    Path(world.root).write_text("in the way")
    with pytest.raises(StoreUnavailable, match=r"Check lake\.root"):
        world.writer("one").step()
    Path(world.root).unlink()
    assert world.writer("one").step()
    assert world.whole()


def test_a_root_that_is_no_place_is_a_mistake_in_the_configuration(world: World) -> None:
    world.root = "nonsense://bucket/lake"
    with pytest.raises(ConfigError, match=r"lake\.root"):
        world.writer("one")


# ---------------------------------------------------------------------- object stores


def test_an_object_store_holds_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object is put as a whole: one that breaks off in the middle never shows."""
    world.root = f"memory://{world.folder.name}"
    memory = fsspec.filesystem("memory")
    policy = world.policy()
    world.session(1, "a@x")
    with monkeypatch.context() as patched:
        patched.setattr(LakeWriter, "_results", killed)
        with pytest.raises(Killed):
            world.writer("one").step()
    assert [p for p in memory.find(f"/{world.folder.name}") if "results" in p] == []
    world.writer("one").step()
    assert world.values() == ["SELECT 'a@x'", "a@x"]
    world.prune(policy)
    world.writer("one").step()
    assert world.values() == []
    assert world.whole()
    memory.rm(f"/{world.folder.name}", recursive=True)


def test_a_folder_without_files_is_an_error_and_not_an_answer(tmp_path: Path) -> None:
    """Nothing found must not look like nothing happened."""
    asked = ["audit", "query", "--root", str(tmp_path / "typo"), "SELECT * FROM statements"]
    found = CliRunner().invoke(app, asked)
    assert found.exit_code == 2
    assert "no Parquet files" in found.output
