"""Uploads: taken within limits, on record before they are written on, once, and gone when they are not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from unittest.mock import MagicMock

import pytest
import structlog
from starlette.requests import Request

from hoop_core.audit.log import AuditLog
from hoop_core.config import UploadSettings
from hoop_core.errors import SnowflakeUnavailable, StoreUnavailable
from hoop_core.gateway.unserved import Unserved
from hoop_core.loads import uploads as uploads_module
from hoop_core.loads.uploads import UPLOAD_PATH, UploadGone, UploadRefused, Uploads
from hoop_core.model import Identity, Json, NameContext, RoleBinding, RunContext
from hoop_core.session.guarded import GuardedSession
from hoop_core.sql.loading import Put, Stage
from hoop_core.sql.loading_reader import read_loading

SECRET = "the-master-key"
HERE = NameContext("D", "S")


@dataclass
class World:
    """The desk, one session with a stage of its own, and Snowflake and its storage as they are seen from it."""

    log: AuditLog
    folder: Path
    session: GuardedSession
    settings: UploadSettings
    stored: dict[str, bytes] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    fails: Exception | None = None
    open_names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.uploads = Uploads(self.settings, self.log, public_url="http://hoop")

    async def query(self, body: Json, _request_id: Any) -> Json:
        self.texts.append(body["sqlText"])
        data = {"stageInfo": {"creds": {"AWS_SECRET_KEY": SECRET}}, "queryId": "q"}
        return {"success": True, "data": data}

    def send(self, _answer: Json, name: str, content: IO[bytes]) -> None:
        self.open_names += [f.name for f in self.folder.iterdir()]
        if self.fails is not None:
            raise self.fails
        content.seek(0)
        self.stored[name] = content.read()

    def offer(self, sql: str = "PUT file://a.csv @~/in AUTO_COMPRESS = FALSE") -> str:
        put = read_loading(sql, HERE)
        assert isinstance(put, Put)
        self.session.staging.at(self, strict=False)
        upstream: Any = self
        answer = self.uploads.offer(self.session, upstream, "st-1", put, "q")
        url = answer["data"]["stageInfo"]["presignedUrl"]
        assert SECRET not in json.dumps(answer)
        return str(url).rsplit("/", 1)[1]

    def upload(self, token: str, *pieces: bytes, **headers: str) -> None:
        given = {k.replace("_", "-"): v for k, v in headers.items()}
        asyncio.run(self.uploads.receive(token, given, body(*pieces)))

    def entries(self, kind: str) -> list[Json]:
        return [json.loads(e.text)["data"] for e in self.log.entries() if e.kind == kind]


async def body(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


Make = Callable[..., World]


@pytest.fixture
def make(log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    folder = tmp_path / "spool"
    folder.mkdir()

    async def nobody(*_: Any) -> Any:
        raise AssertionError

    def made(**settings: Any) -> World:
        session = GuardedSession(
            id="ses_1", identity=Identity("i", "s", "n", (), "oidc", ""), role=RoleBinding("v", "R"),
            names=HERE, run=RunContext(), client={}, parameters={}, opened_at=datetime.now(UTC),
            open_upstream=nobody,
        )  # fmt: skip
        world = World(log, folder, session, UploadSettings(folder=folder, **settings))
        monkeypatch.setattr(uploads_module, "send", world.send)
        return world

    return made


@pytest.fixture
def world(make: Make) -> World:
    return make()


def digest(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


def test_a_file_is_on_record_and_then_in_the_stage(world: World) -> None:
    world.upload(world.offer(), b"1,", b"2\n", x_goog_meta_sfc_digest=digest(b"1,2\n"))
    assert world.stored == {"a.csv": b"1,2\n"}
    [received], [outcome] = world.entries("upload.received"), world.entries("upload.outcome")
    assert received["file"] == "@~/in/a.csv" and received["bytes"] == 4
    assert received["sha256"] == hashlib.sha256(b"1,2\n").hexdigest()
    assert received["executed"] == world.texts[0]
    assert world.texts == [
        "PUT 'file://a.csv' '@~/in' AUTO_COMPRESS = FALSE SOURCE_COMPRESSION = NONE OVERWRITE = TRUE"
    ]
    assert outcome["status"] == "stored"
    [file] = world.session.staging.contents(Stage(None, ("in",)))
    assert (file.path, file.sha256, file.sure) == ("in/a.csv", received["sha256"], True)
    assert SECRET not in "".join(e.text for e in world.log.entries())


def test_the_file_has_no_name_while_it_is_here(world: World) -> None:
    world.upload(world.offer(), b"x" * 3_000_000)
    assert world.open_names == [] and not any(world.folder.iterdir())


def test_the_same_file_again_is_answered_and_not_written_twice(world: World) -> None:
    token = world.offer()
    world.upload(token, b"1\n")
    world.upload(token, b"1\n")
    assert len(world.texts) == 1
    with pytest.raises(UploadRefused, match="Another file"):
        world.upload(token, b"2\n")
    assert world.stored == {"a.csv": b"1\n"}


def test_a_name_in_the_stage_is_not_taken_again_without_overwrite(world: World) -> None:
    world.upload(world.offer(), b"1\n")
    with pytest.raises(UploadRefused, match="OVERWRITE"):
        world.upload(world.offer(), b"2\n")
    world.upload(world.offer(), b"1\n")
    assert len(world.texts) == 1
    world.upload(world.offer("PUT file://a.csv @~/in AUTO_COMPRESS=FALSE OVERWRITE=TRUE"), b"2\n")
    assert world.stored == {"a.csv": b"2\n"}


def test_what_is_not_what_the_driver_sent_is_refused(world: World) -> None:
    with pytest.raises(UploadRefused) as refused:
        world.upload(world.offer(), b"1,3\n", x_goog_meta_sfc_digest=digest(b"1,2\n"))
    assert refused.value.status == 422
    assert world.texts == [] and world.entries("upload.refused")[0]["bytes"] == 4


def test_the_go_drivers_digest_of_nothing_is_no_digest(world: World) -> None:
    world.upload(world.offer(), b"1,3\n", x_goog_meta_sfc_digest=digest(b""))
    assert world.stored == {"a.csv": b"1,3\n"}


def test_a_second_try_without_content_is_no_file(world: World) -> None:
    token = world.offer()
    world.fails = SnowflakeUnavailable("The file cannot be written.")
    with pytest.raises(SnowflakeUnavailable):
        world.upload(token, b"1\n")
    world.fails = None
    with pytest.raises(UploadRefused, match="without its content"):
        world.upload(token)
    assert world.stored == {}


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_that_is_too_large_is_refused(make: Make, announced: bool) -> None:
    world = make(file_bytes=10)
    headers = {"content_length": "11"} if announced else {}
    with pytest.raises(UploadRefused) as refused:
        world.upload(world.offer(), b"x" * 6, b"x" * 5, **headers)
    assert refused.value.status == 413 and world.texts == []


def test_a_session_uploads_only_so_much(make: Make) -> None:
    world = make(session_bytes=10)
    world.upload(world.offer(), b"x" * 8)
    with pytest.raises(UploadRefused, match="session_bytes"):
        world.upload(world.offer("PUT file://b.csv @~"), b"x" * 3)


def test_what_is_held_at_once_is_bounded_and_given_back(make: Make) -> None:
    world = make(held_bytes=10)
    with pytest.raises(UploadRefused) as refused:
        world.upload(world.offer(), b"x" * 11)
    assert refused.value.status == 503
    for name in "abc":
        world.upload(world.offer(f"PUT file://{name} @~ AUTO_COMPRESS=FALSE"), b"x" * 9)
    assert sorted(world.stored) == ["a", "b", "c"]


def test_a_stalled_upload_is_dropped(make: Make) -> None:
    world = make(stalled_seconds=0.05)

    async def forever() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    with pytest.raises(UploadRefused) as refused:
        asyncio.run(world.uploads.receive(world.offer(), {}, forever()))
    assert refused.value.status == 408 and not any(world.folder.iterdir())


def test_an_upload_that_breaks_off_leaves_nothing(world: World) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 2_000_000
        raise ConnectionError

    with pytest.raises(ConnectionError):
        asyncio.run(world.uploads.receive(world.offer(), {}, broken()))
    assert world.texts == [] and not any(world.folder.iterdir())
    assert world.session.staging.contents(Stage(None)) == ()
    assert world.uploads._held == 0


@pytest.mark.parametrize("token", ["", "x", "é", "a" * 43])
def test_an_address_that_was_not_given_is_gone(world: World, token: str) -> None:
    world.offer()
    with pytest.raises(UploadGone):
        world.upload(token, b"x")


def test_an_address_ends_with_its_time_and_with_its_session(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(url_seconds=10)
    late, of_closed, dropped = world.offer(), world.offer(), world.offer()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 11)
    with pytest.raises(UploadGone):
        world.upload(late, b"x")
    monkeypatch.undo()
    world.session.closed = True
    with pytest.raises(UploadGone):
        world.upload(of_closed, b"x")
    world.session.closed = False
    world.uploads.drop("ses_1")
    with pytest.raises(UploadGone):
        world.upload(dropped, b"x")


def test_a_stage_of_an_ended_snowflake_session_takes_nothing(world: World) -> None:
    token = world.offer()
    world.session.staging.at("another", strict=False)
    with pytest.raises(UploadGone):
        world.upload(token, b"x")
    assert world.texts == []


def test_open_addresses_are_bounded(make: Make) -> None:
    world = make(open_at_once=2)
    world.offer(), world.offer()
    with pytest.raises(UploadRefused, match="2 uploads open"):
        world.offer()


def test_what_is_not_stored_for_sure_can_be_tried_again_and_not_loaded(world: World) -> None:
    token = world.offer()
    world.fails = SnowflakeUnavailable("The file cannot be written.")
    with pytest.raises(SnowflakeUnavailable):
        world.upload(token, b"1\n")
    assert world.entries("upload.outcome")[0]["status"] == "unknown"
    assert not world.session.staging.known(Stage(None, ("in",)), "a.csv").sure  # type: ignore[union-attr]
    world.fails = None
    world.upload(token, b"1\n")
    assert world.stored == {"a.csv": b"1\n"}
    assert len(world.session.staging.contents(Stage(None))) == 1


def test_a_file_that_a_load_has_deleted_is_written_again(world: World) -> None:
    """Answered as being there, the next load would find nothing and say nothing."""
    world.upload(world.offer(), b"1\n")
    copying = read_loading("COPY INTO t FROM @~/in PURGE = TRUE", HERE)
    assert copying is not None
    world.session.staging.took_effect(copying)
    assert len(world.session.staging.contents(Stage(None))) == 1  # it may still be there
    world.stored.clear()
    world.upload(world.offer(), b"1\n")
    assert world.stored == {"a.csv": b"1\n"}


def test_nothing_is_written_that_the_log_does_not_take(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> int:
        raise StoreUnavailable("full")

    token = world.offer()
    monkeypatch.setattr(world.log, "append", full)
    with pytest.raises(StoreUnavailable):
        world.upload(token, b"1\n")
    assert world.texts == [] and world.stored == {}


def test_while_a_statement_reads_the_stage_an_upload_waits(world: World) -> None:
    token, stage = world.offer(), Stage(None, ("in",))
    with world.session.staging.reading(stage, ()), pytest.raises(UploadRefused) as refused:
        world.upload(token, b"1\n")
    assert refused.value.status == 503
    world.upload(token, b"1\n")


@pytest.mark.parametrize(
    ("sql", "content", "name"),
    [
        ("PUT file://x/a.csv @~", b"\x1f\x8babc", "a.csv.gz"),
        ("PUT file://x/a.csv.gz @~", b"\x1f\x8babc", "a.csv.gz"),
        ("PUT file://x/a.csv @~ AUTO_COMPRESS = FALSE", b"\x1f\x8babc", "a.csv"),
        ("PUT file://x/1 @~ SOURCE_COMPRESSION = GZIP", b"\x1f\x8babc", "1"),
        ("PUT file://x/a.parquet @~", b"PAR1abc", "a.parquet"),
        ("PUT file://x/*.csv @~", b"abc", hashlib.sha256(b"abc").hexdigest()),
        ("PUT file://x/*.csv @~", b"\x1f\x8b", hashlib.sha256(b"\x1f\x8b").hexdigest() + ".gz"),
    ],
)
def test_files_are_called_what_drivers_call_them(
    world: World, sql: str, content: bytes, name: str
) -> None:
    world.upload(world.offer(sql), content)
    assert list(world.stored) == [name]


def test_one_address_takes_all_files_of_a_pattern(world: World) -> None:
    token = world.offer("PUT file:///tmp/x/* @~ AUTO_COMPRESS = FALSE")
    for content in (b"1", b"2", b"1"):
        world.upload(token, content)
    assert sorted(world.stored.values()) == [b"1", b"2"] and len(world.texts) == 2


def test_an_address_that_was_asked_by_another_method_is_not_written_down() -> None:
    """It is still good for the file: who reads the log must not be able to send another one."""
    book, log = MagicMock(), MagicMock()
    book.find.return_value.guarded.id = "ses_1"
    scope = {"type": "http", "method": "GET", "path": f"{UPLOAD_PATH}/ses_1/tokentoken",
             "headers": [(b"authorization", b'Snowflake Token="' + b"t" * 43 + b'"')],
             "query_string": b"", "server": ("gateway", 80), "scheme": "http"}  # fmt: skip
    with structlog.testing.capture_logs() as lines:
        response = asyncio.run(Unserved(book, log).respond(Request(scope)))
    assert response.status_code == 404
    (entry,) = log.append.call_args_list
    assert entry.args[1]["path"] == f"{UPLOAD_PATH}/..."
    assert "tokentoken" not in f"{lines}{entry}{response.body!r}"
