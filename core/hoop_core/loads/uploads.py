"""Files on their way from a client into a stage: taken by Hoop, put on record, and written on by Hoop.

A driver that is told to PUT asks Snowflake where to; the answer holds cloud credentials and the key that the
stage's files are encrypted with. Neither leaves Hoop (I3). The driver is given an address of Hoop's own
instead, in the shape of a presigned URL, which it uploads to by plain HTTP. The address is good for one PUT
statement of one session, for writing only, and for a while. What arrives is kept in a file without a name,
which ends with the process, is logged by its size and SHA-256, and is then put into the stage with
credentials that are asked for at that moment.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from hoop_core.audit.log import AuditLog
from hoop_core.config import UploadSettings
from hoop_core.errors import (
    HoopError,
    Refused,
    SessionGone,
    SnowflakeError,
    SnowflakeUnavailable,
    Unavailable,
)
from hoop_core.loads.puts import answer_data, name_of, own_put, request
from hoop_core.model import Json
from hoop_core.records import error_json, sha256
from hoop_core.session.guarded import GuardedSession
from hoop_core.snowflake.session import SnowflakeSession, raise_for_answer
from hoop_core.snowflake.stage_storage import send
from hoop_core.sql.loading import Put

UPLOAD_PATH = "/hoop/uploads"
_BUFFER = 1 << 20
_DIGESTS = ("x-goog-meta-sfc-digest", "sfc-digest")
"""Drivers send the SHA-256 of the file (Base64) along with it."""
_OF_NOTHING = base64.b64encode(hashlib.sha256().digest()).decode()
_SLOWEST = 32 << 10
"""An upload of fewer bytes a second is dropped."""


class UploadRefused(Refused):
    """`status` is the HTTP status: what drivers make of an upload that is refused."""

    errno, sqlstate, reason = 99413, "22023", "UPLOAD"

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        self.status = status
        super().__init__(message, hint)


class UploadGone(SessionGone):
    """Not a known address, or not any more: one answer for all."""


@dataclass(slots=True)
class _Slot:
    """The permission to upload what one PUT statement names."""

    session: GuardedSession
    upstream: SnowflakeSession
    statement_id: str
    put: Put
    until: float
    done: dict[str, str] = field(default_factory=dict)
    """SHA-256 of what was stored, by the file's name."""
    seen: int = 0
    """Bytes of the largest file that has come so far, stored or not."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(slots=True)
class _Taken:
    """What has arrived of a file."""

    content: IO[bytes]
    size: int = 0
    head: bytes = b""
    digest: str = ""


class Uploads:
    """All uploads of this process."""

    def __init__(self, settings: UploadSettings, log: AuditLog, *, public_url: str) -> None:
        self._settings, self._log, self._url = settings, log, public_url
        self._slots: dict[str, _Slot] = {}
        self._taken_by: dict[str, int] = {}
        self._held = 0
        self._writing: set[tuple[str, str]] = set()
        self._sending = asyncio.Semaphore(settings.at_once)

    # ------------------------------------------------------------------ the statement

    def offer(
        self,
        session: GuardedSession,
        upstream: SnowflakeSession,
        statement_id: str,
        put: Put,
        query_id: str | None,
    ) -> Json:
        """The answer to a PUT that Snowflake has allowed: where the client uploads to. Raises UploadRefused."""
        self._forget_old()
        if sum(s.session is session for s in self._slots.values()) >= self._settings.open_at_once:
            raise UploadRefused(
                429,
                f"This session has {self._settings.open_at_once} uploads open.",
                "End some of them first.",
            )
        token = secrets.token_urlsafe(32)
        until = time.monotonic() + self._settings.url_seconds
        self._slots[_digest(token)] = _Slot(session, upstream, statement_id, put, until)
        data = answer_data(put, f"{self._url}{UPLOAD_PATH}/{session.id}/{token}", query_id)
        return {"data": data, "success": True, "code": None, "message": None}

    def drop(self, session_id: str) -> None:
        """The session ends: nothing more is taken for it."""
        for token, slot in list(self._slots.items()):
            if slot.session.id == session_id:
                del self._slots[token]
        self._taken_by.pop(session_id, None)

    def _forget_old(self) -> None:
        now = time.monotonic()
        for token, slot in list(self._slots.items()):
            if now > slot.until and not slot.turn.locked():
                del self._slots[token]

    # ------------------------------------------------------------------ the upload

    def session_of(self, token: str) -> GuardedSession:
        """Whose upload it is. Raises UploadGone."""
        return self._slot(token).session

    def _slot(self, token: str) -> _Slot:
        slot = self._slots.get(_digest(token))
        if slot is None or time.monotonic() > slot.until or slot.session.closed:
            raise UploadGone("This upload is not expected, or not any more.", "PUT the file again.")
        return slot

    async def receive(
        self, token: str, headers: Mapping[str, str], body: AsyncIterator[bytes]
    ) -> None:
        """Take one file and write it to the stage. It is there when this returns.

        The same bytes may come again, for a driver that did not hear the answer; others may not.
        Raises UploadGone, UploadRefused, Unavailable, SnowflakeError.
        """
        slot = self._slot(token)
        async with slot.turn:
            with tempfile.TemporaryFile(dir=self._settings.folder) as content:
                taken = _Taken(content)
                try:
                    await self._take(slot, taken, headers, body)
                    await self._keep(slot, taken)
                except HoopError as e:
                    await self._refused(slot, taken, e)
                    raise
                finally:
                    self._held -= taken.size

    async def _take(
        self, slot: _Slot, taken: _Taken, headers: Mapping[str, str], body: AsyncIterator[bytes]
    ) -> None:
        """Stream the body to disk, within all limits. Raises UploadRefused, Unavailable."""
        announced = headers.get("content-length", "")
        if announced.isdigit() and int(announced) > self._settings.file_bytes:
            raise self._too_large()
        digest = hashlib.sha256()
        seconds = self._settings.stalled_seconds
        begun, buffer = time.monotonic(), bytearray()
        pieces = aiter(body)
        while True:
            try:
                piece = await asyncio.wait_for(anext(pieces, None), seconds)
            except TimeoutError:
                raise UploadRefused(408, "The upload has stalled.", "Try again.") from None
            if piece is not None:
                self._count(slot, taken, len(piece))
                buffer += piece
            if len(buffer) >= _BUFFER or (piece is None and buffer):
                taken.head = taken.head or bytes(buffer[:4])
                await asyncio.to_thread(_write, taken.content, digest, bytes(buffer))
                buffer.clear()
            if piece is None:
                break
            if time.monotonic() - begun > seconds + taken.size / _SLOWEST:
                raise UploadRefused(408, "The upload is too slow.", "Try again.")
        taken.digest = digest.hexdigest()
        if slot.seen and not taken.size:
            # a driver tries again with a stream that it has read to its end
            raise UploadRefused(422, "The upload came again without its content.", "PUT it again.")
        slot.seen = max(slot.seen, taken.size)
        self._check_digest(digest.digest(), headers)

    def _count(self, slot: _Slot, taken: _Taken, more: int) -> None:
        """Each byte counts for the file, for the session, and for what the disk holds at the moment."""
        session = slot.session.id
        if taken.size + more > self._settings.file_bytes:
            raise self._too_large()
        if self._taken_by.get(session, 0) + more > self._settings.session_bytes:
            raise UploadRefused(
                413,
                f"This session has uploaded {self._settings.session_bytes} bytes, which is the most.",
                "Connect again for more, or ask the platform team (uploads.session_bytes).",
            )
        if self._held + more > self._settings.held_bytes:
            raise UploadRefused(503, "Too much is being uploaded at the moment.", "Try again.")
        taken.size += more
        self._held += more
        self._taken_by[session] = self._taken_by.get(session, 0) + more

    def _too_large(self) -> UploadRefused:
        return UploadRefused(
            413,
            f"The file is larger than {self._settings.file_bytes} bytes.",
            "Split it, or ask the platform team (uploads.file_bytes).",
        )

    @staticmethod
    def _check_digest(found: bytes, headers: Mapping[str, str]) -> None:
        told = next((headers[h] for h in _DIGESTS if headers.get(h)), _OF_NOTHING)
        # the Go driver tells the digest of nothing for what it reads from a stream
        if told != _OF_NOTHING and told != base64.b64encode(found).decode():
            raise UploadRefused(
                422, "What arrived is not what the driver says it sent.", "PUT the file again."
            )

    async def _keep(self, slot: _Slot, taken: _Taken) -> None:
        """Into the stage, unless it is there. Raises UploadRefused, Unavailable, SnowflakeError."""
        name = name_of(slot.put, taken.head, taken.digest)
        earlier = slot.done.get(name)
        if earlier == taken.digest:
            return
        if earlier is not None:
            raise UploadRefused(
                409,
                "Another file was uploaded here already.",
                "PUT each file by its own statement.",
            )
        staging, stage = slot.session.staging, slot.put.stage
        there = staging.known(stage, name)
        kept = there is not None and there.sure and not there.purged
        if there is not None and kept and slot.put.option("OVERWRITE", "FALSE") != "TRUE":
            if there.sha256 != taken.digest:
                raise UploadRefused(
                    409,
                    f"The stage has another file {name}.",
                    "PUT ... OVERWRITE = TRUE, or use another name.",
                )
            slot.done[name] = taken.digest
            return
        if not staging.is_at(slot.upstream) or slot.session.closed:
            raise UploadGone("The stage of this upload is gone.", "Create it and PUT again.")
        place = (slot.session.id, f"{stage}/{name}")
        if place in self._writing or not staging.writing(stage, name, taken.digest, taken.size):
            raise UploadRefused(
                503, "The stage is being read, or written in this very place.", "Try again."
            )
        self._writing.add(place)
        try:
            await self._send(slot, taken, name)
            slot.done[name] = taken.digest
            staging.wrote(stage, name, taken.digest, taken.size)
        finally:
            self._writing.discard(place)
            staging.written(stage)

    async def _send(self, slot: _Slot, taken: _Taken, name: str) -> None:
        """On record first (I1), then into the stage, then the outcome on record."""
        text = own_put(slot.put, name).sql
        entry = {
            "statement_id": slot.statement_id,
            "file": f"{slot.put.stage}/{name}",
            "bytes": taken.size,
            "sha256": taken.digest,
            "executed": text,
            "executed_sha256": sha256(text),
        }
        session_id = slot.session.id
        number = await asyncio.to_thread(
            self._log.append, "upload.received", entry, session_id=session_id
        )
        outcome: Json = {"statement_id": slot.statement_id, "received": number}
        try:
            async with self._sending:
                answer = await slot.upstream.query(
                    request(text, f"hoop:{session_id}:{slot.statement_id}:{number}", number),
                    uuid.uuid4(),
                )
                raise_for_answer(answer)
                await asyncio.to_thread(send, answer, name, taken.content)
        except HoopError as e:
            outcome |= {
                "status": "unknown" if isinstance(e, Unavailable) else "failed"
            } | error_json(e)
            await asyncio.to_thread(
                self._log.append, "upload.outcome", outcome, session_id=session_id
            )
            raise
        outcome |= {"status": "stored", "query_id": answer["data"].get("queryId")}
        await asyncio.to_thread(self._log.append, "upload.outcome", outcome, session_id=session_id)

    async def _refused(self, slot: _Slot, taken: _Taken, error: HoopError) -> None:
        if isinstance(error, SnowflakeError | SnowflakeUnavailable):
            return  # it has its outcome
        entry = {"statement_id": slot.statement_id, "bytes": taken.size, **error_json(error)}
        with suppress(HoopError):  # it stays refused
            await asyncio.to_thread(
                self._log.append, "upload.refused", entry, session_id=slot.session.id
            )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "backslashreplace")).hexdigest()


def _write(file: IO[bytes], digest: hashlib._Hash, piece: bytes) -> None:
    try:
        file.write(piece)
        file.flush()
    except OSError as e:
        raise UploadRefused(
            503, f"The file cannot be kept for a moment ({type(e).__name__}).", "Try again."
        ) from None
    digest.update(piece)
