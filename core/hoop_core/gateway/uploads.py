"""Where drivers upload to: the address that the answer to a PUT gives them, in the shape of a presigned URL."""

from __future__ import annotations

import time

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hoop_core.errors import HoopError, SnowflakeError, where
from hoop_core.gateway.forwarding import Forwarding
from hoop_core.gateway.sessions import SessionBook
from hoop_core.gateway.wire import failure
from hoop_core.http import unexpected
from hoop_core.loads.uploads import UPLOAD_PATH, UploadGone, UploadRefused, Uploads

_log = structlog.get_logger(__name__)
_GONE, _REFUSED, _TRY_AGAIN, _FAILED = 403, 422, 503, 500
"""Drivers give up after the first two, and try again after the others."""


class UploadEndpoint:
    """Takes files, and nothing else: no other method is known at this address."""

    def __init__(self, uploads: Uploads, book: SessionBook, forwarding: Forwarding) -> None:
        self._uploads, self._book = uploads, book
        # The replica that holds the session expects the file.
        self._held = forwarding.by_session(self._taken)

    def routes(self) -> list[Route]:
        return [Route(UPLOAD_PATH + "/{session_id}/{token}", self.put, methods=["PUT"])]

    async def put(self, request: Request) -> Response:
        try:
            return await self._held(request)
        except UploadRefused as e:
            return JSONResponse(failure(e), e.status)
        except UploadGone as e:
            return JSONResponse(failure(e), _GONE)
        except SnowflakeError as e:
            return JSONResponse(failure(e), _REFUSED)
        except HoopError as e:
            return JSONResponse(failure(e), _TRY_AGAIN)
        except ClientDisconnect:
            raise
        except Exception as e:
            _log.error("an upload failed inside Hoop", where=where(e))
            return JSONResponse(failure(unexpected()), _FAILED)

    async def _taken(self, request: Request) -> Response:
        await self._take(request)
        return Response(status_code=200)

    async def _take(self, request: Request) -> None:
        """The session is in use for as long as it takes, and so is not closed as idle."""
        token = request.path_params["token"]
        session = self._uploads.session_of(token)
        live = self._book.by_id(request.path_params["session_id"])
        if live is None or live.guarded is not session:
            raise UploadGone("This upload is not expected, or not any more.", "PUT the file again.")
        live.busy += 1
        try:
            await self._uploads.receive(token, request.headers, request.stream())
        finally:
            live.busy -= 1
            live.last_used = time.monotonic()
