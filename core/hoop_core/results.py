"""What of Snowflake's answer may reach the client, and how the rest of a large result is fetched.

Snowflake delivers large results as presigned URLs that a client fetches past any proxy, and PUT/GET
answers carry cloud credentials. Neither leaves Hoop (I3): chunk URLs are replaced by Hoop's own, whose
secret travels in a header and not in the URL, and only the fields that are known to be harmless pass.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hoop_core.audit.recording import rowset_to_arrow
from hoop_core.errors import NotServed, SnowflakeUnavailable
from hoop_core.model import Json

CHUNK_HEADER = "x-hoop-chunk"
CHUNK_PATH = "/hoop/chunks"

# Everything that drivers read of a query's answer, save what is replaced below.
_PASSED = {
    "parameters", "rowtype", "rowset", "rowsetBase64", "total", "returned", "databaseProvider",
    "finalDatabaseName", "finalSchemaName", "finalWarehouseName", "finalRoleName", "numberOfBinds",
    "arrayBindSupported", "statementTypeId", "version", "sendResultTime", "queryResultFormat",
    "queryId", "stats", "metaDataOfBinds",
}  # fmt: skip
_SSE_C_ALGORITHM = "x-amz-server-side-encryption-customer-algorithm"
_SSE_C_KEY = "x-amz-server-side-encryption-customer-key"


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
    recorded: set[int] = field(default_factory=set)
    deliveries: Counter[int] = field(default_factory=Counter)

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


def take_over(
    answer: Json, *, session_id: str, statement_id: str, public_url: str, keep: bool = True
) -> TakenOver:
    """Make Snowflake's successful answer presentable. Raises NotServed or SnowflakeUnavailable.

    `keep` is false for rows that hold protected values (an exception lets this caller see them): the
    recording then has no copy of them.
    """
    data = answer.get("data") or {}
    if "stageInfo" in data or "src_locations" in data or "presignedUrl" in data:
        raise NotServed(
            "Snowflake answered with the address of a stage, which never leaves Hoop.",
            "Load files through the platform team until PUT is served.",
        )
    passed = {k: v for k, v in data.items() if k in _PASSED}
    result_format = str(data.get("queryResultFormat") or "json")
    chunks = None
    if data.get("chunks"):
        chunks = ChunkSet(
            session_id=session_id,
            statement_id=statement_id,
            result_format=result_format,
            urls=tuple(str(c["url"]) for c in data["chunks"]),
            headers=_upstream_headers(data),
            keep=keep,
        )
        base = f"{public_url}{CHUNK_PATH}/{statement_id}"
        passed["chunks"] = [
            {**{k: v for k, v in c.items() if k != "url"}, "url": f"{base}/{n}"}
            for n, c in enumerate(data["chunks"])
        ]
        passed["chunkHeaders"] = {CHUNK_HEADER: chunks.secret}
    shown = {"data": passed, "success": True, "code": None, "message": None}
    rows = int(data.get("total") or 0)
    return TakenOver(shown, _inline(passed, result_format), rows, chunks, keep)


def _upstream_headers(data: Json) -> dict[str, str]:
    if data.get("chunkHeaders"):
        return {str(k): str(v) for k, v in data["chunkHeaders"].items()}
    if data.get("qrmk"):
        return {_SSE_C_ALGORITHM: "AES256", _SSE_C_KEY: str(data["qrmk"])}
    return {}


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
