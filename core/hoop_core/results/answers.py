"""What of Snowflake's answer may reach the client, and how the rest of a large result is fetched.

Snowflake delivers large results as presigned URLs that a client fetches past any proxy, and PUT/GET
answers carry cloud credentials. Neither leaves Hoop (I3): chunk URLs are replaced by Hoop's own, whose
secret travels in a header and not in the URL, and only the fields that are known to be harmless pass.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from hoop_core.audit.recording import rowset_to_arrow
from hoop_core.errors import NotServed, ResultBlocked, SnowflakeUnavailable
from hoop_core.masking.detect import Finding
from hoop_core.masking.screen import (
    MOST_BYTES,
    Screened,
    screen_names,
    screen_part,
    screen_rows,
    unpacked_size,
    unreadable,
)
from hoop_core.model import Json, Screen
from hoop_core.parameters import told
from hoop_core.results.taint import Taints, found_json
from hoop_core.snowflake.http import Part
from hoop_core.snowflake.session import upstream_headers

CHUNK_HEADER = "x-hoop-chunk"
CHUNK_PATH = "/hoop/chunks"

# Everything that drivers read of a query's answer, save what is replaced below.
_PASSED = {
    "parameters", "rowtype", "rowset", "rowsetBase64", "total", "returned", "databaseProvider",
    "finalDatabaseName", "finalSchemaName", "finalWarehouseName", "finalRoleName", "numberOfBinds",
    "arrayBindSupported", "statementTypeId", "version", "sendResultTime", "queryResultFormat",
    "queryId", "stats", "metaDataOfBinds",
}  # fmt: skip


_NO_SCREEN, _NO_TAINTS = Screen(), Taints()


@dataclass(slots=True)
class ChunkSet:
    """The remote parts of one result, known to Hoop alone."""

    session_id: str
    statement_id: str
    result_format: str
    urls: tuple[str, ...] = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    secret: str = field(repr=False, default_factory=lambda: secrets.token_urlsafe(32))
    keep: bool = True
    kept_parts: int | None = None
    """Of how many parts the rows are recorded, the first ones; of the others the digest. None: of all."""
    sizes: tuple[int, ...] = ()
    """Bytes of each part, as Snowflake tells them; 0 where it does not."""
    rowtype: tuple[Json, ...] = ()
    labels: tuple[str, ...] | None = None
    screen: Screen = field(default_factory=Screen)
    taints: Taints = field(default_factory=Taints)
    exceptions: tuple[str, ...] = ()
    """The approved exceptions that the parts rest on."""
    recorded: set[int] = field(default_factory=set)
    deliveries: Counter[int] = field(default_factory=Counter)

    def screened(self, content: bytes) -> Screened:
        """One part as the client may see it. Raises ResultBlocked or SnowflakeUnavailable."""
        return screen_part(content, self.result_format, self.rowtype, self.screen, self.labels)

    def found_json(self, findings: Iterable[Finding]) -> list[Json]:
        return found_json(findings, self.taints)

    def admits(self, presented: str) -> bool:
        return hmac.compare_digest(presented.encode(), self.secret.encode())


@dataclass(frozen=True, slots=True)
class TakenOver:
    """The answer as the client may see it, its first part for the recording, and its chunks."""

    answer: Json
    inline: bytes
    rows: int
    chunks: ChunkSet | None
    keep: bool
    """Whether the recording may hold the rows; else it holds what is known about them."""
    findings: tuple[Finding, ...] = ()
    """What the detectors found in the first part."""
    unread: bool = False
    """Whether the first part was not read by the detectors, and did not have to be."""
    labels: tuple[str, ...] = ()
    """What the columns are called to people: see `taint.labels_of`."""
    digest: Json | None = None
    """Size and SHA-256 of the first part, where `inline` does not hold all of it."""


def take_over(
    answer: Json,
    *,
    session_id: str,
    statement_id: str,
    public_url: str,
    keep: bool = True,
    screen: Screen = _NO_SCREEN,
    taints: Taints = _NO_TAINTS,
    labels: tuple[str, ...] | None = None,
    unread: bool = False,
    rows_recorded: int | None = None,
) -> TakenOver:
    """Make Snowflake's successful answer presentable, its first part screened by the detectors.

    Raises NotServed, ResultBlocked or SnowflakeUnavailable.

    `keep` is false for rows that hold protected values (an exception lets this caller see them): the
    recording then has no copy of them. With `unread` the first part passes as it is. `rows_recorded` are the
    first rows that the recording holds, rounded up to whole parts behind the first one; None: all.
    """
    data = answer.get("data") or {}
    if "stageInfo" in data or "src_locations" in data or "presignedUrl" in data:
        raise NotServed(
            "Snowflake answered with the address of a stage, which never leaves Hoop.",
            "Load files through the platform team until PUT is served.",
        )
    passed = {k: v for k, v in data.items() if k in _PASSED}
    # Clients know a statement by Hoop's id: it works for result, status and cancelling, and before Snowflake
    # has seen the statement. Snowflake's own id is in the log, and our id is in its QUERY_TAG.
    passed["queryId"] = statement_id
    passed["parameters"] = _told(data.get("parameters"))
    result_format = str(data.get("queryResultFormat") or "json")
    rows = int(data.get("total") or 0)
    names = tuple(str(c.get("name", "")) for c in passed.get("rowtype") or ())
    labels = names if labels is None else labels
    findings: tuple[Finding, ...] = ()
    if not unread:
        screen_names(enumerate(names), labels, screen)
        findings, unread = _screen_inline(passed, result_format, screen, labels)
    chunks = None
    if data.get("chunks"):
        chunks = ChunkSet(
            session_id=session_id,
            statement_id=statement_id,
            result_format=result_format,
            urls=tuple(str(c["url"]) for c in data["chunks"]),
            headers=upstream_headers(data),
            keep=keep,
            sizes=tuple(_size(c) for c in data["chunks"]),
            labels=labels,
            rowtype=tuple(passed.get("rowtype") or ()),
            kept_parts=_kept_parts(data, rows, rows_recorded),
            screen=screen,
            taints=taints,
        )
        # The session's id leads to the replica that has the parts.
        base = f"{public_url}{CHUNK_PATH}/{session_id}/{statement_id}"
        passed["chunks"] = [
            {**{k: v for k, v in c.items() if k != "url"}, "url": f"{base}/{n}"}
            for n, c in enumerate(data["chunks"])
        ]
        passed["chunkHeaders"] = {CHUNK_HEADER: chunks.secret}
    shown = {"data": passed, "success": True, "code": None, "message": None}
    whole = _inline(passed, result_format)
    inline = whole if rows_recorded is None else _first_rows(whole, rows_recorded)
    digest = None
    if keep and inline is not whole:
        digest = {"size": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}
    return TakenOver(shown, inline, rows, chunks, keep, findings, unread, labels, digest)


def _kept_parts(data: Json, total: int, rows: int | None) -> int | None:
    """The parts that the first `rows` rows of a result stand in, without the one that came with the answer."""
    if rows is None:
        return None
    counts = [int(c.get("rowCount") or 0) for c in data["chunks"]]
    missing, parts = rows - (total - sum(counts)), 0
    while missing > 0 and parts < len(counts):
        missing -= counts[parts]
        parts += 1
    return parts


def _first_rows(stream: bytes, rows: int) -> bytes:
    """The first rows of an Arrow IPC stream: the same bytes when it has no more, none for 0.

    One that cannot be read is not kept: how many rows it would hold is not known.
    """
    if not stream or not rows:
        return b"" if stream else stream
    try:
        table = pa.ipc.open_stream(stream).read_all()
    except (pa.ArrowException, ValueError, OSError):
        return b""
    if table.num_rows <= rows:
        return stream
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.slice(0, rows))
    return bytes(sink.getvalue())


_told_lately: tuple[tuple[Any, list[Json]], ...] = ()
_TOLD_LATELY = 16


def _told(parameters: Any) -> list[Json]:
    """What drivers are told of Snowflake's parameters: the same list as long as they are the same.

    They come with every answer, some sixty of them, and hardly ever change.
    """
    global _told_lately  # noqa: PLW0603 - a memory; whoever overwrites the other's costs nothing
    for given, known in _told_lately:
        if given == parameters:
            return known
    listed = parameters if isinstance(parameters, list) else []
    new = told({str(p.get("name")): p.get("value") for p in listed if isinstance(p, dict)})
    _told_lately = ((parameters, new), *_told_lately[: _TOLD_LATELY - 1])
    return new


def _size(chunk: Json) -> int:
    told = [chunk.get(k) for k in ("uncompressedSize", "compressedSize")]
    return max((n for n in told if isinstance(n, int)), default=0)


def _screen_inline(
    passed: Json, result_format: str, screen: Screen, labels: tuple[str, ...]
) -> tuple[tuple[Finding, ...], bool]:
    """Screen the part that comes with the answer, in place."""
    rowtype = list(passed.get("rowtype") or [])
    if result_format == "arrow":
        screened = screen_part(_inline(passed, result_format), "arrow", rowtype, screen, labels)
        if screened.findings:
            passed["rowsetBase64"] = base64.b64encode(screened.content).decode()
        return screened.findings, not screened.readable
    if result_format != "json" and screen.binds:
        raise unreadable(ValueError(f"form {result_format[:20]}"))
    try:
        rows, findings = screen_rows(list(passed.get("rowset") or []), rowtype, screen, labels)
    except ResultBlocked:
        raise
    except Exception as e:
        if screen.binds:
            raise unreadable(e) from None
        return (), True
    if findings:
        passed["rowset"] = rows
    return findings, False


async def read_whole(part: Part, takes: Callable[[int], None]) -> bytes:
    """A part's bytes, as they are packed. Raises SnowflakeUnavailable, and what `takes` raises: it hears how many
    bytes it is as they come in, and at last how many it will be for those who look into it.
    """
    content = bytearray()
    async for piece in part.pieces():
        content += piece
        if len(content) > MOST_BYTES:
            raise SnowflakeUnavailable(
                f"A part of the result is larger than {MOST_BYTES >> 20} MB.",
                "Select fewer columns or rows.",
            )
        takes(len(content))
    takes(unpacked_size(content))
    return bytes(content)


def _inline(data: dict[str, Any], result_format: str) -> bytes:
    """The first part of the result as an Arrow IPC stream; empty when there is none."""
    if result_format == "arrow":
        try:
            return base64.b64decode(data.get("rowsetBase64") or "", validate=True)
        except binascii.Error:
            raise SnowflakeUnavailable("Snowflake's result cannot be read.") from None
    if data.get("rowset"):
        return rowset_to_arrow(list(data.get("rowtype") or []), list(data["rowset"]))
    return b""
