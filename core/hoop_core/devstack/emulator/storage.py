"""Presigned result chunks: where the service hands out the rest of a large result.

Like a bucket it knows no sessions: an address is good by its signature, until it expires, and with
the encryption key of the result in the request's headers. https://docs.aws.amazon.com/AmazonS3 (SSE-C)
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from hoop_core.devstack.emulator.query import Outcome, Query

PATH = "/stand-in-storage/results"
_ALGORITHM_HEADER = "x-amz-server-side-encryption-customer-algorithm"
_KEY_HEADER = "x-amz-server-side-encryption-customer-key"
_ALGORITHM = "AES256"


class Storage:
    """`find` gives the query of an address as long as its user may still have the data."""

    def __init__(self, find: Callable[[str], Query | None], url_seconds: int) -> None:
        self._find = find
        self._seconds = url_seconds
        self._secret = secrets.token_bytes(32)

    def links(self, query: Query, outcome: Outcome, base: str) -> dict[str, Any]:
        """The keys of an answer's `data` that tell where the chunks are; empty without any."""
        chunks = outcome.encoded.chunks
        if not chunks:
            return {}
        return {
            "chunks": [
                {
                    "url": base + self._signed(f"{PATH}/{query.id}/{i}"),
                    "rowCount": chunk.rows,
                    "uncompressedSize": chunk.uncompressed,
                    "compressedSize": chunk.size,
                }
                for i, chunk in enumerate(chunks)
            ],
            "qrmk": outcome.chunk_key,
            "chunkHeaders": {_ALGORITHM_HEADER: _ALGORITHM, _KEY_HEADER: outcome.chunk_key},
        }

    def _signed(self, path: str) -> str:
        expires = int(time.time()) + self._seconds
        return f"{path}?{urlencode({'Expires': expires, 'Signature': self._sign(path, expires)})}"

    def _sign(self, path: str, expires: int) -> str:
        return hmac.new(self._secret, f"{path}?{expires}".encode(), hashlib.sha256).hexdigest()

    def _allowed(self, request: Request) -> bool:
        expires = request.query_params.get("Expires", "")
        if not expires.isdigit() or len(expires) > 12 or int(expires) < time.time():
            return False
        signature = self._sign(request.url.path, int(expires))
        return hmac.compare_digest(
            signature.encode(), request.query_params.get("Signature", "").encode()
        )

    async def chunk(self, request: Request) -> Response:
        """Everything that is wrong with a request gets the same 403."""
        denied = Response("<Error><Code>AccessDenied</Code></Error>", 403, media_type="text/xml")
        query = self._find(request.path_params["query_id"]) if self._allowed(request) else None
        outcome = query.outcome if query is not None else None
        index = request.path_params["index"]
        if outcome is None or index >= len(outcome.encoded.chunks):
            return denied
        key = request.headers.get(_KEY_HEADER, "").encode()
        if request.headers.get(_ALGORITHM_HEADER) != _ALGORITHM or not hmac.compare_digest(
            outcome.chunk_key.encode(), key
        ):
            return denied
        # A bucket sends what it holds as it holds it, whatever the client accepts.
        body = await asyncio.to_thread(outcome.encoded.body, index)
        return Response(
            body, media_type="application/octet-stream", headers={"Content-Encoding": "gzip"}
        )
